"""What Redis keeps of a mail outside any campaign: nothing brings it back once its message is gone."""

from typing import Any, cast

import pytest
import redis

from testbed.app import App, Major
from tests.integration.consumers import BULLMQ, KEEP_ALL, MakeConsumer, add, entry_of
from tests.integration.programs import Programs, wait_until
from worker.ledger.ledger import KEPT_JOB_SECONDS, LEDGER_SECONDS, SINGLE_SECONDS, Entry, Verdict
from worker.mail.outcomes import Retry, Sent
from worker.queue.message_queue import Settlement
from worker.queue.producer import enqueue

KEEP_NONE = (0, -1, 1000)


@pytest.fixture(params=[5])
def major(request: pytest.FixtureRequest) -> Major:
    return cast("Major", request.param)


def lives_for(queue: redis.Redis, key: str, seconds: int) -> bool:
    left: Any = queue.ttl(key)
    return seconds - 60 < int(left) <= seconds


async def test_a_message_that_may_come_back_is_remembered_for_long(queue: redis.Redis, process: MakeConsumer) -> None:
    list(enqueue(queue, iter([{"to": "a@example.org", "html": "x"}])))
    consumer = process()
    [(identity, _)] = (await consumer.fetch()).messages
    entry = Entry(None, None, identity)
    await consumer.ledger.claim(entry, f"{consumer.name}:1")
    await consumer.ledger.record(entry, f"{consumer.name}:1", Sent("250"))
    # Were its process to die now, the message would come back when the next one starts, weeks later perhaps.
    assert lives_for(queue, entry.key, LEDGER_SECONDS)
    await consumer.messages.settle(Settlement("ack", identity, (entry.key, SINGLE_SECONDS)))
    assert lives_for(queue, entry.key, SINGLE_SECONDS)
    assert (await consumer.ledger.claim(entry, f"{consumer.name}:2"))[0] is Verdict.DONE


@pytest.mark.parametrize(("keep", "seconds"), [(KEEP_ALL, KEPT_JOB_SECONDS), (KEEP_NONE, SINGLE_SECONDS)])
async def test_a_job_is_remembered_longer_while_it_is_there(
    app: App, queue: redis.Redis, process: MakeConsumer, keep: tuple[float, ...], seconds: int
) -> None:
    add(app, 1)
    consumer = process()
    [job] = await consumer.take()
    assert await consumer.claim(job, campaign=None) is Verdict.CLAIMED
    key = entry_of(job, campaign=None).key
    await consumer.record(job, Retry("450"), campaign=None)
    assert await consumer.claim(job, campaign=None) is Verdict.CLAIMED
    assert lives_for(queue, key, LEDGER_SECONDS)
    await consumer.record(job, Sent("250"), campaign=None, keep=keep)
    assert lives_for(queue, key, seconds)


def test_a_worker_forgets_singles_after_a_day(put: Any, programs: Programs, queue: redis.Redis) -> None:
    put([{"to": f"r{number}@testbed.example", "subject": "A receipt", "html": "x"} for number in range(5)])
    programs.start("run")
    wait_until(lambda: len(queue.keys("mail:single:*")) == 5)
    longest = KEPT_JOB_SECONDS if queue.exists(f"{BULLMQ}:completed") else SINGLE_SECONDS
    wait_until(lambda: all(int(cast("Any", queue.ttl(key))) <= longest for key in queue.keys("mail:single:*")))
