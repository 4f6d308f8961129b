"""Takes messages and jobs for a process, as many as it has room for, and waits where there are none."""

import asyncio
import time
from collections.abc import Callable

import redis

from worker.base.tasks import cancel
from worker.queue.beater import Beater
from worker.queue.bullmq import BullJob, BullQueue
from worker.queue.gate import Gate
from worker.queue.hand import Hand
from worker.queue.message_queue import SORT_EVERY_SECONDS, Fetched, MessageQueue
from worker.queue.redis_trouble import RedisTrouble
from worker.queue.rehearsal import Rehearsal

FETCH_AGAIN_SECONDS = 1.0
#: So many bytes in hand, and no more is fetched: a mail with attachments is there five times over while it's sent.
#: Mails of 10 kB reach a tenth of it.
MOST_BYTES = 10_000_000


class Consumer:
    """One process's."""

    def __init__(
        self,
        queue: MessageQueue,
        jobs: BullQueue | None,
        rehearsal: Rehearsal,
        hand: Hand,
        gate: Gate,
        trouble: RedisTrouble,
        concurrency: int,
        accept: Callable[[str, bytes], None],
        accept_job: Callable[[BullJob], None],
    ) -> None:
        """
        Args:
            jobs: BullMQ's queue, if there's one.
            gate: nothing is fetched while it's closed.
            concurrency: messages and jobs at once; as many again are fetched in advance.
            accept, accept_job: told of each message's id and data, and of each job.
        """
        self._queue = queue
        self._jobs = jobs
        self._rehearsal = rehearsal
        self._hand = hand
        self._gate = gate
        self._trouble = trouble
        self._concurrency = concurrency
        self._accept = accept
        self._accept_job = accept_job
        self._unsorted = 0
        self._listens = False
        self._listening: asyncio.Task[None] | None = None

    async def run(self, stopping: asyncio.Event, beater: Beater) -> None:
        """Fetches until `stopping` is set."""
        wanted = 2 * self._concurrency
        lost = True
        while not stopping.is_set() and await self._gate.passed():
            # While the account lets nothing out, one job at a time asks: a job in hand is locked, and its app can't
            # remove it.
            probing = self._gate.probing
            full = self._hand.unfinished > wanted - max(1, self._concurrency // 2) or self._hand.size >= MOST_BYTES
            if full or (probing and self._hand.jobs):
                self._hand.room.clear()
                await self._until_room()
                continue
            try:
                if lost:
                    # The answer to a fetch may have been lost together with the connection.
                    await self._queue.give_back_all_but(self._hand.messages)
                    if self._jobs is not None:
                        await self._jobs.give_back_all_but(self._hand.jobs)
                    lost = False
                if not await self._fetch(wanted - self._hand.unfinished, 1 if probing else wanted, beater):
                    await self._wait_for_work(beater)
            except redis.RedisError as error:
                lost = True
                self._trouble.report(error)
                await asyncio.sleep(FETCH_AGAIN_SECONDS)

    def listen(self, listens: bool, beater: Beater) -> None:
        """It's this process's turn to listen for BullMQ's jobs, or not."""
        self._listens = listens
        if listens and self._jobs is not None and (self._listening is None or self._listening.done()):
            self._listening = asyncio.create_task(self._listen_on(self._jobs, beater))

    async def stop(self) -> None:
        """Ends the listening."""
        await cancel(*filter(None, [self._listening]))

    async def _fetch(self, wanted: int, jobs_wanted: int, beater: Beater) -> bool:
        """Whether there was something, or may be."""
        fetched = await self._queue.fetch(wanted, jobs_wanted, MOST_BYTES - self._hand.size)
        self._unsorted = fetched.unsorted
        beater.next_due(fetched.due_seconds)
        await self._rehearse(fetched)
        for identity, data in fetched.messages:
            self._hand.take_message(identity, len(data))
            self._accept(identity, data)
        for job in fetched.jobs:
            self._hand.take_job(job.id, len(job.data))
            self._accept_job(job)
        self._trouble.over()
        self.listen(fetched.listens, beater)
        return bool(fetched.messages or fetched.jobs or fetched.unsorted)

    async def _rehearse(self, fetched: Fetched) -> None:
        # All of them before any is worked on: what one does in the meantime isn't another's fault.
        for identity, data in fetched.messages:
            if identity in fetched.suspects:
                await self._rehearsal.of_message(identity, data)
        for job in fetched.jobs:
            if job.was_orphan and self._jobs is not None:
                await self._rehearsal.of_job(f"{self._jobs.name}:{job.id}", job.data)

    async def _until_room(self) -> None:
        while not self._hand.room.is_set():
            try:
                async with asyncio.timeout(SORT_EVERY_SECONDS if self._unsorted else None):
                    await self._hand.room.wait()
            except TimeoutError:
                try:
                    self._unsorted = await self._queue.sort()
                except redis.RedisError as error:
                    self._trouble.report(error)
                    return

    async def _wait_for_work(self, beater: Beater) -> None:
        woken = False
        try:
            while not woken:  # What changes without a message is the beat's matter.
                waiting = asyncio.create_task(self._queue.wait())
                beater.wait_begins(waiting)
                woken = await waiting
        except asyncio.CancelledError:
            if beater.waiting is not None and not beater.waiting.cancelled():
                await cancel(beater.waiting)
                raise
            # The beat found that Redis doesn't answer on its own connection.
        finally:
            beater.wait_ends()

    async def _listen_on(self, queue: BullQueue, beater: Beater) -> None:
        # For as long as it's this process's turn, busy or not: what it hears wakes whoever is idle.
        try:
            while self._listens:
                if (news := await queue.listen()) and news.due_at is not None:
                    beater.next_due(news.due_at - time.time())
        except redis.RedisError as error:
            self._trouble.report(error)
