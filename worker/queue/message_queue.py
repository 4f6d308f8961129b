"""The queue as a process sees it: Dramatiq's keys and messages, read by scripts that lose and double nothing.

Dramatiq's own consumer polls, takes back a dead process's messages by chance, and holds delayed ones in memory. These
scripts keep its keys, its message format and its producers, and do these three things in Redis, on Redis's clock."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import redis

from worker.base import keys
from worker.base.coalesce import Coalescer
from worker.base.durations import Durations
from worker.base.fence import Fence
from worker.base.redis_client import REQUEST_BYTES, CountingRedis, script
from worker.ledger.ledger import LEDGER_SECONDS
from worker.queue.bullmq import BullJob
from worker.queue.processes import Process, this_month

#: A blocking pop waits so long; longer than its socket time-out it mustn't be (redis_client.connect_async).
WAIT_SECONDS = 110
SORT_AT_ONCE = 1000
#: While no process has room, one of them sorts this often.
SORT_EVERY_SECONDS = 0.5
FETCH_BYTES = 5_000_000
#: Settled messages go together if they come within this time.
SETTLE_LINGER_SECONDS = 0.05
FULL_AGAIN_SECONDS = 5.0

#: Anybody can queue an id that isn't text.
_IDS = ("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class Fetched:
    """Ids and messages, and BullMQ's jobs; `unsorted` ids still wait to be looked at, the next delayed message is due
    in `due_seconds`, None without one. `listens`: this process is the one that listens for BullMQ's jobs. `suspects`
    among the ids were there when a process died."""

    messages: list[tuple[str, bytes]]
    jobs: list[BullJob]
    unsorted: int
    due_seconds: float | None
    listens: bool
    suspects: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Beat:
    """What a heartbeat found: the same as in `Fetched`, the number of dead processes whose messages came back, and
    whether Redis's time went on as the process's own did since its last beat. `rests`: the next one may come later."""

    unsorted: int
    due_seconds: float | None
    dead: int
    listens: bool
    steady: bool
    rests: bool


@dataclass(frozen=True, slots=True)
class Settlement:
    """What is to be done with a fetched message; see lua/settle.lua."""

    action: str
    redis_message_id: str
    values: tuple[str | bytes | int, ...] = ()

    @property
    def size(self) -> int:
        """About so many bytes; a message that comes again later is in it."""
        return sum(len(value) for value in self.values if not isinstance(value, int))


class MessageQueue:
    """One process's queue. Every method raises redis.RedisError while Redis is away."""

    def __init__(
        self,
        client: CountingRedis,
        waiting_client: CountingRedis,
        process: str,
        name: str,
        account: str,
        bullmq: str = "",
        *,
        fence: Fence | None = None,
        listening_seconds: float = 60.0,
        durations: Durations | None = None,
    ) -> None:
        """
        Args:
            waiting_client: for the blocking pop alone; its socket time-out is longer than `WAIT_SECONDS`.
            process: an id of this process's run; supervisord's name of it comes again, this one doesn't.
            name: that name.
            bullmq: BullMQ's queue, `PREFIX:QUEUE`; empty without one.
            fence: shared with the process's ledger.
            listening_seconds: after so long without a beat another process listens for BullMQ's jobs.
            durations: what this process counts, told with each beat.
        """
        self._waiting_client = waiting_client
        self._process = process
        self._name = name
        self._fence = fence or Fence(client, process)
        self._durations = durations or Durations()
        self._last_beat: tuple[int, float] | None = None
        self._listening_ms = int(listening_seconds * 1000)
        self._job_keys = keys.bullmq_keys(bullmq)
        self._reported_commands = self._reported_inside = 0
        self._fetched = keys.fetched(process)
        self._beat_keys = [
            *keys.QUEUE_KEYS,
            keys.PROCESSES,
            keys.in_flight(account),
            keys.connections(account),
            keys.COMMANDS,
            keys.WOKEN,
            *self._job_keys,
            keys.UNCERTAIN,
            keys.PLAIN_HEARTBEATS,
            keys.DURATIONS,
        ]
        self._fetch = client.register_script(
            script("clock", "ids", "lanes", "bullmq", "suspects", "bullmq_take", "rest", "fetch")
        )
        self._beat = client.register_script(
            script("clock", "ids", "lanes", "states", "bullmq", "suspects", "bullmq_take", "rest", "beat")
        )
        self._settle = client.register_script(script("clock", "ids", "lanes", "states", "settle"))
        self._tell_durations = client.register_script(script("durations"))
        self._rehearse = client.register_script(script("suspects", "rehearse"))
        self._sort = client.register_script(script("clock", "ids", "lanes", "sort"))
        self._client = client
        self._settlements: Coalescer[Settlement, None] = Coalescer(
            self._settle_all,
            linger_seconds=SETTLE_LINGER_SECONDS,
            alone_after=redis.ResponseError,
            size=lambda settlement: settlement.size,
            at_most_size=REQUEST_BYTES,
        )

    async def fetch(self, wanted: int, jobs_wanted: int, most_bytes: int = FETCH_BYTES) -> Fetched:
        """Takes up to `wanted` messages and jobs, at once; up to `jobs_wanted` of them are BullMQ's jobs. When it has
        `most_bytes`, it takes no further one."""
        args: list[str | int] = [
            self._process,
            wanted,
            min(most_bytes, FETCH_BYTES),
            SORT_AT_ONCE,
            jobs_wanted,
            self._name,
            self._listening_ms,
        ]
        answer = None
        while answer is None:
            number = self._fence.number
            answer = await self._fetch(
                keys=[*keys.QUEUE_KEYS, self._fetched, keys.WOKEN, *self._job_keys], args=[*args, number]
            )
            if answer is None and number == self._fence.number:
                # It was raised in Redis alone, when that answer got lost.
                await self._fence.up()
        taken, jobs, unsorted, due_ms, listens, suspects = answer
        messages = [(identity.decode(*_IDS), data) for identity, data in zip(taken[::2], taken[1::2], strict=True)]
        taken_jobs = [BullJob.read(job) for job in jobs]
        suspected = frozenset(identity.decode(*_IDS) for identity in suspects)
        return Fetched(messages, taken_jobs, unsorted, _seconds(due_ms), listens == 1, suspected)

    async def rehearsal_begins(self, name: str) -> None:
        """Says that this process tries something that may have killed another one: a message's id, or a job's key."""
        await self._rehearse(keys=[keys.REHEARSALS], args=["begin", self._process, name.encode(*_IDS)])

    async def rehearsal_ends(self, name: str) -> None:
        """It was survived."""
        await self._rehearse(keys=[keys.REHEARSALS], args=["end", self._process, name.encode(*_IDS)])

    async def sort(self) -> int:
        """Sorts waiting messages into lanes, without taking one. Returns how many are left."""
        left: int = await self._sort(
            keys=[*keys.QUEUE_KEYS, keys.SORTING], args=[SORT_AT_ONCE, int(SORT_EVERY_SECONDS * 900)]
        )
        return left

    async def wait(self) -> bool:
        """Waits until a message wakes this process, which the next fetch finds; False after `WAIT_SECONDS`."""
        # The moved id is taken by the next fetch, or found by another idle process if this one dies before that.
        try:
            return (
                await self._waiting_client.blmove(keys.WAITING, keys.WOKEN, WAIT_SECONDS, "LEFT", "RIGHT") is not None
            )
        except redis.OutOfMemoryError:
            # A Redis that is full doesn't let anybody wait; a fetch it allows.
            await asyncio.sleep(FULL_AGAIN_SECONDS)
            return True

    async def beat(self, process: Process, dead_after_ms: int | None, *, idle: bool, rest_ms: int = 0) -> Beat:
        """Says that this process is alive.

        Args:
            dead_after_ms: messages of processes that were silent for so long come back; None: don't judge.
            idle: it has nothing to do.
            rest_ms: by so much the next beat comes later if it rests.
        """
        commands, inside = self._client.commands + self._waiting_client.commands, self._client.commands_inside
        began = time.monotonic()
        last_ms, last_at = self._last_beat or ("", began)
        durations = self._durations.untold()
        unsorted, due_ms, dead, listens, now_ms, steady, rests = await self._beat(
            keys=self._beat_keys,
            args=[
                self._process,
                process.name,
                process.as_json(),
                dead_after_ms or "",
                int(idle),
                commands - self._reported_commands,
                this_month(),
                self._listening_ms,
                LEDGER_SECONDS,
                last_ms,
                int((began - last_at) * 1000),
                rest_ms,
                inside - self._reported_inside,
                *_in_turn(durations),
            ],
        )
        self._durations.told(durations)
        self._last_beat = (now_ms, began)
        self._reported_commands, self._reported_inside = commands, inside
        return Beat(unsorted, _seconds(due_ms), dead, listens == 1, steady == 1, rests == 1)

    async def settle(self, settlement: Settlement) -> None:
        """Ends a message, together with others."""
        await self._settlements(settlement)

    async def give_back_all_but(self, known: "set[str]") -> None:
        """Gives back what was fetched by a call whose answer was lost; if it hasn't arrived yet, it will do nothing."""
        await self._fence.up()
        # A rehearsal whose end was lost is over, too.
        await self._client.hdel(keys.REHEARSALS, self._process)
        await self._settle_all([Settlement("stranded", "", (" ".join(known).encode(*_IDS),))])

    async def leave(self) -> None:
        """Gives back what is left, and takes this process off the list of the living."""
        await self._settlements.flush()
        if durations := self._durations.untold():
            await self._tell_durations(keys=[keys.DURATIONS], args=_in_turn(durations))
            self._durations.told(durations)
        await self.give_back_all_but(set())
        await self._client.zrem(keys.ALIVE, self._process)
        await self._client.hdel(keys.FENCES, self._process)

    async def _settle_all(self, settlements: list[Settlement]) -> list[None]:
        args: list[Any] = []
        for settlement in settlements:
            values = (*settlement.values, "", "", "")[:3]
            args += [settlement.action, settlement.redis_message_id.encode(*_IDS), *values]
        await self._settle(
            keys=[*keys.QUEUE_KEYS, self._fetched, keys.HELD_MESSAGES, keys.WOKEN, keys.UNCERTAIN], args=args
        )
        return [None] * len(settlements)


def _in_turn(numbers: dict[str, int]) -> list[str | int]:
    return [value for pair in numbers.items() for value in pair]


def _seconds(milliseconds: int | bytes) -> float | None:
    return milliseconds / 1000 if isinstance(milliseconds, int) else None
