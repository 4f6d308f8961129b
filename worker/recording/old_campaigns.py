"""Forgets which campaigns were paused, cancelled or given a priority when they are long over."""

import logging
from typing import Any

import redis

from worker.base import keys
from worker.base.redis_client import script
from worker.ledger.ledger import LEDGER_SECONDS

AT_ONCE = 100

logger = logging.getLogger(__name__)


class OldCampaigns:
    """Any number of recorders may do it at once."""

    def __init__(self, client: "redis.Redis", bullmq: str) -> None:
        """
        Args:
            bullmq: BullMQ's queue, `PREFIX:QUEUE`; empty without one.
        """
        self._script = client.register_script(script("clock", "ids", "lanes", "bullmq", "forget_control"))
        self._keys = [
            *keys.QUEUE_KEYS,
            keys.OPEN_CAMPAIGNS,
            *keys.bullmq_keys(bullmq),
            keys.IDLE_CAMPAIGNS,
            keys.PARKED_CAMPAIGNS,
            keys.WOKEN,
        ]

    def forget(self) -> None:
        """Looks through all of them. One of which nothing was known or could wait for as long as a ledger lives is
        forgotten.

        Raises:
            redis.RedisError: Redis is away.
        """
        for key in (keys.CONTROL, keys.PRIORITIES):
            cursor: Any = 0
            while True:
                answer: Any = self._script(keys=[*self._keys, key], args=[LEDGER_SECONDS * 1000, cursor, AT_ONCE])
                cursor, *forgotten = answer
                for campaign in forgotten:
                    logger.info(
                        "campaign %s is forgotten, paused or cancelled as it was: nothing of it was there for %d days.",
                        campaign.decode(errors="replace"),
                        LEDGER_SECONDS // 86_400,
                    )
                if int(cursor) == 0:
                    break
