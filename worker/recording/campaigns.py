"""When a campaign is complete: every recipient is sent or has failed for good. The database decides it, not a counter,
since messages may be doubled."""

import logging
import time
from dataclasses import dataclass
from typing import Any

import redis

from worker.base import keys
from worker.errors import DatabaseRejected, DatabaseTooSlow
from worker.ledger.uncertain import UncertainMails
from worker.recording.database import Database

#: A campaign is looked at again after this long in any case: rows may have been added or deleted by hand.
LOOK_AGAIN_SECONDS = 60.0
LEDGER_KEPT_SECONDS = 7 * 86_400
#: A web app that sets `sending` after it has queued a campaign may do so after the last mail: for so long, a closed
#: campaign is looked at again, and closed again.
WATCH_CLOSED_SECONDS = 600.0
LOOK_AT_CLOSED_SECONDS = 10.0
LOOK_AT_OPEN_SECONDS = 90.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Look:
    """What was seen of a campaign: it can't be complete before `handled` reaches `complete_from`."""

    at: float
    complete_from: int


class Campaigns:
    """Closes campaigns. Any number of recorders may do it at once."""

    def __init__(self, client: "redis.Redis", database: Database) -> None:
        self._client = client
        self._database = database
        self._uncertain = UncertainMails(client)
        self._looks: dict[str, _Look] = {}

    def close_complete(self) -> float:
        """Looks at each open campaign that may be complete by now, and at those that were closed just now. Returns the
        seconds after which it's worth looking again, though nothing happens.

        Raises:
            redis.RedisError, DatabaseUnavailable: one of the two is away; nothing is lost.
        """
        members: Any = self._client.smembers(keys.OPEN_CAMPAIGNS)
        open_campaigns = {member.decode() for member in members}
        self._looks = {campaign: look for campaign, look in self._looks.items() if campaign in open_campaigns}
        for campaign_id in open_campaigns:
            try:
                self._look_at(campaign_id)
            except DatabaseRejected as error:
                logger.error("campaign %s can't be closed: %s", campaign_id, error)
                self._client.srem(keys.OPEN_CAMPAIGNS, campaign_id)
            except DatabaseTooSlow as error:
                # One campaign's trouble keeps no other one from being closed, and no result from being recorded.
                logger.error("campaign %s can't be closed yet: %s", campaign_id, error)
        return LOOK_AT_CLOSED_SECONDS if self._watch_closed() else LOOK_AT_OPEN_SECONDS

    def _look_at(self, campaign_id: str) -> None:
        sent, failed = self._counts(campaign_id)
        look = self._looks.get(campaign_id)
        now = time.monotonic()
        if look and sent + failed < look.complete_from and now - look.at < LOOK_AGAIN_SECONDS:
            return
        # Read between the counts and the database: it holds all results that are in the one and not in the other.
        waiting: Any = self._client.xlen(keys.OUTBOX)
        unsent = self._database.count_unsent(campaign_id)
        if unsent <= failed and self._all_failed(campaign_id):
            self._close(campaign_id, sent, failed)
        else:
            # Each further result takes at most one recipient off the unsent ones that haven't failed.
            self._looks[campaign_id] = _Look(now, sent + failed + max(unsent - failed - waiting, 0))

    def _watch_closed(self) -> bool:
        found: Any = self._client.zrange(keys.CLOSED_CAMPAIGNS, 0, -1, withscores=True)
        for member, closed_at_ms in found:
            campaign_id = member.decode()
            try:
                if self._database.is_sent(campaign_id):
                    still_watched = time.time() * 1000 - closed_at_ms < WATCH_CLOSED_SECONDS * 1000
                else:
                    # Its status is what its app says after the last mail; or there are more recipients by now.
                    self._client.sadd(keys.OPEN_CAMPAIGNS, campaign_id)
                    still_watched = False
            except DatabaseRejected:
                still_watched = False
            if not still_watched:
                self._client.zrem(keys.CLOSED_CAMPAIGNS, member)
        return bool(found)

    def _counts(self, campaign_id: str) -> tuple[int, int]:
        sent, failed = self._client.hmget(keys.counts(campaign_id), ["sent", "failed"])
        return int(sent or 0), int(failed or 0)

    def _all_failed(self, campaign_id: str) -> bool:
        after = None
        while page := self._database.unsent(campaign_id, after):
            states: Any = self._client.hmget(keys.ledger(campaign_id), page)
            if not all(state and state.startswith(b"f") for state in states):
                return False
            after = page[-1]
        return True

    def _close(self, campaign_id: str, sent: int, failed: int) -> None:
        if self._database.complete_campaign(campaign_id):
            logger.info("campaign %s is complete: %d sent, %d failed.", campaign_id, sent, failed)
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.srem(keys.OPEN_CAMPAIGNS, campaign_id)
            pipeline.zadd(keys.CLOSED_CAMPAIGNS, {campaign_id: time.time() * 1000}, nx=True)
            pipeline.expire(keys.ledger(campaign_id), LEDGER_KEPT_SECONDS)
            pipeline.expire(keys.counts(campaign_id), LEDGER_KEPT_SECONDS)
            pipeline.execute()
        self._uncertain.forget_resent(LEDGER_KEPT_SECONDS)
