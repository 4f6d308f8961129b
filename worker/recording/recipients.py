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
    rows: int
    counted_at: float
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
        """Tells how many there are: the campaign's rows, if their number is one of those that the results and the
        unsent rows leave open. Otherwise some have no row, or were sent by another program and never come here: then
        it's `at_least`.

        Raises:
            redis.RedisError, DatabaseRejected
        """
        known, now = self._known.get(campaign_id), time.monotonic()
        if known is None or now - known.counted_at > COUNT_AGAIN_SECONDS or known.rows < at_least:
            rows = self._count(campaign_id, now)
            known = self._known[campaign_id] = _Known(rows, now, known.told if known else -1)
        number = known.rows if at_least <= known.rows <= at_most else at_least
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

    def _count(self, campaign_id: str, now: float) -> int:
        # It may be too slow for this alone, which is to keep no campaign open; and results wait meanwhile, so that it's
        # asked once in a while, for whichever campaign.
        if now < self._too_slow_until:
            return 0
        try:
            return self._database.count_recipients(campaign_id)
        except DatabaseUnavailable:
            self._too_slow_until = time.monotonic() + COUNT_AGAIN_SECONDS
            return 0
