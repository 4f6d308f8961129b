"""Which of BullMQ's jobs a process takes, and when: real queues of both majors, and our scripts step by step."""

import asyncio
import json
from typing import Any, cast

import pytest
import redis

from testbed.app import App
from testbed.services import Services
from tests.integration.consumers import BULLMQ, Consumer, MakeConsumer, add, job, subscribers, was_here
from worker.base import keys
from worker.base.redis_client import CountingRedis
from worker.ledger.ledger import Verdict
from worker.queue import bullmq
from worker.queue.control import Control


async def test_a_process_takes_as_many_as_it_wants_and_no_more(app: App, process: MakeConsumer) -> None:
    add(app, 100)
    assert len(await process().take(10)) == 10
    assert app.counts("waiting", "active") == {"waiting": 90, "active": 10}


async def test_the_data_comes_as_the_app_wrote_it(app: App, process: MakeConsumer) -> None:
    data = {"html": "a/b \u00e9 \U0001f337 \ud83d", "n": 12345678901234567890, "list": [], "nothing": None, "f": 1.10}
    app.ask("add", name="x", data=data, opts={})
    [taken] = await process().take()
    # JSON.stringify has written it once; nothing decodes and encodes it after that.
    assert json.loads(taken.data)["list"] == []
    assert b"a/b" in taken.data
    assert b"12345678901234567000" in taken.data


async def test_campaigns_at_the_two_ends_of_the_queue_take_turns(app: App, process: MakeConsumer) -> None:
    add(app, 50, "big")
    add(app, 3, "small")
    taken = subscribers(await process().take(6))
    assert [campaign for campaign, _ in taken].count("small") == 3
    assert [number for campaign, number in taken if campaign == "big"] == [0, 1, 2]


async def test_one_campaign_keeps_its_order(app: App, process: MakeConsumer) -> None:
    add(app, 9)
    consumer = process()
    taken = [await consumer.take(3) for _ in range(3)]
    assert [number for jobs in taken for _, number in subscribers(jobs)] == list(range(9))


async def test_dramatiqs_lanes_and_bullmqs_queue_take_turns(
    app: App, process: MakeConsumer, queue: redis.Redis
) -> None:
    add(app, 10)
    for number in range(10):
        message = {"args": [{"campaignId": "d", "subscriberId": number}], "options": {}}
        queue.hset(keys.MESSAGES, f"m{number}", json.dumps(message))
        queue.rpush(keys.WAITING, f"m{number}")
    fetched = await process().fetch(6)
    assert (len(fetched.messages), len(fetched.jobs)) == (3, 3)


@pytest.mark.parametrize("foreign", [1, 900])
async def test_a_schedulers_jobs_are_left_where_they_stand(
    app: App, process: MakeConsumer, queue: redis.Redis, foreign: int
) -> None:
    ids = app.ask("addBulk", jobs=[job(number) for number in range(foreign)])
    for identity in ids:
        queue.hset(f"{BULLMQ}:{identity}", "rjk", "every-night")
    add(app, 3, "mails")
    order = queue.lrange(f"{BULLMQ}:wait", 0, -1)
    consumer = process()
    taken = await consumer.take(10)
    assert [campaign for campaign, _ in subscribers(taken)] == ["mails"] * 3
    assert queue.lrange(f"{BULLMQ}:wait", 0, -1) == order[3:]
    assert queue.hget(f"{keys.bullmq_own(BULLMQ)}:state", "foreign") == str(foreign).encode()
    # They wake nobody either.
    await consumer.beat(idle=True)
    assert queue.llen(keys.WAITING) == 0


async def test_behind_too_many_foreign_jobs_nobody_looks(app: App, process: MakeConsumer, queue: redis.Redis) -> None:
    ids = app.ask("addBulk", jobs=[job(number) for number in range(1500)])
    for identity in ids:
        queue.hset(f"{BULLMQ}:{identity}", "rjk", "every-night")
    app.ask("add", name="x", data=job(1)["data"], opts={"jobId": "mail"})
    consumer = process()
    found = await consumer.take(10)
    # Its end is the other campaign's, so that it's found from there, or not at all: never is a foreign one taken.
    assert [one.id for one in found] in ([], ["mail"])
    assert queue.llen(f"{BULLMQ}:wait") + len(found) == 1501


async def test_a_scheduler_goes_on_beside_us(app: App, process: MakeConsumer, queue: redis.Redis) -> None:
    app.ask("upsertJobScheduler", id="nightly", repeat={"every": 50}, template={"name": "report", "data": {}})
    add(app, 1)
    await asyncio.sleep(0.1)
    consumer = process()
    taken = await consumer.take()
    assert subscribers(taken) == [(7, 0)]
    # A worker of BullMQ's own takes the scheduler's job, and makes the next one.
    app.ask("worker", options={"concurrency": 1})
    deadline = 50
    while app.counts("completed")["completed"] < 2 and deadline:
        await asyncio.sleep(0.1)
        deadline -= 1
    assert app.counts("completed")["completed"] >= 2


async def test_a_flow_is_left_to_bullmqs_own_workers_until_its_parent_is_free(app: App, process: MakeConsumer) -> None:
    child = {"name": "child", "queueName": "mail-queue", "data": job(1)["data"]}
    parent = {"name": "parent", "queueName": "mail-queue", "data": job(2)["data"], "children": [child]}
    app.ask("addFlow", tree=parent)
    consumer = process()
    assert await consumer.take() == []
    assert app.ask("take", token="node") is not None
    app.ask("complete", token="node", value=1)
    [taken] = await consumer.take()
    assert subscribers([taken]) == [(7, 2)]
    await consumer.send(taken)
    assert app.ask("state", id=taken.id) == "completed"


async def test_a_paused_queue_gives_nothing_and_loses_nothing(app: App, process: MakeConsumer) -> None:
    add(app, 6)
    consumer = process()
    taken = await consumer.take(4)
    app.ask("pause")
    assert await consumer.take() == []
    # What is in hand comes back, is put off, or is finished while the queue is paused.
    await consumer.settle(bullmq.back(taken[0], None))
    await consumer.settle(bullmq.delay(taken[1], 1, spent=True, reason="busy", slow_downs=0))
    await consumer.send(taken[2], "2")
    await consumer.beat()
    assert await consumer.take() == []
    app.ask("resume")
    again = await consumer.take()
    assert sorted(one.id for one in [*again, taken[3]]) == ["1", "2", "4", "5", "6"]
    assert app.counts("completed", "active") == {"completed": 1, "active": 5}


async def test_a_dashboard_of_6_on_an_app_of_5(services: Services, queue: redis.Redis, process: MakeConsumer) -> None:
    was_here(queue)
    with App(5, services.redis_url) as app, App(6, services.redis_url) as dashboard:
        consumer = process()
        add(app, 30)
        for pausing, resuming in ((app, dashboard), (dashboard, app), (dashboard, dashboard)):
            taken = await consumer.take(6)
            pausing.ask("pause")
            for one in taken[:2]:
                await consumer.settle(bullmq.back(one, None))
            await consumer.settle(bullmq.delay(taken[2], 1, spent=True, reason="busy", slow_downs=0))
            for one in taken[3:]:
                await consumer.send(one, one.id)
            assert await consumer.take() == []
            resuming.ask("resume")
        while taken := await consumer.take(6):
            for one in taken:
                await consumer.send(one, one.id)
        assert app.counts("completed", "waiting", "active", "delayed", "paused") == {
            "completed": 30,
            "waiting": 0,
            "active": 0,
            "delayed": 0,
            "paused": 0,
        }


async def test_an_upgrade_from_5_to_6_while_the_queue_is_paused(
    services: Services, queue: redis.Redis, process: MakeConsumer
) -> None:
    was_here(queue)
    with App(5, services.redis_url) as old:
        old.ask("pause")
        for _ in range(10):
            add(old, 1000)
    with App(6, services.redis_url) as new:
        new.ask("resume")  # It moves 7,000 of them; the others stay in `paused`.
        consumer = process()
        taken = 0
        while jobs := await consumer.take(100):
            taken += len(jobs)
            queue.delete(f"{BULLMQ}:active")
        assert taken == 10_000


async def test_the_apps_own_concurrency_holds(app: App, process: MakeConsumer) -> None:
    app.ask("setGlobalConcurrency", concurrency=3)
    add(app, 10)
    one, other = process(), process()
    taken = await one.take()
    assert (len(taken), len(await other.take())) == (3, 0)
    await one.send(taken[0])
    assert len(await other.take()) == 1


async def test_the_apps_own_limiter_holds(app: App, process: MakeConsumer) -> None:
    app.ask("setGlobalRateLimit", max=2, duration=60_000)
    add(app, 5)
    consumer = process()
    assert len(await consumer.take()) == 2
    fetched = await consumer.fetch()
    assert fetched.jobs == []
    assert fetched.due_seconds is not None
    assert 0 < fetched.due_seconds <= 60


async def test_a_paused_campaign_is_in_nobodys_way(app: App, process: MakeConsumer, queue: redis.Redis) -> None:
    add(app, 1000, "paused")
    add(app, 5, "small")
    control = Control(queue, BULLMQ)
    control.pause("paused")
    consumer = process()
    found: list[object] = []
    for _ in range(20):
        found += subscribers(await consumer.take(5))
    assert sorted(cast("Any", found)) == [("small", number) for number in range(5)]
    assert app.counts("waiting", "delayed") == {"waiting": 0, "delayed": 1000}
    control.resume("paused")
    await consumer.fetch(0)
    assert app.counts("waiting", "delayed")["waiting"] >= 500
    assert len(await consumer.take(5)) == 5


async def test_a_cancelled_campaigns_jobs_fail(app: App, process: MakeConsumer, queue: redis.Redis) -> None:
    add(app, 30, "c")
    control = Control(queue, BULLMQ)
    control.pause("c")
    consumer = process()
    assert await consumer.take() == []
    control.cancel("c")
    for _ in range(3):
        assert await consumer.take() == []
    assert app.counts("failed", "waiting", "delayed") == {"failed": 30, "waiting": 0, "delayed": 0}
    assert app.ask("jobs", types=["failed"], start=0, end=0)[0]["failedReason"] == "the campaign is cancelled"


async def test_a_job_that_is_too_big_fails_with_a_sentence(app: App, process: MakeConsumer) -> None:
    app.ask("add", name="x", data={"html": "x" * 9_000_000}, opts={})
    add(app, 1)
    assert len(await process().take()) == 1
    assert "bytes; at most 8000000 are sent" in app.ask("job", id="1")["failedReason"]


async def test_a_job_that_its_app_removed_meanwhile(app: App, process: MakeConsumer, queue: redis.Redis) -> None:
    add(app, 3)
    queue.delete(f"{BULLMQ}:1")
    consumer = process()
    taken = await consumer.take()
    assert sorted(one.id for one in taken) == ["2", "3"]
    queue.delete(f"{BULLMQ}:2")
    app.ask("obliterate", force=True)
    for one in taken:
        await consumer.send(one, one.id)
    assert list(queue.scan_iter(f"{BULLMQ}:[0-9]*")) == []
    assert queue.exists(f"{BULLMQ}:completed") == 0


async def test_what_waits_can_be_drained_and_removed(app: App, process: MakeConsumer) -> None:
    add(app, 10)
    taken = await process().take(2)
    app.ask("remove", id="10")
    with pytest.raises(Exception, match="locked"):
        app.ask("remove", id=taken[0].id)
    app.ask("drain")
    assert app.counts("waiting", "active") == {"waiting": 0, "active": 2}


async def test_one_process_of_the_fleet_listens(app: App, process: MakeConsumer, queue: redis.Redis) -> None:
    one, other = process(), process()
    assert (await one.fetch()).listens
    assert not (await other.fetch()).listens
    assert (await one.beat(idle=True)).listens
    # It gets more than it has room for: somebody else is woken, and listens.
    add(app, 5)
    assert len((await one.fetch(2)).jobs) == 2
    assert queue.lrange(keys.WAITING, 0, -1) == [keys.WAKE.encode()]
    fetched = await other.fetch()
    assert (len(fetched.jobs), fetched.listens) == (3, True)
    await other.jobs.leave()
    assert (await one.fetch()).listens


async def test_news_wakes_an_idle_process(app: App, process: MakeConsumer, queue: redis.Redis) -> None:
    consumer = process()
    listening = asyncio.create_task(consumer.jobs.listen())
    app.ask("add", name="x", data={}, opts={"delay": 60_000})
    news = await asyncio.wait_for(listening, 5)
    assert news is not None
    assert news.due_at is not None
    listening = asyncio.create_task(consumer.jobs.listen())
    add(app, 1)
    news = await asyncio.wait_for(listening, 5)
    assert news == bullmq.News(None)
    assert queue.lrange(keys.WAITING, 0, -1) == [keys.WAKE.encode()]


async def test_without_a_queue_nothing_of_it_is_touched(app: App, client: CountingRedis, queue: redis.Redis) -> None:
    add(app, 3)
    before = {key: queue.dump(key) for key in queue.scan_iter("bull:*")}
    consumer = Consumer(client, "p", bullmq="")
    fetched = await consumer.fetch()
    beat = await consumer.beat(idle=True)
    assert (fetched.jobs, fetched.listens, beat.listens) == ([], False, False)
    assert {key: queue.dump(key) for key in queue.scan_iter("bull:*")} == before


async def test_a_prefix_with_braces(services: Services, queue: redis.Redis, client: CountingRedis) -> None:
    with App(5, services.redis_url, "news", "{app}") as app:
        add(app, 1)
        consumer = Consumer(client, "p", bullmq="{app}:news")
        [taken] = await consumer.take()
        assert await consumer.claim(taken) is Verdict.CLAIMED
        await consumer.send(taken)
        assert app.counts("completed")["completed"] == 1
