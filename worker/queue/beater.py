"""Says in Redis that the process is alive, and takes care of what dead ones have left (lua/beat.lua)."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import redis

from worker.queue.gate import Gate
from worker.queue.hand import Hand
from worker.queue.message_queue import WAIT_SECONDS, MessageQueue
from worker.queue.processes import Process
from worker.queue.redis_trouble import RedisTrouble

BEAT_AGAIN_SECONDS = 1.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rhythm:
    """When a process is taken for dead, in seconds of silence; it beats twice in that time. One that rests, since
    nobody has anything, beats as often as its blocking pop ends, and counts as dead so much later."""

    dead_after_seconds: float

    @property
    def beat_seconds(self) -> float:
        return self.dead_after_seconds / 2

    @property
    def rest_seconds(self) -> float:
        return max(self.beat_seconds, WAIT_SECONDS)


class Beater:
    """One process's heart."""

    def __init__(
        self,
        queue: MessageQueue,
        hand: Hand,
        gate: Gate,
        trouble: RedisTrouble,
        rhythm: Rhythm,
        describe: Callable[[], Process],
        listen: Callable[[bool], None],
    ) -> None:
        """
        Args:
            describe: what the process tells about itself with each beat.
            listen: told whether this process is the one that listens for BullMQ's jobs.
        """
        self._queue = queue
        self._hand = hand
        self._gate = gate
        self._trouble = trouble
        self._rhythm = rhythm
        self._describe = describe
        self._listen = listen
        #: The blocking pop in which an idle process waits.
        self.waiting: asyncio.Task[bool] | None = None
        self._waits = 0
        self._due_at: float | None = None
        self._changed = asyncio.Event()
        self._last_beat = 0.0
        self._rests = False
        self._beating_since: float | None = None
        self._first_mail_is_told = False

    async def run(self) -> None:
        """Beats until it's cancelled."""
        pause = 0.0
        while True:
            await self._until_next_beat(time.monotonic(), pause)
            try:
                await self._beat()
                pause = self._rhythm.beat_seconds
            except redis.RedisError as error:
                self._trouble.report(error)
                if isinstance(error, redis.TimeoutError) and self.waiting is not None:
                    # The blocking pop's socket may have stalled as well, and would wait on.
                    self.waiting.cancel()
                self._rests = False
                pause = BEAT_AGAIN_SECONDS

    def wait_begins(self, waiting: "asyncio.Task[bool]") -> None:
        """The process is idle from now on."""
        self.waiting = waiting
        self._changed.set()

    def wait_ends(self) -> None:
        """It was woken."""
        self.waiting = None
        self._waits += 1
        if self._rests:
            self._rests = False
            self._changed.set()

    def settled(self) -> None:
        """A message or job is settled: a deploy waits for word of the first mail."""
        if not self._first_mail_is_told:
            self._changed.set()

    def next_due(self, seconds: float | None) -> None:
        """Something is due in so many seconds. An earlier time that lies ahead stays: Redis doesn't know yet what this
        process has just postponed."""
        now = time.monotonic()
        if self._due_at is not None and self._due_at <= now:
            self._due_at = None
        if seconds is not None and (self._due_at is None or now + seconds < self._due_at):
            self._due_at = now + seconds
            self._changed.set()

    async def _until_next_beat(self, last: float, pause: float) -> None:
        # An idle process beats early when a delayed message is due: that brings it back. A busy one fetches anyway.
        while True:
            self._changed.clear()
            if not self._first_mail_is_told and self._describe().sent:
                self._first_mail_is_told = True
                return
            at = last + (self._rhythm.rest_seconds if self._rests else pause)
            early = self._due_at if self.waiting is not None and self._due_at is not None else at
            seconds = min(early, at) - time.monotonic()
            try:
                async with asyncio.timeout(max(seconds, 0.0)):
                    await self._changed.wait()
            except TimeoutError:
                return

    async def _beat(self) -> None:
        now = time.monotonic()
        idle = self.waiting is not None and self._hand.is_empty and self._gate.seconds == 0
        waits = self._waits
        rest_ms = int((self._rhythm.rest_seconds - self._rhythm.beat_seconds) * 1000)
        beat = await self._queue.beat(self._describe(), self._dead_after_ms(now), idle=idle, rest_ms=rest_ms)
        # It may have been woken meanwhile.
        self._rests = beat.rests and waits == self._waits
        if self._beating_since is None or not beat.steady:
            self._beating_since = now
        self._last_beat = now
        self.next_due(beat.due_seconds)
        self._listen(beat.listens)
        self._trouble.over()
        if beat.dead:
            logger.warning("%d processes died; their mails are worked on again.", beat.dead)

    def _dead_after_ms(self, now: float) -> int | None:
        # After Redis was away everybody looks dead. Who judges must have beaten all the while that the others didn't.
        if self._beating_since is not None and now - self._last_beat > self._rhythm.dead_after_seconds:
            self._beating_since = None
        if self._beating_since is None or now - self._beating_since < self._rhythm.dead_after_seconds:
            return None
        return int(self._rhythm.dead_after_seconds * 1000)
