"""What we write into BullMQ's keys is what the npm package writes: each case is done by a worker of either major in one
database and by ours in another, and then every key is compared."""

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, cast

import pytest
import redis

from testbed.app import App, Major
from testbed.services import Services
from tests.integration.consumers import BULLMQ, Consumer, was_here
from tests.integration.programs import wait_until
from worker.base import keys
from worker.base.redis_client import connect_async
from worker.base.settings import Secret
from worker.mail.outcomes import Failed, Sent
from worker.queue import bullmq
from worker.queue.bullmq import BullJob
from worker.queue.bullmq_options import Keep, read_options

DATA = {"campaignId": 7, "subscriberId": 1, "email": "a@example.org", "subject": "s", "html": "<p>x/y</p>"}
REPLY = "250 2.0.0 taken"
VALUE = {"messageId": "<1@testbed.example>", "response": REPLY}
WORDS = "550 5.1.1 no such user"
SOFT = "450 4.2.0 busy"
NAME = "host/worker"


class Theirs:
    """BullMQ's own worker, a step at a time."""

    def __init__(self, app: App, client: "redis.Redis") -> None:
        self.app = app
        self.redis = client
        self._token = 0

    async def take(self) -> str | None:
        self._token += 1
        job = self.app.ask("take", token=f"t{self._token}", options={"name": NAME})
        return job and str(job["id"])

    async def complete(self) -> None:
        self.app.ask("complete", token=f"t{self._token}", value=VALUE)

    async def fail(self) -> None:
        self.app.ask("fail", token=f"t{self._token}", message=WORDS, unrecoverable=True)

    async def fail_softly(self) -> None:
        self.app.ask("fail", token=f"t{self._token}", message=SOFT)

    async def sweep(self) -> None:
        self.app.ask("sweep")


class Ours:
    """A worker process of this project."""

    def __init__(self, app: App, client: "redis.Redis", consumer: Consumer) -> None:
        self.app = app
        self.redis = client
        self._consumer = consumer
        self._job: BullJob | None = None

    @property
    def job(self) -> BullJob:
        assert self._job is not None
        return self._job

    async def take(self) -> str | None:
        jobs = await self._consumer.take(1)
        self._job = jobs[0] if jobs else None
        return jobs[0].id if jobs else None

    def _keep(self, state: str) -> tuple[float, ...]:
        options = read_options(self.job.options, Keep(), Keep())
        return tuple((options.keep_completed if state == "completed" else options.keep_failed).for_script())

    async def complete(self) -> None:
        await self._consumer.claim(self.job, self.job.id)
        await self._consumer.record(self.job, Sent(REPLY), self.job.id, keep=self._keep("completed"))

    async def fail(self) -> None:
        await self._consumer.claim(self.job, self.job.id)
        await self._consumer.record(self.job, Failed(WORDS), self.job.id, keep=self._keep("failed"))

    async def fail_softly(self) -> None:
        options = read_options(self.job.options, Keep(), Keep())
        assert self.job.attempts_made + 1 < (options.attempts or 1)
        delay_ms = options.delay_ms(self.job.attempts_made + 1, chance=0.0)
        await self._consumer.settle(bullmq.delay(self.job, delay_ms, spent=True, reason=SOFT, slow_downs=0))

    async def sweep(self) -> None:
        await self._consumer.beat()


Side = Theirs | Ours
Scenario = Callable[[Side], Awaitable[None]]


@pytest.fixture
def theirs(services: Services, major: Major) -> Iterator[Theirs]:
    url = services.redis_url.removesuffix("/0") + "/1"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        with App(major, url) as app:
            yield Theirs(app, client)
        client.flushdb()


@pytest.fixture
async def ours(services: Services, major: Major) -> AsyncIterator[Ours]:
    url = services.redis_url.removesuffix("/0") + "/2"
    connection = connect_async(Secret(url), 4)
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        was_here(client)
        with App(major, url) as app:
            yield Ours(app, client, Consumer(connection, NAME))
        await connection.aclose()
        client.flushdb()


def add(side: Side, **opts: Any) -> str:
    identity: str = side.app.ask("add", name="email-7-a@example.org", data=DATA, opts=opts)
    return identity


async def taken(side: Side) -> None:
    add(side)
    assert await side.take() == "1"


async def completed(side: Side) -> None:
    await taken(side)
    await side.complete()


async def failed(side: Side) -> None:
    await taken(side)
    await side.fail()


async def nothing_there(side: Side) -> None:
    assert await side.take() is None


async def removed_on_complete(side: Side) -> None:
    for keep in (True, {"count": 1}, 1, {"age": 3600, "count": 2}, False):
        add(side, removeOnComplete=keep)
        await side.take()
        await side.complete()


async def removed_on_fail(side: Side) -> None:
    for keep in (True, {"count": 1}, 1, False):
        add(side, removeOnFail=keep)
        await side.take()
        await side.fail()


async def refused_for_now(side: Side) -> None:
    add(side, attempts=3, backoff={"type": "exponential", "delay": 60_000})
    await side.take()
    await side.fail_softly()
    side.app.ask("promote", id="1")
    await side.take()
    await side.fail_softly()
    side.app.ask("promote", id="1")
    await side.take()
    await side.fail()


async def a_fixed_backoff(side: Side) -> None:
    add(side, attempts=2, backoff=60_000)
    await side.take()
    await side.fail_softly()


async def priorities_lifo_and_delay(side: Side) -> None:
    for opts in ({"priority": 3}, {}, {"priority": 1}, {"lifo": True}, {"delay": 60_000}, {"priority": 1}, {}):
        add(side, **opts)
    order = [await side.take() for _ in range(7)]
    assert order == ["4", "2", "7", "3", "6", "1", None]


async def delayed_ones_fall_due(side: Side) -> None:
    add(side, delay=300)
    add(side, delay=10, priority=2)
    add(side, delay=60_000)
    wait_until_due(side)
    assert [await side.take() for _ in range(3)] == ["1", "2", None]


def wait_until_due(side: Side) -> None:
    found: Any = side.redis.zrange(f"{BULLMQ}:delayed", 0, -1, withscores=True)
    soon = max(score / 4096 for _, score in found if score / 4096 < _now_ms(side.redis) + 30_000)
    wait_until(lambda: _now_ms(side.redis) > soon)


def _now_ms(client: "redis.Redis") -> int:
    seconds, microseconds = cast("Any", client.time())
    return int(seconds) * 1000 + int(microseconds) // 1000


async def paused(side: Side) -> None:
    add(side)
    side.app.ask("pause")
    assert await side.take() is None
    side.app.ask("resume")
    assert await side.take() == "1"


async def global_concurrency(side: Side) -> None:
    side.app.ask("setGlobalConcurrency", concurrency=1)
    add(side)
    add(side)
    assert await side.take() == "1"


async def a_limiter(side: Side) -> None:
    side.app.ask("setGlobalRateLimit", max=1, duration=60_000)
    add(side)
    add(side)
    assert [await side.take(), await side.take()] == ["1", None]


async def custom_ids_again(side: Side) -> None:
    add(side, jobId="mine")
    add(side, jobId="mine")
    await side.take()
    await side.complete()
    add(side, jobId="mine")
    assert await side.take() is None


async def deduplication(side: Side) -> None:
    for deduplication in ({"id": "d"}, {"id": "d"}, {"id": "e", "ttl": 60_000}):
        add(side, deduplication=deduplication)
    await side.take()
    await side.complete()
    add(side, deduplication={"id": "d"})
    await side.take()
    await side.fail()


async def a_failed_one_by_hand(side: Side) -> None:
    await failed(side)
    side.app.ask("retry", id="1")
    await side.take()
    await side.fail()


async def stalled(side: Side) -> None:
    await taken(side)
    # Nobody renews the lock; two sweeps later it's back.
    side.redis.delete(f"{BULLMQ}:1:lock", f"{keys.bullmq_own(BULLMQ)}:taken:{NAME}")
    for _ in range(2):
        side.redis.delete(f"{BULLMQ}:stalled-check")
        await side.sweep()
    assert await side.take() == "1"


SCENARIOS: list[Scenario] = [
    nothing_there,
    taken,
    completed,
    failed,
    removed_on_complete,
    removed_on_fail,
    refused_for_now,
    a_fixed_backoff,
    priorities_lifo_and_delay,
    delayed_ones_fall_due,
    paused,
    global_concurrency,
    a_limiter,
    custom_ids_again,
    deduplication,
    a_failed_one_by_hand,
    stalled,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_the_keys_are_those_of_the_npm_package(scenario: Scenario, theirs: Theirs, ours: Ours) -> None:
    await scenario(theirs)
    await scenario(ours)
    assert dump(ours.redis) == dump(theirs.redis)


# What differs, and why: times and tokens are everybody's own; `mail:…` fields are ours alone; so is `pb`, by which we
# know a job that another worker took after us.
_TIMES = re.compile(r"\b1[0-9]{12}\b")


def dump(client: "redis.Redis") -> dict[str, Any]:
    """All of the queue's keys, without the times and tokens that differ from run to run."""
    found = {}
    for key in sorted(client.scan_iter(match=f"{BULLMQ}:*", count=1000)):
        name = key.decode().removeprefix(f"{BULLMQ}:")
        found[name] = _value(client, key, name)
    return found


def _value(client: "redis.Redis", key: bytes, name: str) -> Any:
    kind = cast("bytes", client.type(key)).decode()
    if name.endswith(":lock"):
        return "a token"
    if kind == "string":
        return _plain(client.get(key)), client.ttl(key) > 0
    if kind == "list":
        return _plain(client.lrange(key, 0, -1))
    if kind == "set":
        return sorted(_plain(client.smembers(key)))
    if kind == "zset":
        # The order, and what isn't a time.
        return [
            (_plain(member), score if score < 1e12 or name == "prioritized" else "a time")
            for member, score in cast("Any", client.zrange(key, 0, -1, withscores=True))
        ]
    if kind == "stream":
        return [_plain(fields) for _, fields in cast("Any", client.xrange(key))]
    fields = _plain(client.hgetall(key))
    return {
        field: json.loads(value) if field in ("opts", "returnvalue", "stacktrace") else value
        for field, value in fields.items()
        if field != "pb" and not field.startswith("mail:")
    }


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return _TIMES.sub("a time", value.decode())
    if isinstance(value, list | set):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {_plain(name): _plain(item) for name, item in value.items()}
    return value
