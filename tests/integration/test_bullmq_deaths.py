"""A process dies, or is cut off, at each step of a job's way; and somebody tries a job again by hand. Each mail is sent
once, and what may have been sent twice is listed."""

import json
from typing import Any, cast

import pytest
import redis

from testbed.app import App
from tests.integration.consumers import BULLMQ, Consumer, MakeConsumer, add, die, entry_of
from worker.base import keys
from worker.base.redis_client import CountingRedis, script
from worker.ledger.ledger import Entry, GivenUp, Verdict, mark_sent
from worker.ledger.uncertain import UncertainMails
from worker.mail.outcomes import Failed, Retry, Sent, Uncertain
from worker.queue import bullmq
from worker.queue.bullmq import BullJob
from worker.queue.control import Control

OWN = keys.bullmq_own(BULLMQ)


def listed(queue: redis.Redis) -> list[str]:
    return [mail.why for mail in UncertainMails(queue).all()]


def lock(queue: redis.Redis, job: BullJob) -> str:
    token: Any = queue.get(f"{BULLMQ}:{job.id}:lock")
    return token.decode() if token else ""


async def adopt(queue: redis.Redis, dead: Consumer, other: Consumer) -> list[BullJob]:
    """Another process notices that one is dead, and takes over what it had."""
    die(queue, dead)
    await other.beat(dead_after_ms=1000)
    return await other.take()


async def test_the_answer_to_a_take_is_lost(app: App, process: MakeConsumer) -> None:
    add(app, 5)
    consumer = process()
    known = (await consumer.take(2))[0]
    await consumer.take(2)
    await consumer.jobs.give_back_all_but({known.id})
    assert app.counts("waiting", "active") == {"waiting": 4, "active": 1}
    # They are the next ones again, and count as never started.
    again = await consumer.take(5)
    assert sorted(one.id for one in again) == ["2", "3", "4", "5"]
    assert app.ask("job", id="2")["attemptsStarted"] == 1
    assert not any(one.may_have_been_sent for one in again)


async def test_a_process_dies_after_it_took_jobs(app: App, process: MakeConsumer, queue: redis.Redis) -> None:
    add(app, 3)
    one, other = process(), process()
    await one.take(3)
    taken = await adopt(queue, one, other)
    assert app.counts("active", "waiting") == {"active": 3, "waiting": 0}
    for job in taken:
        assert await other.claim(job, job.id) is Verdict.CLAIMED
        await other.send(job, job.id)
    assert (app.counts("completed")["completed"], listed(queue)) == (3, [])


async def test_a_process_dies_after_its_claim(app: App, process: MakeConsumer, queue: redis.Redis) -> None:
    add(app, 1)
    one, other = process(), process()
    [job] = await one.take()
    await one.claim(job)
    [job] = await adopt(queue, one, other)
    assert await other.claim(job) is Verdict.UNCERTAIN
    await other.record(job, Sent("250 ok"))
    assert app.counts("completed")["completed"] == 1
    assert listed(queue) == ["its process died before the server's reply was recorded"]


async def test_what_a_dead_process_claimed_never_goes_back_to_node(
    app: App, process: MakeConsumer, queue: redis.Redis
) -> None:
    add(app, 1)
    one, other = process(), process()
    [job] = await one.take()
    await one.claim(job)
    [job] = await adopt(queue, one, other)
    # The account is closed just now, so it goes back: but not to where a Node worker would take it.
    mail = bullmq.back(job, entry_of(job))
    await other.settle(mail)
    assert app.counts("waiting", "active", "delayed") == {"waiting": 0, "active": 1, "delayed": 0}
    assert app.ask("take", token="node") is None
    [job] = await other.take()
    assert await other.claim(job) is Verdict.UNCERTAIN


async def test_a_mail_that_is_given_up_is_failed_but_may_have_arrived(
    app: App, process: MakeConsumer, queue: redis.Redis
) -> None:
    add(app, 1)
    consumer = process()
    [job] = await consumer.take()
    assert await consumer.claim(job) is Verdict.CLAIMED
    await consumer.record(job, GivenUp("given up after 5 attempts, but it may have arrived: lost"))
    assert "may have arrived" in app.ask("job", id=job.id)["failedReason"]
    [mail] = UncertainMails(queue).all()
    assert (mail.resolution, mail.held) == ("given up", False)
    # Somebody tries it again by hand.
    app.ask("retry", id=job.id)
    [job] = await consumer.take()
    assert await consumer.claim(job) is Verdict.CLAIMED
    await consumer.record(job, Sent("250 ok"))
    assert app.counts("completed", "failed") == {"completed": 1, "failed": 0}


async def test_with_hold_it_waits_for_an_operator(app: App, process: MakeConsumer, queue: redis.Redis) -> None:
    add(app, 1)
    one, other = process(hold_uncertain=True), process(hold_uncertain=True)
    [job] = await one.take()
    await one.claim(job)
    [job] = await adopt(queue, one, other)
    assert await other.claim(job) is Verdict.HELD
    await other.settle(bullmq.hold(job, entry_of(job).name, "its process died"))
    assert app.ask("job", id=job.id)["failedReason"] == "uncertain: its process died"
    mails = UncertainMails(queue)
    [mail] = mails.all()
    assert mails.resend(mail)
    [job] = await other.take()
    assert await other.claim(job) is Verdict.CLAIMED
    await other.record(job, Sent("250 ok"))
    assert app.counts("completed", "failed") == {"completed": 1, "failed": 0}
    assert queue.hlen(keys.HELD_MESSAGES) == 0


async def test_a_held_one_that_arrived_is_completed(app: App, process: MakeConsumer, queue: redis.Redis) -> None:
    add(app, 1)
    consumer = process(hold_uncertain=True)
    [job] = await consumer.take()
    await consumer.claim(job)
    await consumer.record(job, Uncertain("the connection was lost"))
    await consumer.settle(bullmq.hold(job, entry_of(job).name, "the connection was lost"))
    mails = UncertainMails(queue)
    [mail] = mails.all()
    mails.mark_sent(mail)
    [job] = await consumer.take()
    assert await consumer.claim(job) is Verdict.DONE
    await consumer.settle(bullmq.already_done(entry_of(job)))
    assert app.counts("completed", "failed") == {"completed": 1, "failed": 0}
    assert listed(queue) == []


async def test_a_held_one_that_its_app_cleared_can_not_be_sent_again(
    app: App, process: MakeConsumer, queue: redis.Redis
) -> None:
    add(app, 1)
    consumer = process(hold_uncertain=True)
    [job] = await consumer.take()
    await consumer.claim(job)
    await consumer.record(job, Uncertain("lost"))
    await consumer.settle(bullmq.hold(job, entry_of(job).name, "lost"))
    app.ask("clean", type="failed")
    mails = UncertainMails(queue)
    [mail] = mails.all()
    assert not mails.resend(mail)
    assert len(list(mails.all())) == 1


async def test_a_process_that_was_stopped_and_goes_on(app: App, process: MakeConsumer, queue: redis.Redis) -> None:
    add(app, 1)
    one, other = process(), process()
    [job] = await one.take()
    await one.claim(job)
    [adopted] = await adopt(queue, one, other)
    await other.claim(adopted)
    # The first one wakes up with the server's reply: it was sent, and the job is the other's to finish.
    await one.record(job, Sent("250 ok"))
    assert app.counts("completed", "active") == {"completed": 0, "active": 1}
    await other.record(adopted, Sent("250 ok"))
    assert app.counts("completed", "active") == {"completed": 1, "active": 0}
    await one.beat()
    assert queue.hlen(f"{OWN}:taken:p1") == 0


async def test_all_die_and_a_node_worker_goes_on(app: App, process: MakeConsumer, queue: redis.Redis) -> None:
    add(app, 2)
    one = process()
    begun, not_begun = await one.take(2)
    await one.claim(begun, begun.id)
    die(queue, one)
    # Our locks end, and Node's sweep takes the jobs back.
    queue.delete(f"{BULLMQ}:{begun.id}:lock", f"{BULLMQ}:{not_begun.id}:lock")
    for _ in range(2):
        queue.delete(f"{BULLMQ}:stalled-check")
        app.ask("sweep")
    for _ in range(2):
        assert app.ask("take", token="node") is not None
        app.ask("complete", token="node", value="node")
    # We come back: what had been claimed may have gone out twice.
    other = process()
    await other.beat(dead_after_ms=1000)
    assert await other.take() == []
    assert listed(queue) == ["its process died, and another worker took its job"]


async def test_a_node_worker_dies_in_the_middle(app: App, process: MakeConsumer, queue: redis.Redis) -> None:
    add(app, 2)
    consumer = process()
    job = app.ask("take", token="node")
    queue.delete(f"{BULLMQ}:{job['id']}:lock")
    for _ in range(2):
        queue.delete(f"{BULLMQ}:stalled-check")
        await consumer.beat()
    taken = {one.id: one for one in await consumer.take()}
    assert taken[job["id"]].may_have_been_sent
    assert taken[job["id"]].ask_database
    assert await consumer.claim(taken[job["id"]], "1") is Verdict.UNCERTAIN
    other = taken["2" if job["id"] == "1" else "1"]
    assert await consumer.claim(other, "2") is Verdict.CLAIMED
    assert listed(queue) == ["another worker took it and never finished"]


async def test_a_job_that_node_tried_and_that_failed_in_order_is_not_uncertain(app: App, process: MakeConsumer) -> None:
    app.ask("add", name="x", data={"campaignId": 1}, opts={"attempts": 3, "backoff": 1})
    app.ask("take", token="node")
    app.ask("fail", token="node", message="busy")
    app.ask("promote", id="1")
    [job] = await process().take()
    assert (job.attempts_made, job.may_have_been_sent) == (1, False)


async def test_jobs_that_were_there_before_us_are_asked_for(
    app: App, process: MakeConsumer, queue: redis.Redis
) -> None:
    queue.delete(f"{OWN}:state")
    add(app, 1)
    consumer = process()
    [job] = await consumer.take()
    assert job.ask_database
    add(app, 1)
    [job] = await consumer.take()
    assert not job.ask_database
    # After ten minutes without any of us, others may have been at work again.
    add(app, 1)
    now_s, _ = cast("Any", queue.time())
    queue.hset(f"{OWN}:state", "seen", int(now_s) * 1000 - 601_000)
    [job] = await consumer.take()
    assert job.ask_database


async def test_a_failed_mail_is_sent_again_by_hand(app: App, process: MakeConsumer, queue: redis.Redis) -> None:
    add(app, 1)
    consumer = process()
    [job] = await consumer.take()
    await consumer.claim(job)
    await consumer.record(job, Failed("550 5.1.1 no such user"))
    assert app.ask("job", id=job.id)["failedReason"] == "550 5.1.1 no such user"
    app.ask("retry", id=job.id)
    [job] = await consumer.take()
    assert job.wanted_again
    assert await consumer.claim(job) is Verdict.CLAIMED
    await consumer.record(job, Sent("250 ok"))
    assert app.counts("completed", "failed") == {"completed": 1, "failed": 0}
    assert queue.hgetall(keys.counts("c")) == {b"failed": b"0", b"sent": b"1"}


async def test_by_hand_and_refused_for_now_it_stays_wanted(app: App, process: MakeConsumer) -> None:
    add(app, 1)
    consumer = process()
    [job] = await consumer.take()
    await consumer.claim(job)
    await consumer.record(job, Failed("550"))
    app.ask("retry", id=job.id)
    [job] = await consumer.take()
    await consumer.claim(job)
    await consumer.record(job, Retry("450"))
    await consumer.settle(bullmq.delay(job, 1, spent=True, reason="450", slow_downs=0))
    app.ask("promote", id=job.id) if app.counts("delayed")["delayed"] else None
    [job] = await consumer.take()
    assert await consumer.claim(job) is Verdict.CLAIMED


async def test_a_sent_mail_is_never_sent_again_by_hand(app: App, process: MakeConsumer) -> None:
    add(app, 1)
    consumer = process()
    [job] = await consumer.take()
    await consumer.send(job)
    app.ask("retry", id=job.id, state="completed")
    [job] = await consumer.take()
    assert await consumer.claim(job) is Verdict.DONE
    await consumer.settle(bullmq.already_done(entry_of(job)))
    assert app.counts("completed", "failed") == {"completed": 1, "failed": 0}


async def test_two_jobs_of_one_recipient(app: App, process: MakeConsumer, queue: redis.Redis) -> None:
    add(app, 2)
    consumer = process()
    first, second = await consumer.take()
    await consumer.claim(first)
    assert await consumer.claim(second) is Verdict.BUSY
    await consumer.record(first, Failed("550 no"))
    # The second one's end is the first one's result.
    assert await consumer.claim(second) is Verdict.DONE
    await consumer.settle(bullmq.already_done(entry_of(second)))
    assert app.ask("job", id=second.id)["failedReason"] == "550 no"
    # Tried again by hand, one is sent; then the other one is known to be sent.
    app.ask("retry", id=second.id)
    [second] = await consumer.take()
    await consumer.send(second)
    app.ask("retry", id=first.id)
    [first] = await consumer.take()
    assert await consumer.claim(first) is Verdict.DONE
    await consumer.settle(bullmq.already_done(entry_of(first)))
    assert app.counts("completed", "failed") == {"completed": 2, "failed": 0}
    assert queue.hget(keys.counts("c"), "sent") == b"1"


async def test_outside_a_campaign_ids_may_come_again(app: App, process: MakeConsumer) -> None:
    add(app, 1)
    consumer = process()
    [job] = await consumer.take()
    await consumer.send(job, campaign=None)
    assert app.counts("completed")["completed"] == 1


@pytest.mark.parametrize(
    "data", [b"", b"null", b'"text"', b"[1]", b"{", b'{"campaignId": 1', b'{"html": "\\ud83d"}', b"\xff\xfe", b"7"]
)
async def test_whatever_its_data_is_a_job_is_taken_and_ended(
    app: App, process: MakeConsumer, queue: redis.Redis, data: bytes
) -> None:
    add(app, 1)
    queue.hset(f"{BULLMQ}:1", "data", data)
    queue.hset(keys.CONTROL, "somebody", "paused:for the sake of it")
    consumer = process()
    [job] = await consumer.take()
    assert job.data == data
    await consumer.settle(bullmq.fail(job, "not a mail: it's rubbish", [-1, -1, 1000]))
    assert app.counts("failed")["failed"] == 1
    assert json.loads(queue.hget(f"{BULLMQ}:1", "stacktrace") or b"") == ["not a mail: it's rubbish"]


async def test_locks_are_renewed_and_given_up(app: App, process: MakeConsumer, queue: redis.Redis) -> None:
    add(app, 2)
    consumer = process()
    ours, lost = await consumer.take()
    queue.pexpire(f"{BULLMQ}:{ours.id}:lock", 1000)
    queue.set(f"{BULLMQ}:{lost.id}:lock", "somebody else's")
    await consumer.beat()
    assert queue.pttl(f"{BULLMQ}:{ours.id}:lock") > 250_000
    assert lock(queue, lost) == "somebody else's"
    assert queue.hkeys(f"{OWN}:taken:p1") == [ours.id.encode()]
    await consumer.settle(bullmq.back(lost, None))
    assert app.counts("active")["active"] == 2


async def test_a_lock_that_ended_while_redis_was_away_is_taken_again(
    app: App, process: MakeConsumer, queue: redis.Redis
) -> None:
    add(app, 1)
    consumer = process()
    [job] = await consumer.take()
    queue.delete(f"{BULLMQ}:{job.id}:lock")
    await consumer.beat()
    assert lock(queue, job) == "mail-worker:p1"
    await consumer.send(job)
    assert app.counts("completed")["completed"] == 1


async def test_what_is_given_back_unsent_was_never_started(app: App, process: MakeConsumer) -> None:
    # A Node worker beside with maxStartedAttempts counts them.
    add(app, 1)
    consumer = process()
    [job] = await consumer.take()
    await consumer.settle(bullmq.back(job, None))
    assert app.ask("job", id="1")["attemptsStarted"] == 0
    [job] = await consumer.take()
    await consumer.settle(bullmq.delay(job, 0, spent=False, reason="", slow_downs=3, losses=2))
    assert app.ask("job", id="1")["attemptsStarted"] == 0
    [job] = await consumer.take()
    assert (job.attempts_made, job.slow_downs, job.losses, job.may_have_been_sent) == (0, 3, 2, False)


@pytest.mark.parametrize("major", [5], indirect=True)
@pytest.mark.parametrize("rule", [True, False])
async def test_on_a_paused_queue_of_5_neither_list_may_be_written(
    app: App, client: CountingRedis, monkeypatch: pytest.MonkeyPatch, rule: bool
) -> None:
    """Without the rule, as BullMQ 6 would do it, jobs are lost: so the tests above can fail."""
    if not rule:

        def without_rule(*names: str) -> str:
            text = script(*names)
            assert "if paused() then\ndelay(id, REAL_MS, 0)" in text
            return text.replace("if paused() then\ndelay(id, REAL_MS, 0)", "if false then\ndelay(id, REAL_MS, 0)")

        monkeypatch.setattr(bullmq, "script", without_rule)
    consumer = Consumer(client, "p")
    add(app, 6)
    taken = await consumer.take(3)
    app.ask("pause")
    for job in taken:
        await consumer.settle(bullmq.back(job, None))
    app.ask("resume")
    found = {job.id for _ in range(3) for job in await consumer.take(10)}
    assert (len(found) == 6) is rule


async def test_a_hundred_idle_processes_and_one_job(app: App, process: MakeConsumer, queue: redis.Redis) -> None:
    processes = [process() for _ in range(100)]
    assert sum([(await one.fetch()).listens for one in processes]) == 1
    add(app, 1)
    assert sum([len(await one.take()) for one in processes]) == 1
    assert queue.llen(keys.WAITING) == 0
    # The one that listens dies: once its lease has ended, the next one that beats listens.
    queue.delete(f"{OWN}:ear")
    assert sum([(await one.beat(idle=True)).listens for one in processes]) == 1


async def test_a_campaign_is_resumed_between_a_claim_and_its_parking(
    app: App, process: MakeConsumer, queue: redis.Redis
) -> None:
    add(app, 1, "c")
    consumer, control = process(), Control(queue, BULLMQ)
    [job] = await consumer.take()
    control.pause("c")
    assert await consumer.claim(job) is Verdict.PAUSED
    control.resume("c")
    await consumer.settle(bullmq.park(job, "c"))
    assert [one.id for one in await consumer.take()] == [job.id]


async def test_a_dead_processs_job_takes_all_of_the_apps_concurrency(
    app: App, process: MakeConsumer, queue: redis.Redis
) -> None:
    add(app, 5)
    app.ask("setGlobalConcurrency", concurrency=1)
    dead, other = process(), process()
    await dead.take()
    die(queue, dead)
    await other.beat(dead_after_ms=1000, idle=True)
    assert queue.lrange(keys.WAITING, 0, -1) == [keys.WAKE.encode()]
    assert len(await other.take()) == 1


async def test_a_dead_processs_job_waits_while_the_queue_is_paused(
    app: App, process: MakeConsumer, queue: redis.Redis
) -> None:
    add(app, 2)
    dead, other = process(), process()
    await dead.take()
    app.ask("pause")
    die(queue, dead)
    await other.beat(dead_after_ms=1000, idle=True)
    assert await other.take() == []
    app.ask("resume")
    assert len(await other.take()) == 2


async def test_what_node_may_have_sent_stays_so_when_we_die_too(
    app: App, process: MakeConsumer, queue: redis.Redis
) -> None:
    add(app, 1)
    app.ask("take", token="node")
    queue.delete(f"{BULLMQ}:1:lock")
    dead, other = process(), process()
    for _ in range(2):
        queue.delete(f"{BULLMQ}:stalled-check")
        await dead.beat()
    [job] = await dead.take()
    [job] = await adopt(queue, dead, other)
    assert (job.may_have_been_sent, job.ask_database) == (True, True)
    await other.settle(bullmq.back(job, None))
    [job] = await other.take()
    assert job.may_have_been_sent


async def test_what_is_held_outlives_the_trimming(app: App, process: MakeConsumer, queue: redis.Redis) -> None:
    add(app, 3)
    consumer = process(hold_uncertain=True)
    held, *others = await consumer.take()
    await consumer.claim(held, "held")
    await consumer.record(held, Uncertain("lost"), "held")
    await consumer.settle(bullmq.hold(held, entry_of(held, "held").name, "lost"))
    for other in others:
        await consumer.claim(other, other.id)
        await consumer.record(other, Failed("550"), other.id, keep=(1, -1, 1000))
    assert {job["id"] for job in app.ask("jobs", types=["failed"])} >= {held.id}
    [mail] = UncertainMails(queue).all()
    assert UncertainMails(queue).resend(mail)


async def test_a_held_jobs_id_comes_again_after_an_obliterate(
    app: App, process: MakeConsumer, queue: redis.Redis
) -> None:
    add(app, 1)
    consumer = process(hold_uncertain=True)
    [held] = await consumer.take()
    await consumer.claim(held, "a")
    await consumer.record(held, Uncertain("lost"), "a")
    await consumer.settle(bullmq.hold(held, entry_of(held, "a").name, "lost"))
    app.ask("obliterate")
    add(app, 1)
    [other] = await consumer.take()
    assert other.id == held.id
    await consumer.claim(other, "b")
    await consumer.record(other, Failed("550"), "b")
    mails = UncertainMails(queue)
    [mail] = mails.all()
    assert not mails.resend(mail)
    assert app.counts("failed")["failed"] == 1
    mails.mark_sent(mail)
    assert queue.hlen(keys.HELD_MESSAGES) == 0


async def test_a_late_result_leaves_another_job_of_the_same_id_alone(app: App, process: MakeConsumer) -> None:
    app.ask("add", name="x", data={"email": "a@example.org"}, opts={"jobId": "custom"})
    consumer = process()
    [old] = await consumer.take()
    await consumer.claim(old, "a")
    app.ask("obliterate", force=True)
    app.ask("add", name="x", data={"email": "b@example.org"}, opts={"jobId": "custom"})
    [new] = await consumer.take()
    await consumer.record(old, Sent("250"), "a")
    assert app.ask("state", id="custom") == "active"
    await consumer.send(new, "b")
    assert app.ask("state", id="custom") == "completed"


async def test_no_lock_is_put_on_a_job_that_is_not_active(app: App, process: MakeConsumer, queue: redis.Redis) -> None:
    add(app, 1)
    consumer = process()
    await consumer.take()
    app.ask("obliterate", force=True)
    await consumer.beat()
    add(app, 1)
    assert queue.exists(f"{BULLMQ}:1:lock") == 0
    app.ask("remove", id="1")


async def test_a_job_that_bullmq_fails_after_our_claim_is_listed(
    app: App, process: MakeConsumer, queue: redis.Redis
) -> None:
    add(app, 1)
    dead, other = process(), process()
    [job] = await dead.take()
    await dead.claim(job)
    queue.hset(f"{BULLMQ}:1", "defa", "job stalled")
    [job] = await adopt(queue, dead, other)
    await other.ledger.record(entry_of(job), "", Failed(job.failed_by_queue))
    assert app.ask("state", id="1") == "failed"
    assert listed(queue) == ["its process died, and its job can't be tried again"]
    state: Any = queue.hget(keys.ledger("c"), "s")
    assert state.startswith(b"f:")


async def test_what_was_left_standing_hides_nothing_for_long(
    app: App, process: MakeConsumer, queue: redis.Redis
) -> None:
    add(app, 1)
    queue.hset(f"{BULLMQ}:1", "rjk", "nightly")
    consumer = process()
    assert await consumer.take() == []
    queue.lpop(f"{BULLMQ}:wait")  # Another worker took it.
    add(app, 1)
    queue.delete(f"{BULLMQ}:marker")  # Who listened died with it.
    now_s, _ = cast("Any", queue.time())
    queue.hset(f"{OWN}:state", "left_at", (int(now_s) - 121) * 1000)
    await consumer.beat(idle=True)
    assert queue.lrange(keys.WAITING, 0, -1) == [keys.WAKE.encode()]


@pytest.mark.parametrize("opts", ["7", "null", "x", '{"delay":1.5}'])
async def test_whatever_stands_there_an_ended_job_is_in_a_list(
    app: App, process: MakeConsumer, queue: redis.Redis, opts: str
) -> None:
    deduplication = {"deduplication": {"id": "d", "keepLastIfActive": True}}
    app.ask("add", name="x", data={}, opts=deduplication)
    consumer = process()
    [job] = await consumer.take()
    app.ask("add", name="x", data={}, opts=deduplication)
    queue.hset(f"{BULLMQ}:dn:d", "opts", opts)
    await consumer.send(job)
    assert app.ask("state", id=job.id) == "completed"
    assert [one.id for one in await consumer.take()] == ["2"]


async def test_a_limit_with_half_a_millisecond(app: App, process: MakeConsumer, queue: redis.Redis) -> None:
    app.ask("setGlobalRateLimit", max=2, duration=60_000.5)
    add(app, 5)
    assert len(await process().take()) == 2
    assert queue.pttl(f"{BULLMQ}:limiter") > 0


async def test_a_message_of_a_campaign_named_like_bullmqs_lane(process: MakeConsumer, queue: redis.Redis) -> None:
    queue.hset(keys.MESSAGES, "i", json.dumps({"args": [{"campaignId": "\x01bullmq"}], "options": {}}))
    queue.rpush(keys.WAITING, "i")
    assert len((await process().fetch()).messages) == 1


async def test_two_jobs_of_one_recipient_and_node_dies_with_one(
    app: App, process: MakeConsumer, queue: redis.Redis
) -> None:
    add(app, 2)
    job = app.ask("take", token="node")
    consumer = process()
    [second] = await consumer.take()
    await consumer.send(second)
    queue.delete(f"{BULLMQ}:{job['id']}:lock")
    for _ in range(2):
        queue.delete(f"{BULLMQ}:stalled-check")
        await consumer.beat()
    [first] = await consumer.take()
    assert await consumer.claim(first) is Verdict.DONE
    assert listed(queue) == ["another worker took a second job of it and never finished"]


@pytest.mark.parametrize("decision", ["sent", "nothing"])
async def test_what_is_decided_before_it_is_held_isnt_held(
    app: App, process: MakeConsumer, queue: redis.Redis, decision: str
) -> None:
    add(app, 1)
    consumer = process(hold_uncertain=True)
    [job] = await consumer.take()
    assert await consumer.claim(job) is Verdict.CLAIMED
    await consumer.ledger.record(Entry("c", "s", ""), f"{consumer.name}:{job.id}", Uncertain("lost"))
    if decision == "sent":  # By an operator, before the job has got its place among the held ones.
        mark_sent(queue, Entry("c", "s", "another identity"))
    await consumer.settle(bullmq.hold(job, entry_of(job).name, "lost"))
    assert queue.hlen(keys.HELD_MESSAGES) == (0 if decision == "sent" else 1)
    assert app.counts("failed", "waiting", "delayed")["failed"] == (0 if decision == "sent" else 1)
