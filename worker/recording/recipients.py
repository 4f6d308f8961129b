"""How many recipients an open campaign has. Whoever watches has from it what is still to go, in whichever queue the
mails are, delayed or parked: no queue counts its jobs by campaign."""

import time
from collections.abc import Collection
from dataclasses import dataclass

import redis

from worker.base import keys
from worker.errors import DatabaseUnavailable
from worker.ledger.ledger import LEDGER_SECONDS
from worker.recording.database import Database

#: An app may add rows to a campaign, and remove some.
COUNT_AGAIN_SECONDS = 600.0


@dataclass(slots=True)
class _Known:
    #: What was told when no result was under way.
    exact: int = -1
    rows: int = -1
    counted_at: float = 0.0
    told: int = -1


class Recipients:
    """Tells the number, in `mail:counts:CAMPAIGN`, whenever it's another one."""

    def __init__(self, client: "redis.Redis", database: Database) -> None:
        self._client = client
        self._database = database
        self._known: dict[str, _Known] = {}
        self._too_slow_until = 0.0

    def keep(self, open_campaigns: Collection[str]) -> None:
        """Forgets the others."""
        self._known = {campaign: known for campaign, known in self._known.items() if campaign in open_campaigns}

    def tell(self, campaign_id: str, at_least: int, at_most: int) -> None:
        """Tells how many there are. While results are under way, the counts and the unsent rows leave open which of
        several numbers it is: then it's the last one that was certain, or the number of the campaign's rows. Where both
        are out of the question, mails have no row, or another program sent some and they never come here.

        Raises:
            redis.RedisError, DatabaseRejected
        """
        known = self._known.setdefault(campaign_id, _Known())
        number = known.exact
        if at_least == at_most:
            number = known.exact = at_least
        elif not at_least <= number <= at_most:
            number = self._rows(campaign_id, known, at_least)
            number = number if at_least <= number <= at_most else at_least
        if number == known.told:
            return
        with self._client.pipeline(transaction=False) as pipeline:
            pipeline.hset(keys.counts(campaign_id), "recipients", number)
            pipeline.expire(keys.counts(campaign_id), LEDGER_SECONDS)
            try:
                pipeline.execute()
            except redis.OutOfMemoryError:
                return  # A later look tells it.
        known.told = number

    def _rows(self, campaign_id: str, known: _Known, at_least: int) -> int:
        now = time.monotonic()
        if known.counted_at and now - known.counted_at <= COUNT_AGAIN_SECONDS and known.rows >= at_least:
            return known.rows
        # It may be too slow for this alone, which is to keep no campaign open; and results wait meanwhile, so that it's
        # asked once in a while, for whichever campaign.
        if now < self._too_slow_until:
            return at_least
        try:
            known.rows, known.counted_at = self._database.count_recipients(campaign_id), now
        except DatabaseUnavailable:
            self._too_slow_until = time.monotonic() + COUNT_AGAIN_SECONDS
            return at_least
        return known.rows
