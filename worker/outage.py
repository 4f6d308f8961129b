"""Waiting while no mail can leave."""

import asyncio
import logging
import time

from worker.errors import TransportUnavailable

logger = logging.getLogger(__name__)

FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 30.0
REMIND_AFTER_SECONDS = 300.0


class Outage:
    """Shared by all mails of a process, so that a hundred of them report one outage once, and wait together."""

    def __init__(self, stopping: asyncio.Event) -> None:
        self._stopping = stopping
        self._wait_seconds = FIRST_WAIT_SECONDS
        self._next_try = 0.0
        self._sentence = ""
        self._reported_at = 0.0

    async def wait(self, error: TransportUnavailable) -> bool:
        """Reports `error` if it's news, then waits for the next try; False when the process is stopping instead."""
        now = time.monotonic()
        if str(error) != self._sentence or now - self._reported_at > REMIND_AFTER_SECONDS:
            logger.error("%s Mails wait; no attempt is spent.", error)
            self._sentence, self._reported_at = str(error), now
        if now >= self._next_try:
            self._next_try = now + self._wait_seconds
            self._wait_seconds = min(self._wait_seconds * 2, LONGEST_WAIT_SECONDS)
        try:
            async with asyncio.timeout(self._next_try - now):
                await self._stopping.wait()
        except TimeoutError:
            return True
        return False

    def over(self) -> None:
        """A server was reached again."""
        if self._sentence:
            logger.info("Mails leave again.")
        self._sentence, self._wait_seconds, self._next_try = "", FIRST_WAIT_SECONDS, 0.0
