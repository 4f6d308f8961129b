"""While nobody has had anything for a while, idle processes rest: they speak as seldom as their blocking pop ends.
Whoever takes something then wakes them, so that a death is noticed as soon as ever."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker

from demo.tally import tally
from testbed.services import Services
from tests.integration.conftest import MakeCampaign
from tests.integration.consumers import BULLMQ, Consumer, MakeConsumer
from tests.integration.programs import Programs, wait_until
from worker.base import keys
from worker.queue.message_queue import Settlement
from worker.queue.producer import enqueue

REST_MS = 92_000
DEAD_AFTER_MS = 36_000


def put_to_sleep(queue: redis.Redis) -> None:
    """As if the last one who had something was a while ago."""
    queue.delete(keys.AWAKE)


def heard_of(queue: redis.Redis, process: Consumer) -> float:
    """In ms from now."""
    at: Any = queue.zscore(keys.ALIVE, process.name)
    return float(at) - time.time() * 1000


async def idle_beat(process: Consumer) -> bool:
    """Whether it may rest by that."""
    return (await process.beat(idle=True, rest_ms=REST_MS)).rests


async def at_rest(make: MakeConsumer, queue: redis.Redis) -> Consumer:
    process = make()
    await process.fetch()
    put_to_sleep(queue)
    assert await idle_beat(process)
    return process


async def test_nobody_rests_soon_after_somebody_had_something(process: MakeConsumer, queue: redis.Redis) -> None:
    one, two = process(), process()
    list(enqueue(queue, iter([{"to": "a@example.org"}])))
    [(identity, _)] = (await one.fetch()).messages
    assert not await idle_beat(two)
    await one.messages.settle(Settlement("ack", identity))
    assert not await idle_beat(one)
    assert not await idle_beat(two)
    assert heard_of(queue, two) < 1000
    put_to_sleep(queue)
    assert await idle_beat(one)
    assert await idle_beat(two)
    # Silent for longer, and not dead by that.
    assert heard_of(queue, two) > REST_MS - 5000


async def test_a_busy_process_keeps_all_awake(process: MakeConsumer, queue: redis.Redis) -> None:
    one, two = process(), process()
    put_to_sleep(queue)
    await one.beat()
    queue.pexpire(keys.AWAKE, 1000)
    await one.beat()
    assert queue.pttl(keys.AWAKE) > 200_000
    assert not await idle_beat(two)


async def test_a_take_keeps_all_awake_as_long(process: MakeConsumer, queue: redis.Redis) -> None:
    one, other = process(), process()
    await other.fetch()
    # Somebody had something nearly five minutes ago. Who takes the next one may die at once.
    queue.set(keys.AWAKE, "1", px=500)
    list(enqueue(queue, iter([{"to": "a@example.org"}])))
    assert len((await one.fetch()).messages) == 1
    assert queue.pttl(keys.AWAKE) > 200_000
    assert not await idle_beat(other)


async def test_who_takes_something_wakes_all_that_rest(process: MakeConsumer, queue: redis.Redis) -> None:
    resting = [await at_rest(process, queue) for _ in range(3)]
    taker = process()
    list(enqueue(queue, iter([{"to": "a@example.org"}])))
    assert len((await taker.fetch()).messages) == 1
    assert queue.lrange(keys.WAITING, 0, -1) == [keys.WAKE.encode()] * 3
    for one in resting:
        await one.fetch()
        assert heard_of(queue, one) < 1000
        assert not await idle_beat(one)
    # They are awake: nobody is woken once more.
    list(enqueue(queue, iter([{"to": "b@example.org"}])))
    assert len((await taker.fetch()).messages) == 1
    assert queue.llen(keys.WAITING) == 0


async def test_who_starts_wakes_all_that_rest(process: MakeConsumer, queue: redis.Redis) -> None:
    await at_rest(process, queue)
    await process().beat()
    assert queue.lrange(keys.WAITING, 0, -1) == [keys.WAKE.encode()]


async def test_who_takes_a_job_wakes_them_too(process: MakeConsumer, queue: redis.Redis) -> None:
    resting = await at_rest(process, queue)
    queue.hset(f"{BULLMQ}:7", mapping={"data": "{}", "opts": "{}", "timestamp": "1"})
    queue.lpush(f"{BULLMQ}:wait", "7")
    assert not await idle_beat(resting)
    put_to_sleep(queue)
    queue.zadd(keys.ALIVE, {resting.name: time.time() * 1000 + REST_MS})
    queue.delete(keys.WAITING)
    assert len(await process().take()) == 1
    assert keys.WAKE.encode() in queue.lrange(keys.WAITING, 0, -1)


@pytest.mark.parametrize(
    "something",
    [
        lambda queue: queue.rpush(keys.WAITING, "id"),
        lambda queue: queue.rpush(keys.WOKEN, "id"),
        lambda queue: queue.zadd(f"{keys.LANES}:low", {"c": 1}),
        lambda queue: queue.lpush(f"{BULLMQ}:wait", "7"),
        lambda queue: queue.lpush(f"{BULLMQ}:active", "7"),
        lambda queue: queue.zadd(f"{BULLMQ}:prioritized", {"7": 1}),
        lambda queue: queue.rpush(f"{keys.bullmq_own(BULLMQ)}:orphans", "7"),
        # Who has been silent for long has yet to be judged; and who judges has to be awake for a while.
        lambda queue: queue.zadd(keys.ALIVE, {"silent": time.time() * 1000 - REST_MS - 1000}),
        lambda queue: queue.zadd(keys.PLAIN_HEARTBEATS, {"plain": time.time() * 1000}),
    ],
)
async def test_nobody_rests_while_he_may_be_needed(
    process: MakeConsumer, queue: redis.Redis, something: Callable[[redis.Redis], object]
) -> None:
    one = await at_rest(process, queue)
    something(queue)
    assert not await idle_beat(one)


async def test_an_app_that_delays_by_dramatiqs_own_means_keeps_all_awake(
    process: MakeConsumer, queue: redis.Redis, services: Services
) -> None:
    broker = RedisBroker(url=services.redis_url, namespace=keys.QUEUE_NAMESPACE)  # type: ignore[no-untyped-call]
    message: dramatiq.Message[Any] = dramatiq.Message(
        queue_name=keys.QUEUE, actor_name=keys.ACTOR, args=({"to": "a@example.org"},), kwargs={}, options={}
    )
    broker.declare_queue(keys.QUEUE)
    broker.enqueue(message, delay=3_600_000)
    one = process()
    await one.beat(idle=True)
    queue.delete(keys.AWAKE, keys.PLAIN_HEARTBEATS)
    # No process that rests would hear of the next one in time.
    assert not await idle_beat(one)


async def test_who_rests_listens_for_the_apps_jobs_as_long(process: MakeConsumer, queue: redis.Redis) -> None:
    one = await at_rest(process, queue)
    ear = f"{keys.bullmq_own(BULLMQ)}:ear"
    assert queue.get(ear) == one.name.encode()
    assert queue.pttl(ear) > REST_MS


def test_a_worker_that_dies_with_the_first_mail_after_a_rest_is_noticed_as_soon(
    make_campaign: MakeCampaign, programs: Programs, services: Services, queue: redis.Redis, tmp_path: Path
) -> None:
    campaign = make_campaign(1)
    programs.start("record")
    workers = [
        programs.start("run", SUPERVISOR_PROCESS_NAME=name, WORKER_DEAD_AFTER_SECONDS="6") for name in ("one", "other")
    ]
    for worker in workers:
        worker.wait_for("mails at once")

    def both_rest() -> bool:
        put_to_sleep(queue)
        resting: Any = queue.zcount(keys.ALIVE, time.time() * 1000 + 10_000, "+inf")
        return bool(resting == 2)

    wait_until(both_rest)
    services.control("smtp", "stop")
    try:
        programs.run("enqueue", str(tmp_path / "jobs.jsonl"))
        wait_until(lambda: any("Connection refused" in worker.text() for worker in workers))
        [victim] = [worker for worker in workers if "Connection refused" in worker.text()]
        victim.kill()
    finally:
        services.control("smtp", "start")
    # By itself the other one would have looked when its pop ends, after 110 s.
    wait_until(lambda: tally(services, campaign).accounted_for)
