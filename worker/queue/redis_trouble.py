"""Says once that Redis is in trouble, and that it's over, for all that a process does with its queue."""

import logging
import time

import redis

from worker.base.redis_client import explain

REMIND_AFTER_SECONDS = 300.0

logger = logging.getLogger(__name__)


class RedisTrouble:
    """One process's."""

    def __init__(self) -> None:
        self._sentence = ""
        self._said_at = 0.0

    def report(self, error: redis.RedisError) -> None:
        """Says so, if it's news."""
        sentence, now = explain(error), time.monotonic()
        if sentence != self._sentence or now - self._said_at > REMIND_AFTER_SECONDS:
            logger.error("%s Nothing is lost; trying again.", sentence)
            self._sentence, self._said_at = sentence, now

    def over(self) -> None:
        """A call went through."""
        if self._sentence:
            logger.info("Redis answers again.")
            self._sentence = ""
