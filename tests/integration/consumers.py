"""Worker processes without their programs: what they ask Redis, step by step, so that a test says when each step
happens and who dies in between. The scripts and Redis are the real ones."""

import json
import time
from typing import Any, Protocol

import redis

from testbed.app import App
from worker.base import keys
from worker.base.fence import Fence
from worker.base.redis_client import CountingRedis
from worker.ledger.ledger import Entry, GivenUp, LedgerOptions, QueuedJob, RedisLedger, Verdict
from worker.mail.outcomes import Failed, Retry, Sent, Uncertain
from worker.queue.bullmq import BullJob, BullQueue, JobSettlement
from worker.queue.message_queue import Beat, Fetched, MessageQueue
from worker.queue.processes import Process

BULLMQ = "bull:mail-queue"
ACCOUNT = "account"
#: What a job of the app's gives its mail, where a test doesn't care.
KEEP_ALL = (-1, -1, 1000)


class Consumer:
    """One worker process."""

    def __init__(self, client: CountingRedis, name: str, bullmq: str = BULLMQ, **options: Any) -> None:
        self.name = name
        fence = Fence(client, name)
        self.messages = MessageQueue(client, client, name, name, ACCOUNT, bullmq, fence=fence)
        self.jobs = BullQueue(client, client, bullmq, name)
        self.ledger = RedisLedger(client, name, ACCOUNT, LedgerOptions(bullmq=bullmq, **options), fence)

    async def fetch(self, wanted: int = 10, jobs_wanted: int | None = None) -> Fetched:
        return await self.messages.fetch(wanted, wanted if jobs_wanted is None else jobs_wanted)

    async def take(self, wanted: int = 10) -> list[BullJob]:
        """The jobs of one fetch."""
        return (await self.fetch(wanted)).jobs

    async def beat(self, *, dead_after_ms: int | None = None, idle: bool = False, rest_ms: int = 0) -> Beat:
        process = Process(self.name, "1", 1, 5, time.time())
        return await self.messages.beat(process, dead_after_ms, idle=idle, rest_ms=rest_ms)

    async def settle(self, settlement: JobSettlement) -> None:
        await self.jobs.settle(settlement)

    async def claim(self, job: BullJob, subscriber: str = "s", campaign: str | None = "c") -> Verdict:
        return (await self.ledger.claim(entry_of(job, subscriber, campaign), f"{self.name}:{job.id}"))[0]

    async def record(
        self,
        job: BullJob,
        result: Sent | Failed | GivenUp | Retry | Uncertain,
        subscriber: str = "s",
        campaign: str | None = "c",
        keep: tuple[float, ...] = KEEP_ALL,
    ) -> None:
        entry = entry_of(job, subscriber, campaign, keep)
        await self.ledger.record(entry, f"{self.name}:{job.id}", result)

    async def send(self, job: BullJob, subscriber: str = "s", campaign: str | None = "c") -> None:
        """The whole path of a mail that is accepted."""
        assert await self.claim(job, subscriber, campaign) in (Verdict.CLAIMED, Verdict.UNCERTAIN)
        await self.record(job, Sent("250 2.0.0 taken"), subscriber, campaign)


def entry_of(
    job: BullJob, subscriber: str = "s", campaign: str | None = "c", keep: tuple[float, ...] = KEEP_ALL
) -> Entry:
    """A job's mail."""
    queued = QueuedJob(
        job.id,
        job.timestamp,
        "<1@testbed.example>",
        wanted_again=job.wanted_again,
        may_have_been_sent=job.may_have_been_sent,
        keep_completed=keep,
        keep_failed=keep,
    )
    return Entry(campaign, None if campaign is None else subscriber, f"identity-{job.id}", queued)


def die(queue: "redis.Redis", consumer: Consumer) -> None:
    """It has been silent for long enough to count as dead."""
    queue.zadd(keys.ALIVE, {consumer.name: 1})


def was_here(queue: "redis.Redis", bullmq: str = BULLMQ) -> None:
    """As after the first day: nobody else's jobs are waiting."""
    mapping: Any = {"since": 1, "seen": int(time.time() * 1000)}
    queue.hset(f"{keys.bullmq_own(bullmq)}:state", mapping=mapping)


class MakeConsumer(Protocol):
    """The fixture `process`: makes a process; each has a name of its own."""

    def __call__(self, **options: Any) -> Consumer: ...


def job(number: int, campaign: object = 7, **more: Any) -> dict[str, Any]:
    data = {"campaignId": campaign, "subscriberId": number, "email": f"r{number}@example.org", "html": "x", **more}
    return {"name": f"email-{campaign}-r{number}@example.org", "data": data}


def add(app: App, number: int, campaign: object = 7) -> None:
    app.ask("addBulk", jobs=[job(one, campaign) for one in range(number)])


def subscribers(jobs: list[BullJob]) -> list[tuple[object, int]]:
    data = [json.loads(one.data) for one in jobs]
    return [(one["campaignId"], one["subscriberId"]) for one in data]
