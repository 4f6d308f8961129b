"""Writes results into the database, each campaign's by themselves, so that a bad row or campaign stands alone."""

import logging
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import redis

from worker.errors import DatabaseRejected, DatabaseTooSlow, DatabaseUnavailable, MailWorkerError
from worker.ledger.outbox import Outbox, Result
from worker.recording.campaigns import MISSING_SECONDS, Campaigns
from worker.recording.database import Database
from worker.recording.troubles import Troubles

MOST_AT_ONCE = 1000
#: So many results of a campaign in a row, each alone, or so many seconds in vain, and the campaign waits.
IN_VAIN_RESULTS = 20
IN_VAIN_SECONDS = 15.0

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Fare:
    """How a campaign's results fare: how many go through at once, and what was in vain since the last that did."""

    at_once: int = MOST_AT_ONCE
    results_in_vain: int = 0
    seconds_in_vain: float = 0.0

    @property
    def hopeless(self) -> bool:
        return self.results_in_vain >= IN_VAIN_RESULTS or self.seconds_in_vain >= IN_VAIN_SECONDS


class ResultWriter:
    """What can't be written now stays in the outbox, where it comes back after a minute (`Outbox.abandoned`)."""

    def __init__(self, outbox: Outbox, database: Database, campaigns: Campaigns) -> None:
        self._outbox = outbox
        self._database = database
        self._campaigns = campaigns
        self._fares: dict[tuple[str, bool], _Fare] = defaultdict(_Fare)
        self._troubles = {sent: Troubles() for sent in (True, False)}
        self._missing_reported: set[str] = set()

    def write(self, results: list[Result]) -> None:
        """Writes them, and takes them out of the outbox.

        Raises:
            redis.RedisError, DatabaseUnavailable: one of the two is away; nothing is lost.
        """
        sent: dict[tuple[str, int], list[Result]] = defaultdict(list)
        failed: dict[tuple[str, str], list[Result]] = defaultdict(list)
        for result in results:
            if result.sent:
                # Within a second, `sent_at` is close enough; the requests are that much fewer.
                sent[result.campaign_id, result.at_ms // 1000].append(result)
            else:
                failed[result.campaign_id, result.words].append(result)
        for (campaign_id, _), group in sent.items():
            self._write(campaign_id, group, self._mark_sent, self._park)
        for (campaign_id, _), group in failed.items():
            self._write(campaign_id, group, self._mark_failed, self._forget)

    def _write(
        self,
        campaign_id: str,
        group: list[Result],
        write: Callable[[list[Result]], None],
        refuse: Callable[[Result, str], None],
    ) -> None:
        """Writes a group, in smaller parts when something is wrong, until what's bad stands alone."""
        kind = group[0].sent
        troubles, fare = self._troubles[kind], self._fares[campaign_id, kind]
        if troubles.waits(campaign_id):
            return
        may_grow = True
        while group:
            part = group[: fare.at_once]
            began = time.monotonic()
            try:
                _expecting(write, part)
            except (DatabaseRejected, DatabaseUnavailable) as error:
                if isinstance(error, DatabaseUnavailable):
                    self._database.check()  # If it's everybody's trouble, this says so.
                elif not self._campaign_can_be(campaign_id, group):
                    return
                may_grow = may_grow and not isinstance(error, DatabaseTooSlow)
                fare.seconds_in_vain += time.monotonic() - began
                if len(part) > 1:
                    fare.at_once = len(part) // 2
                else:
                    fare.results_in_vain += 1
                    if isinstance(error, DatabaseRejected):
                        refuse(part[0], str(error))
                    else:
                        logger.error("a result of campaign %s can't be recorded yet: %s", campaign_id, error)
                    group = group[1:]
                if fare.hopeless:
                    # Where many fail together, one of them may be to blame: the next time fewer go at once.
                    troubles.failed(campaign_id, patience=len(part) > 1)
                    logger.error("results of campaign %s wait in the outbox: %s", campaign_id, error)
                    return
            except _NoCampaign as error:
                if troubles.failed(campaign_id) > MISSING_SECONDS:
                    self._campaigns.park(campaign_id, str(error))
                    self._outbox.done(group)
                return
            else:
                group = group[len(part) :]
                troubles.over(campaign_id)
                fare.results_in_vain, fare.seconds_in_vain = 0, 0.0
                if may_grow:
                    fare.at_once = min(fare.at_once * 2, MOST_AT_ONCE)
        if may_grow and fare.at_once == MOST_AT_ONCE:
            self._fares.pop((campaign_id, kind), None)
        else:
            fare.at_once = min(fare.at_once * 2, MOST_AT_ONCE)

    def _campaign_can_be(self, campaign_id: str, group: list[Result]) -> bool:
        """Whether the database takes such an id for a campaign: if not, none of its results will ever go through."""
        try:
            self._database.status(campaign_id)
        except DatabaseRejected as error:
            # The ledger has them all.
            self._outbox.done(group)
            self._troubles[group[0].sent].failed(campaign_id)
            self._campaigns.park(campaign_id, str(error))
            return False
        return True

    def _mark_sent(self, part: list[Result]) -> None:
        campaign_id, at_ms = part[0].campaign_id, part[0].at_ms // 1000 * 1000
        subscriber_ids = [result.subscriber_id for result in part]
        marked = self._database.mark_sent(campaign_id, subscriber_ids, at_ms)
        if not marked.rows and self._database.status(campaign_id) is None:
            raise _NoCampaign(
                "the database has neither it nor the recipients of its mails, as far as this key may see: check its"
                " id and SUPABASE_SECRET_KEY."
            )
        if marked.rows < len(set(subscriber_ids)) and campaign_id not in self._missing_reported:
            self._missing_reported.add(campaign_id)
            logger.warning(
                "campaign %s: the table of recipients has rows for %d of %d mails; is the campaign's id right?",
                campaign_id,
                marked.rows,
                marked.asked,
            )
        self._outbox.done(part)

    def _mark_failed(self, part: list[Result]) -> None:
        # A failed recipient's row stays `sent = false`.
        self._database.mark_failed(part[0].campaign_id, [result.subscriber_id for result in part], part[0].words)
        self._outbox.done(part)

    def _park(self, result: Result, reason: str) -> None:
        self._outbox.park(result, reason)
        logger.error("a result of campaign %s was put aside: %s", result.campaign_id, reason)

    def _forget(self, result: Result, reason: str) -> None:
        # The ledger has the server's words too; nothing else depends on them.
        self._outbox.done([result])
        logger.error("campaign %s: why a mail failed wasn't recorded: %s", result.campaign_id, reason)


def _expecting(write: Callable[[list[Result]], None], part: list[Result]) -> None:
    try:
        write(part)
    except (MailWorkerError, redis.RedisError, _NoCampaign):
        raise
    except Exception as error:
        # What nobody foresaw is as bad as a bad value: it stands alone in the end.
        logger.exception("unexpected error with results of campaign %s", part[0].campaign_id)
        raise DatabaseRejected(f"unexpected error: {error!r}") from error


class _NoCampaign(Exception):
    """The database has no such campaign, or none that the key may see."""
