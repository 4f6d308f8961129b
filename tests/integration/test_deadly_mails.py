"""A mail that kills its process kills three, not one after another; what was only there when somebody was killed goes
on, however often that happens."""

from collections.abc import Callable
from typing import Any

import pytest
import redis

from testbed.app import App
from testbed.services import Services
from tests.integration.consumers import Consumer, MakeConsumer, die
from tests.integration.programs import PATIENCE_SECONDS, Programs, wait_until
from worker.base import keys
from worker.queue.message_queue import Fetched
from worker.queue.rehearsal import Rehearsal

Put = Callable[[list[dict[str, Any]]], None]

DEADLY = "3 worker processes died of it"


def job(subject: str) -> dict[str, Any]:
    return {"to": f"{subject}@example.org", "subject": subject, "html": f"<p>{subject}</p>"}


def names(fetched: Fetched) -> list[str]:
    """What a process may have to rehearse."""
    orphans = [f"bull:mail-queue:{one.id}" for one in fetched.jobs if one.was_orphan]
    return sorted([*fetched.suspects, *orphans])


async def bury(queue: redis.Redis, dead: Consumer, judge: Consumer) -> None:
    die(queue, dead)
    await judge.beat(dead_after_ms=1000)


async def rehearse_all(process: Consumer, fetched: Fetched) -> None:
    rehearsal = Rehearsal(process.messages, lambda raw: None, lambda raw: None)
    for identity, data in fetched.messages:
        if identity in fetched.suspects:
            await rehearsal.of_message(identity, data)
    for one in fetched.jobs:
        if one.was_orphan:
            await rehearsal.of_job(f"bull:mail-queue:{one.id}", one.data)


async def test_what_was_only_there_is_never_to_blame(put: Put, process: MakeConsumer, queue: redis.Redis) -> None:
    put([job(f"m{number}") for number in range(5)])
    judge, one = process(), process()
    assert names(await one.fetch()) == []
    await bury(queue, one, judge)
    for _ in range(5):
        one = process()
        fetched = await one.fetch()
        assert len(names(fetched)) == 5
        # It's killed at random, after all have been rehearsed.
        await rehearse_all(one, fetched)
        assert queue.exists(keys.SUSPECTS, keys.REHEARSALS) == 0
        await bury(queue, one, judge)
    assert queue.zcard(keys.DEAD_LETTERS) == 0
    assert queue.zcard("bull:mail-queue:failed") == 0
    assert len(names(await process().fetch())) == 5


async def test_what_two_rehearsals_do_not_survive_is_handed_out_no_more(
    put: Put, process: MakeConsumer, queue: redis.Redis, app: App
) -> None:
    put([job(f"m{number}") for number in range(4)])
    judge, one = process(), process()
    await one.fetch()
    await bury(queue, one, judge)
    for _ in range(2):
        one = process()
        fetched = await one.fetch()
        assert len(names(fetched)) == 4
        deadly = names(fetched)[2]
        await one.messages.rehearsal_begins(deadly)
        await bury(queue, one, judge)
    last = process()
    fetched = await last.fetch()
    assert len(names(fetched)) == 3
    assert deadly not in names(fetched)
    await rehearse_all(last, fetched)
    if deadly.startswith("bull:"):
        [failed] = app.ask("jobs", types=["failed"])
        assert (failed["id"], failed["failedReason"]) == (deadly.rpartition(":")[2], DEADLY)
    else:
        assert queue.zrange(keys.DEAD_LETTERS, 0, -1) == [deadly.encode()]
        assert queue.get(keys.dead_letter_reason(deadly)) == DEADLY.encode()
    assert queue.exists(keys.SUSPECTS, keys.REHEARSALS) == 0


async def test_a_full_redis_lets_them_be_rehearsed(put: Put, process: MakeConsumer, queue: redis.Redis) -> None:
    put([job("m")])
    judge, one = process(), process()
    await one.fetch()
    await bury(queue, one, judge)
    one = process()
    queue.config_set("maxmemory", 1)
    try:
        fetched = await one.fetch()
        await rehearse_all(one, fetched)
    finally:
        queue.config_set("maxmemory", 0)
    assert len(names(fetched)) == 1


@pytest.mark.parametrize("major", [5], indirect=True)
def test_a_mail_that_kills_its_process_kills_three(
    put: Put, programs: Programs, services: Services, queue: redis.Redis
) -> None:
    put([job("before"), job("deadly"), job("after")])
    for number in range(3):
        worker = programs.start("run", module="tests.integration.deadly", WORKER_DEAD_AFTER_SECONDS="4")
        assert worker.process.wait(timeout=PATIENCE_SECONDS) == -9, number
    programs.start("run", module="tests.integration.deadly", WORKER_DEAD_AFTER_SECONDS="4")
    wait_until(lambda: DEADLY in reasons(queue))
    wait_until(lambda: {"before@example.org", "after@example.org"} <= {line["rcpt"] for line in services.accepted()})


def reasons(queue: redis.Redis) -> str:
    """Of dead letters and failed jobs."""
    found: list[Any] = [queue.get(key) for key in queue.scan_iter(f"{keys.DEAD_LETTER_REASON_PREFIX}*")]
    found += [queue.hget("bull:mail-queue:2", "failedReason")]
    return " ".join(one.decode() for one in found if one)
