"""Redis's clock steps, by hand, by NTP or by a failover to another host: nobody counts as dead by that, and nothing
waits for a clock to catch up. `mail:clock` is what the scripts remember of the time: to change it is to change the
clock."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import redis

from testbed.app import App
from tests.integration.consumers import BULLMQ, Consumer, MakeConsumer, add, die
from worker.base import keys
from worker.ledger.ledger import Entry, Verdict
from worker.mail.outcomes import Sent
from worker.mail.pacing import Limit
from worker.queue.message_queue import Settlement
from worker.queue.producer import enqueue

HOUR_MS = 3_600_000
DEAD_AFTER_MS = 36_000


def step(queue: redis.Redis, milliseconds: int) -> None:
    """The clock steps, forward by a positive number."""
    if milliseconds > 0:
        queue.hincrby(keys.CLOCK, "ahead", milliseconds)
    else:
        # What was the last time that anybody saw lies ahead now.
        queue.hset(keys.CLOCK, "last", str(int(time.time() * 1000) - milliseconds))


async def test_a_step_forward_kills_nobody(process: MakeConsumer, queue: redis.Redis) -> None:
    one, two = process(), process()
    list(enqueue(queue, iter([{"to": "a@example.org"}])))
    for each in (one, two):
        await each.beat(dead_after_ms=DEAD_AFTER_MS)
    assert len((await one.fetch()).messages) == 1
    step(queue, HOUR_MS)
    beat = await two.beat(dead_after_ms=DEAD_AFTER_MS)
    assert (beat.dead, beat.steady) == (0, False)
    assert queue.scard(keys.fetched(one.name)) == 1
    # All have told by the new clock that they live before anybody judges again.
    await one.beat(dead_after_ms=None)
    beat = await two.beat(dead_after_ms=DEAD_AFTER_MS)
    assert (beat.dead, beat.steady) == (0, True)


async def test_a_step_forward_takes_no_job_from_who_sends_its_mail(
    app: App, process: MakeConsumer, queue: redis.Redis
) -> None:
    """It ends the locks of all jobs at once, and whoever beats first is who sweeps."""
    add(app, 1)
    one, two = process(), process()
    [job] = await one.take()
    await two.beat()
    queue.delete(f"{BULLMQ}:{job.id}:lock")
    step(queue, HOUR_MS)
    queue.delete(f"{BULLMQ}:stalled-check")
    await two.beat()
    assert await two.take() == []
    await one.beat()
    await one.send(job)
    assert app.counts("completed", "waiting") == {"completed": 1, "waiting": 0}


async def test_after_a_step_back_mails_leave(process: MakeConsumer, queue: redis.Redis) -> None:
    one = process(limits=(Limit(2, 1000),))
    await one.beat()
    for number in range(2):
        await send(one, str(number))
    step(queue, -HOUR_MS)
    await one.beat()
    # A limit of two in a second lets the next one go after a second, not after an hour.
    verdict, wait_ms = await one.ledger.claim(Entry("c", "next", ""), f"{one.name}:next")
    assert verdict is Verdict.CLAIMED or wait_ms <= 1001
    await until(lambda: claimed(one))


async def test_after_a_step_back_delayed_mails_come(process: MakeConsumer, queue: redis.Redis) -> None:
    one = process()
    list(enqueue(queue, iter([{"to": "a@example.org"}])))
    [(identity, data)] = (await one.fetch()).messages
    await one.messages.settle(Settlement("postpone", identity, ("new", data, 500)))
    await one.messages.fetch(0, 0)
    step(queue, -HOUR_MS)

    async def comes() -> bool:
        return len((await one.fetch()).messages) == 1

    await until(comes)


async def test_the_dead_are_found_whatever_the_clock_did(process: MakeConsumer, queue: redis.Redis) -> None:
    one, two = process(), process()
    list(enqueue(queue, iter([{"to": "a@example.org"}])))
    await one.fetch()
    step(queue, -HOUR_MS)
    await two.beat(dead_after_ms=None)
    await asyncio.sleep(0.6)
    assert (await two.beat(dead_after_ms=500)).dead == 1
    assert len((await two.fetch()).messages) == 1


async def test_a_dead_listener_is_followed_after_a_step_back(process: MakeConsumer, queue: redis.Redis) -> None:
    one, two = process(), process()
    assert (await one.beat(idle=True)).listens
    # Redis ends a lease by its own clock, which was an hour ahead.
    queue.pexpire(f"{keys.bullmq_own(BULLMQ)}:ear", HOUR_MS)
    die(queue, one)
    await two.beat(dead_after_ms=DEAD_AFTER_MS)
    assert (await two.beat(idle=True)).listens


async def test_what_others_see_has_the_real_time(process: MakeConsumer, queue: redis.Redis) -> None:
    step(queue, HOUR_MS)
    one = process()
    await send(one, "s")
    entries: Any = queue.xrange(keys.OUTBOX)
    [(_, fields)] = entries
    assert abs(int(fields[b"at"]) / 1000 - time.time()) < 60


async def send(one: Consumer, subscriber: str) -> None:
    entry, claimant = Entry("c", subscriber, ""), f"{one.name}:{subscriber}"
    assert (await one.ledger.claim(entry, claimant))[0] is Verdict.CLAIMED
    await one.ledger.record(entry, claimant, Sent("250 taken"))


async def claimed(one: Consumer) -> bool:
    return (await one.ledger.claim(Entry("c", "next", ""), f"{one.name}:next"))[0] is Verdict.CLAIMED


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + 20
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
