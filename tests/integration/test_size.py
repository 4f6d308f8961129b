"""That no call of ours keeps Redis from serving others, however much it reads; benchmarks/size.py says how long each
takes with millions."""

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from testbed.services import Services
from tests.integration.size import MOST_MS, fill, slowest_ms
from worker.base import keys
from worker.base.redis_client import connect_async
from worker.base.settings import Secret
from worker.ledger.ledger import Entry
from worker.ledger.uncertain import UncertainMails
from worker.operating.reconcile import Reconciliation
from worker.operating.retry_failed import FailedMails
from worker.queue.control import Control
from worker.queue.message_queue import MessageQueue
from worker.recording.database import Recipient

BULLMQ = "bull:mail-queue"
MANY = 100_000


class Rows:
    """A database of a campaign's recipients, none of whom is recorded."""

    def __init__(self, number: int) -> None:
        self._number = number

    def recipients(self, campaign_id: str) -> Iterator[Recipient]:
        return (Recipient(f"s{number}", False) for number in range(self._number))


def job(number: int, body: str) -> dict[str, str]:
    return {"campaignId": "c-1", "subscriberId": f"s{number}", "email": "a@a.example", "html": body}


@pytest.mark.parametrize(("messages", "body_bytes"), [(3000, 10_000), (600, 50_000), (40, 500_000)])
def test_reconcile_looks_at_so_many_bytes_at_once(queue: redis.Redis, messages: int, body_bytes: int) -> None:
    body = '<p class="x">' * (body_bytes // 13)
    for number in range(messages):
        queue.hset(keys.MESSAGES, f"m{number}", json.dumps({"args": [job(number, body)]}))
        queue.hset(f"{BULLMQ}:{number}", "data", json.dumps(job(messages + number, body)))
        queue.lpush(f"{BULLMQ}:wait", number)
    reconciliation = Reconciliation(queue, Rows(2 * messages), "c-1", BULLMQ)
    reconciliation.report()  # The scripts are known then.
    assert slowest_ms(queue, reconciliation.report) < MOST_MS
    report = reconciliation.report()
    assert (len(report.waiting), report.missing) == (2 * messages, set())


def test_many_uncertain_mails_are_read_in_steps(queue: redis.Redis) -> None:
    names = [Entry("c-1", f"s{number}", f"m{number}").name for number in range(MANY)]
    fill(queue, keys.UNCERTAIN, dict.fromkeys(names, json.dumps([1000, "why", "resent"])))
    fill(queue, keys.HELD_MESSAGES, dict.fromkeys(names, "{}"))
    fill(queue, keys.UNCERTAIN, dict.fromkeys(names[:5], json.dumps([1000, "why", "held"])))
    uncertain = UncertainMails(queue)
    assert sum(1 for _ in uncertain.all("c-1")) == MANY
    assert slowest_ms(queue, lambda: list(uncertain.all("c-1"))) < MOST_MS
    assert slowest_ms(queue, Reconciliation(queue, Rows(10), "c-1", "").report) < MOST_MS
    assert len(Reconciliation(queue, Rows(10), "c-1", "").report().held) == 5
    assert slowest_ms(queue, lambda: uncertain.forget_resent(60)) < MOST_MS
    assert queue.hlen(keys.UNCERTAIN) == 5


def test_many_failed_jobs_are_read_in_steps(queue: redis.Redis) -> None:
    queue.zadd(f"{BULLMQ}:failed", {str(number): number for number in range(20_000)})
    fill(queue, keys.ledger("c-1"), {f"s{number}": "f:1000:550 no" for number in range(MANY)})
    failed = FailedMails(queue, "c-1", BULLMQ)
    assert slowest_ms(queue, lambda: failed.find("", None)) < MOST_MS
    queue.config_resetstat()
    failed.retry({"s1"}, None)
    asked: Any = queue.info("commandstats")
    assert asked["cmdstat_zscan"]["calls"] > 10
    assert "cmdstat_zrange" not in asked


def test_many_parked_jobs_come_back_in_steps(queue: redis.Redis) -> None:
    parked_until = int(time.time() * 1000 + 10 * 365 * 86_400_000) * 4096

    def resume() -> None:
        queue.delete(f"{BULLMQ}:delayed")
        queue.sadd(keys.bullmq_parked(BULLMQ, "c-1"), *range(3000))
        queue.zadd(f"{BULLMQ}:delayed", {str(number): parked_until for number in range(3000)})
        queue.hset(keys.CONTROL, "c-1", "paused:why")
        Control(queue, BULLMQ).resume("c-1")

    assert slowest_ms(queue, resume) < MOST_MS / 2
    assert queue.zcount(f"{BULLMQ}:delayed", 0, parked_until - 1) == 3000


@pytest.mark.parametrize(("messages", "body_bytes"), [(800, 10_000), (400, 50_000), (120, 90_000), (30, 1_000_000)])
@pytest.mark.parametrize("where", ["waiting", "delayed", "due"])
def test_a_fetch_sorts_so_many_bytes_at_once(
    queue: redis.Redis, services: Services, where: str, messages: int, body_bytes: int
) -> None:
    body = '<p class="x">' * (body_bytes // 13)
    options = {} if where == "waiting" else {"eta": 1 if where == "due" else 10**14}
    message = json.dumps({"args": [job(1, body)], "options": options})
    hash_key, list_key = (keys.MESSAGES, keys.WAITING) if where == "waiting" else (keys.DELAYED_MESSAGES, keys.DELAYED)

    async def fetch() -> None:
        client = connect_async(Secret(services.redis_url), 2)
        consumer = MessageQueue(client, client, "p", "host/p", "account")
        for _ in range(4):
            await consumer.fetch(1, 0)
        await client.aclose()

    def act() -> None:
        queue.delete(keys.MESSAGES, keys.WAITING, keys.DELAYED_MESSAGES, keys.DELAYED, keys.DUE, keys.lane("c-1"))
        for number in range(messages):
            with queue.pipeline(transaction=False) as pipeline:
                pipeline.hset(hash_key, f"m{number}", message)
                pipeline.rpush(list_key, f"m{number}")
                pipeline.execute()
        asyncio.run(fetch())

    act()
    assert slowest_ms(queue, act) < MOST_MS


async def test_what_a_fetch_has_not_sorted_keeps_its_order(queue: redis.Redis, services: Services) -> None:
    message = json.dumps({"args": [job(1, "x" * 700_000)]})
    for number in range(12):
        queue.hset(keys.MESSAGES, f"m{number}", message)
        queue.rpush(keys.WAITING, f"m{number}")
    client = connect_async(Secret(services.redis_url), 2)
    consumer = MessageQueue(client, client, "p", "host/p", "account")
    taken = [identity for _ in range(12) for identity, _ in (await consumer.fetch(1, 0)).messages]
    await client.aclose()
    assert taken == [f"m{number}" for number in range(12)]
