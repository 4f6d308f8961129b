"""The recorder (`mail-worker record`): moves results from the outbox into the database and closes campaigns."""

import logging
import time

import redis

from worker import __version__
from worker.base.redis_client import connect, explain
from worker.base.settings import Settings
from worker.base.stopping import Stop
from worker.errors import DatabaseUnavailable
from worker.ledger.outbox import Outbox, Result
from worker.queue.processes import process_name
from worker.recording.campaigns import Campaigns
from worker.recording.database import SupabaseDatabase
from worker.recording.old_campaigns import OldCampaigns
from worker.recording.results import MOST_AT_ONCE, ResultWriter
from worker.watching.watcher import Watcher

#: Results that come within this time share requests.
GATHER_SECONDS = 0.5
#: Each wait costs a command. Less than the client's socket time-out.
IDLE_WAIT_MS = 110_000
SOCKET_TIMEOUT_SECONDS = 125.0
ABANDONED_EVERY_SECONDS = 110.0
FORGET_EVERY_SECONDS = 3600.0
FIRST_BACKOFF_SECONDS = 1.0
LONGEST_BACKOFF_SECONDS = 30.0

logger = logging.getLogger(__name__)


def run_recorder(settings: Settings, stop: Stop) -> None:
    """Puts the parts together and works until told to stop."""
    name = process_name(settings.host_name, "recorder")
    client = connect(settings.redis_url, socket_timeout_seconds=SOCKET_TIMEOUT_SECONDS, health_check_interval_seconds=0)
    database = SupabaseDatabase(settings)
    watcher = Watcher(client, settings, name)
    watcher.start()
    logger.info("%s %s writes to %s.", name, __version__, settings.supabase_url)
    try:
        outbox, campaigns = Outbox(client, name), Campaigns(client, database)
        old = OldCampaigns(client, settings.bullmq)
        Recorder(outbox, ResultWriter(outbox, database, campaigns), campaigns, old, stop).run()
    finally:
        watcher.stop()
        database.close()
    logger.info("Stopped.")


class Recorder:
    """One recorder; several may run on several hosts."""

    def __init__(
        self, outbox: Outbox, writer: ResultWriter, campaigns: Campaigns, old: OldCampaigns, stop: Stop
    ) -> None:
        self._outbox = outbox
        self._writer = writer
        self._campaigns = campaigns
        self._old = old
        self._stop = stop
        self._backoff_seconds = FIRST_BACKOFF_SECONDS
        self._next_abandoned = 0.0
        self._next_campaigns = 0.0
        self._next_forgetting = 0.0

    def run(self) -> None:
        """Works until told to stop. While the database or Redis is away, results stay in the outbox."""
        opened = started = holding = False
        while not self._stop.is_set():
            try:
                if not opened:
                    self._outbox.open()
                    opened = holding = True
                if not started:
                    self._campaigns.open_parked()
                    started = True
                # What this recorder held before a restart or an outage comes first, once: what can't be written comes
                # back by `Outbox.abandoned`. Nothing new is taken before the database has answered.
                results = self._outbox.own(MOST_AT_ONCE) if holding else self._next_batch()
                holding = holding and bool(results)
                self._writer.write(results)
                if results or time.monotonic() >= self._next_campaigns:
                    self._next_campaigns = time.monotonic() + self._campaigns.close_complete()
                if time.monotonic() >= self._next_forgetting:
                    self._next_forgetting = time.monotonic() + FORGET_EVERY_SECONDS
                    self._campaigns.forget_ledgers()
                    self._old.forget()
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
            if results := self._outbox.abandoned(MOST_AT_ONCE):
                self._next_abandoned = now
                # What nobody can write mustn't keep what is new from being read.
                return results + self._outbox.new(MOST_AT_ONCE, None)
        wait_ms = max(min(IDLE_WAIT_MS, int((self._next_campaigns - now) * 1000)), 1)
        results = self._stop.interrupt(lambda: self._outbox.new(MOST_AT_ONCE, wait_ms)) or []
        if results and len(results) < MOST_AT_ONCE:
            self._stop.wait(GATHER_SECONDS)
            results += self._outbox.new(MOST_AT_ONCE - len(results), None)
        return results

    def _wait(self, sentence: str) -> None:
        logger.error("%s Results wait in the outbox.", sentence)
        self._stop.wait(self._backoff_seconds)
        self._backoff_seconds = min(self._backoff_seconds * 2, LONGEST_BACKOFF_SECONDS)
