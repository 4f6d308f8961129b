"""The recorder (`mail-worker record`): moves results from the outbox into the database and closes campaigns."""

import logging
import time
from collections import defaultdict

import redis

from worker import __version__
from worker.base.redis_client import connect, explain
from worker.base.settings import Settings
from worker.base.stopping import Stop
from worker.errors import DatabaseRejected, DatabaseTooSlow, DatabaseUnavailable
from worker.ledger.outbox import Outbox, Result
from worker.queue.processes import Heartbeat, process_name
from worker.recording.campaigns import Campaigns
from worker.recording.database import Database, SupabaseDatabase

BATCH_RESULTS = 1000
#: Results that come within this time share requests.
GATHER_SECONDS = 0.5
#: Each wait costs a command. Less than the client's socket time-out.
IDLE_WAIT_MS = 45_000
SOCKET_TIMEOUT_SECONDS = 60.0
ABANDONED_EVERY_SECONDS = 90.0
#: A group of this size must go through in one request, however slow the database is.
SMALLEST_SLOW_GROUP = 10
FIRST_BACKOFF_SECONDS = 1.0
LONGEST_BACKOFF_SECONDS = 30.0

logger = logging.getLogger(__name__)


def run_recorder(settings: Settings, stop: Stop) -> None:
    """Puts the parts together and works until told to stop."""
    name = process_name(settings.host_name, "recorder")
    client = connect(settings.redis_url, socket_timeout_seconds=SOCKET_TIMEOUT_SECONDS, health_check_interval_seconds=0)
    database = SupabaseDatabase(settings)
    heartbeat = Heartbeat(client, name, concurrency=0)
    heartbeat.start()
    logger.info("%s %s writes to %s.", name, __version__, settings.supabase_url)
    try:
        Recorder(Outbox(client, name), database, Campaigns(client, database), stop).run()
    finally:
        heartbeat.stop()
        database.close()
    logger.info("Stopped.")


class Recorder:
    """One recorder; several may run on several hosts."""

    def __init__(self, outbox: Outbox, database: Database, campaigns: Campaigns, stop: Stop) -> None:
        self._outbox = outbox
        self._database = database
        self._campaigns = campaigns
        self._stop = stop
        self._backoff_seconds = FIRST_BACKOFF_SECONDS
        self._next_abandoned = 0.0
        self._next_campaigns = 0.0
        self._missing_reported: set[str] = set()

    def run(self) -> None:
        """Works until told to stop. While the database or Redis is away, results stay in the outbox."""
        opened = False
        while not self._stop.is_set():
            try:
                if not opened:
                    self._outbox.open()
                # What this recorder held before a restart or an outage comes first.
                results = self._next_batch() if opened else self._outbox.own(BATCH_RESULTS)
                opened = opened or not results
                self._record(results)
                if results or time.monotonic() >= self._next_campaigns:
                    self._next_campaigns = time.monotonic() + self._campaigns.close_complete()
                self._backoff_seconds = FIRST_BACKOFF_SECONDS
            except DatabaseUnavailable as error:
                opened = False
                self._wait(str(error))
            except redis.RedisError as error:
                opened = False
                self._wait(explain(error))

    def _next_batch(self) -> list[Result]:
        now = time.monotonic()
        if now >= self._next_abandoned:
            self._next_abandoned = now + ABANDONED_EVERY_SECONDS
            if results := self._outbox.abandoned(BATCH_RESULTS):
                self._next_abandoned = now
                return results
        wait_ms = max(min(IDLE_WAIT_MS, int((self._next_campaigns - now) * 1000)), 1)
        results = self._stop.interrupt(lambda: self._outbox.new(BATCH_RESULTS, wait_ms)) or []
        if results and len(results) < BATCH_RESULTS:
            self._stop.wait(GATHER_SECONDS)
            results += self._outbox.new(BATCH_RESULTS - len(results), None)
        return results

    def _record(self, results: list[Result]) -> None:
        if not results:
            return
        groups: dict[tuple[str, int], list[Result]] = defaultdict(list)
        for result in results:
            if result.sent:
                # Within a second, `sent_at` is close enough; the requests are that much fewer.
                groups[result.campaign_id, result.at_ms // 1000].append(result)
        for (campaign_id, second), group in groups.items():
            self._mark_sent(campaign_id, second * 1000, group)
        failures: dict[tuple[str, str], list[Result]] = defaultdict(list)
        for result in results:
            if not result.sent:
                failures[result.campaign_id, result.words].append(result)
        for (campaign_id, words), group in failures.items():
            self._mark_failed(campaign_id, words, group)

    def _mark_failed(self, campaign_id: str, words: str, group: list[Result]) -> None:
        # A failed recipient's row stays `sent = false`.
        try:
            self._database.mark_failed(campaign_id, [result.subscriber_id for result in group], words)
        except DatabaseTooSlow:
            if len(group) <= SMALLEST_SLOW_GROUP:
                raise
            for half in _halves(group):
                self._mark_failed(campaign_id, words, half)
            return
        except DatabaseRejected as error:
            # The ledger has the reason too; nothing else depends on it.
            logger.error("campaign %s: why %d mails failed wasn't recorded: %s", campaign_id, len(group), error)
        self._outbox.done(group)

    def _mark_sent(self, campaign_id: str, at_ms: int, group: list[Result]) -> None:
        try:
            marked = self._database.mark_sent(campaign_id, [result.subscriber_id for result in group], at_ms)
        except (DatabaseTooSlow, DatabaseRejected) as error:
            if isinstance(error, DatabaseTooSlow) and len(group) <= SMALLEST_SLOW_GROUP:
                raise
            if isinstance(error, DatabaseRejected) and len(group) == 1:
                self._outbox.park(group[0], str(error))
                logger.error("a result of campaign %s was put aside: %s", campaign_id, error)
                return
            # One bad value spoils its whole request, so halve until it stands alone.
            for half in _halves(group):
                self._mark_sent(campaign_id, at_ms, half)
            return
        if marked.rows < len({result.subscriber_id for result in group}) and campaign_id not in self._missing_reported:
            self._missing_reported.add(campaign_id)
            logger.warning(
                "campaign %s: the table of recipients has rows for %d of %d mails; is the campaign's id right?",
                campaign_id,
                marked.rows,
                marked.asked,
            )
        self._outbox.done(group)

    def _wait(self, sentence: str) -> None:
        logger.error("%s Results wait in the outbox.", sentence)
        self._stop.wait(self._backoff_seconds)
        self._backoff_seconds = min(self._backoff_seconds * 2, LONGEST_BACKOFF_SECONDS)


def _halves(group: list[Result]) -> tuple[list[Result], list[Result]]:
    middle = len(group) // 2
    return group[:middle], group[middle:]
