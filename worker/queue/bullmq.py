"""The web app's BullMQ queue, as one process sees it. Its jobs come with the messages (message_queue.py); here they are
listened for, and settled where no result finishes them (ledger.py). lua/bullmq.lua describes its keys.

The workers take the jobs themselves, and nothing forwards them: docs/architecture.md says why."""

import base64
import hashlib
import json
from dataclasses import dataclass

import redis

from worker.base import keys
from worker.base.coalesce import Coalescer
from worker.base.redis_client import CountingRedis, encodable, script
from worker.ledger.ledger import Entry

#: A blocking pop for new jobs waits so long; longer than its socket time-out it mustn't be.
LISTEN_SECONDS = 120
#: Settled jobs go together if they come within this time.
SETTLE_LINGER_SECONDS = 0.05
REASON_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class BullJob:
    """A job that this process has taken. `data` and `options` are JSON that nobody has checked."""

    id: str
    data: bytes
    options: bytes
    #: In ms since 1970 by the clock of the app, as it has written it.
    timestamp: str
    attempts_made: int
    slow_downs: int
    #: How often the server's reply to it was lost.
    losses: int
    #: It failed for good before, and somebody wants it tried again.
    wanted_again: bool
    #: Another worker took it and never finished.
    may_have_been_sent: bool
    #: The process of ours that had it died: it may be what killed it.
    was_orphan: bool
    #: It's older than these workers: others may have sent it, and its row tells.
    ask_database: bool
    #: Why it is to fail; BullMQ puts that off to whoever takes it next.
    failed_by_queue: str

    @classmethod
    def read(cls, fields: list[bytes]) -> "BullJob":
        """From what lua/bullmq_take.lua returns."""
        identity, data, options, timestamp, attempts, slow_downs, losses, marks, reason = fields
        return cls(
            id=identity.decode(errors="replace"),
            data=data,
            options=options,
            timestamp=timestamp.decode(errors="replace"),
            attempts_made=_whole(attempts),
            slow_downs=_whole(slow_downs),
            losses=_whole(losses),
            wanted_again=b"a" in marks,
            may_have_been_sent=b"s" in marks,
            was_orphan=b"o" in marks,
            ask_database=b"r" in marks or b"s" in marks,
            failed_by_queue=reason.decode(errors="replace"),
        )


@dataclass(frozen=True, slots=True)
class JobSettlement:
    """What is to be done with a job; see lua/jobs.lua."""

    action: str
    job_id: str
    timestamp: str
    values: tuple[object, ...] = ()
    #: Until it's due again.
    delay_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class News:
    """There are jobs; or one will be due, in seconds since 1970: nothing in Redis says that twice."""

    due_at: float | None


def worker_client_name(bullmq: str, name: str) -> str:
    """How a worker's connection must be called so that `queue.getWorkers()` finds it; empty without a queue."""
    prefix, _, queue = bullmq.rpartition(":")
    return f"{prefix}:{base64.b64encode(queue.encode()).decode()}:w:{name}" if bullmq else ""


def already_done(entry: Entry) -> JobSettlement:
    """The ledger has its result: completed if the mail was sent, or else failed."""
    job = entry.job
    if job is None:
        raise ValueError("the entry has no job")
    values = (entry.for_script(), job.returnvalue("sent before"), job.keep_completed, job.keep_failed)
    return JobSettlement("done", job.id, job.timestamp, values)


def mail_identity(queue: str, job_id: str, timestamp: str) -> str:
    """What the mail of a job is known by. Ids begin at 1 again after `obliterate`; with the time they don't come twice.

    Args:
        queue: `PREFIX:QUEUE`.
        timestamp: as the app has written it.
    """
    text = f"{queue}\0{job_id}\0{timestamp}"
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32]


def fail(job: BullJob, reason: str, keep_failed: list[float]) -> JobSettlement:
    """It can't become a mail."""
    return JobSettlement("fail", job.id, job.timestamp, (_words(reason), keep_failed))


def delay(job: BullJob, delay_ms: int, *, spent: bool, reason: str, slow_downs: int, losses: int = 0) -> JobSettlement:
    """Tried again later. `spent`: an attempt is."""
    values = (delay_ms, int(spent), _words(reason), slow_downs, losses)
    return JobSettlement("delay", job.id, job.timestamp, values, delay_ms / 1000)


def back(job: BullJob, entry: Entry | None) -> JobSettlement:
    """Untouched to the next one that asks."""
    return JobSettlement("back", job.id, job.timestamp, (entry.for_script() if entry else False,))


def park(job: BullJob, campaign_id: str) -> JobSettlement:
    """Out of the way until its campaign is resumed."""
    return JobSettlement("park", job.id, job.timestamp, (campaign_id,))


def hold(job: BullJob, name: str, reason: str) -> JobSettlement:
    """It failed, and waits for an operator under this name."""
    return JobSettlement("hold", job.id, job.timestamp, (name, _words(reason)))


class BullQueue:
    """Every method raises redis.RedisError while Redis is away."""

    def __init__(self, client: CountingRedis, listening_client: CountingRedis, bullmq: str, process: str) -> None:
        """
        Args:
            listening_client: for the blocking pop alone; its socket time-out is longer than `LISTEN_SECONDS`.
            bullmq: `PREFIX:QUEUE`.
        """
        self._listening_client = listening_client
        self.name = bullmq
        self._process = process
        self._script = client.register_script(script("clock", "states", "bullmq", "jobs"))
        others = [keys.HELD_MESSAGES, keys.WAITING, keys.ALIVE, keys.CONTROL, keys.UNCERTAIN]
        self._keys = [*keys.bullmq_keys(bullmq), *others]
        self._settlements: Coalescer[JobSettlement, None] = Coalescer(
            self._settle_all, linger_seconds=SETTLE_LINGER_SECONDS, alone_after=redis.ResponseError
        )

    async def listen(self) -> News | None:
        """Waits for news of jobs, None after `LISTEN_SECONDS`. Wakes an idle process, maybe this one, if there's
        something to take."""
        marker = await self._listening_client.bzpopmin(f"{self.name}:marker", LISTEN_SECONDS)
        if marker is None:
            return None
        due_ms = float(marker[2])
        if due_ms > 0:
            return News(due_ms / 1000)
        await self._listening_client.rpush(keys.WAITING, keys.WAKE)
        return News(None)

    async def settle(self, settlement: JobSettlement) -> None:
        """Ends a job's stay with this process, together with others'."""
        await self._settlements(settlement)

    async def give_back_all_but(self, known: "set[str]") -> None:
        """Gives back what was taken by a call whose answer was lost."""
        await self._settle_all([JobSettlement("stranded", "", "", (sorted(known),))])

    async def leave(self) -> None:
        """Gives back what is left, and lets somebody else listen."""
        await self._settlements.flush()
        await self._settle_all([JobSettlement("stranded", "", "", ([],)), JobSettlement("leave", "", "")])

    async def _settle_all(self, settlements: list[JobSettlement]) -> list[None]:
        items = [[one.action, one.job_id, one.timestamp, *one.values] for one in settlements]
        await self._script(keys=self._keys, args=[self._process, json.dumps(items)])
        return [None] * len(settlements)


def _words(reason: str) -> str:
    return encodable(reason[:REASON_CHARACTERS])


def _whole(number: bytes) -> int:
    try:
        return int(float(number))
    except (ValueError, OverflowError):
        return 0
