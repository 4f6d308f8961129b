"""What breaks at night: processes, Redis, the SMTP server, the database, and what people put into the queue."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from demo.campaign import Campaign
from demo.tally import tally
from testbed.services import Services
from tests.integration.conftest import MakeCampaign
from tests.integration.programs import Programs, wait_until
from worker.base import keys

#: 36 s until a process counts as dead, half of it until another one looks, and some.
RECOVERY_SECONDS = 100.0


@pytest.fixture
def campaign(make_campaign: MakeCampaign) -> Campaign:
    """A campaign of 49 recipients, none of whom is refused, in jobs.jsonl."""
    return make_campaign(49)


@pytest.fixture(autouse=True)
def all_services_run(services: Services) -> Iterator[None]:
    yield
    for service in ("redis", "postgrest", "smtp"):
        services.control(service, "start")


def one_mail_to(kind: str, make_campaign: MakeCampaign, directory: Path) -> Campaign:
    """A campaign with one recipient, whom the SMTP server treats by `kind`, in jobs.jsonl."""
    campaign = make_campaign(1)
    jobs = directory / "jobs.jsonl"
    jobs.write_text(jobs.read_text(encoding="utf-8").replace("reader-0.", f"{kind}-0."), encoding="utf-8")
    return campaign


def test_a_killed_workers_mails_go_out_once(
    make_campaign: MakeCampaign, programs: Programs, services: Services, tmp_path: Path
) -> None:
    campaign = make_campaign(640)
    programs.start("record")
    victim = programs.start("run", SUPERVISOR_PROCESS_NAME="victim", WORKER_CONCURRENCY="20")
    programs.start("run", SUPERVISOR_PROCESS_NAME="other")
    victim.wait_for("mails at once")
    programs.run("enqueue", str(tmp_path / "jobs.jsonl"))
    wait_until(lambda: tally(services, campaign).accepted > 50)
    victim.kill()

    wait_until(lambda: tally(services, campaign).accounted_for, RECOVERY_SECONDS)
    result = tally(services, campaign)
    # Those that were between DATA and the reply are the uncertain ones: sent again, with the same Message-ID.
    assert result.unique + result.failed == 640
    assert result.accepted - result.unique <= 20
    lines = [line for line in services.accepted() if campaign.tag in line["rcpt"]]
    assert len({line["message_id"] for line in lines}) == result.unique


def test_one_term_ends_a_worker_without_loss(
    programs: Programs, services: Services, campaign: Campaign, tmp_path: Path
) -> None:
    programs.start("record")
    programs.run("enqueue", str(tmp_path / "jobs.jsonl"))
    first = programs.start("run", SUPERVISOR_PROCESS_NAME="first", WORKER_CONCURRENCY="2")
    wait_until(lambda: tally(services, campaign).accepted > 3)
    assert first.stop() == 0
    assert "Stopped." in first.text()
    programs.start("run", SUPERVISOR_PROCESS_NAME="second")
    wait_until(lambda: tally(services, campaign).accounted_for)
    assert tally(services, campaign).accepted == 49


@pytest.mark.parametrize("action", ["restart", "kill"])
def test_redis_may_go_and_come_back(
    action: str,
    make_campaign: MakeCampaign,
    programs: Programs,
    services: Services,
    queue: redis.Redis,
    tmp_path: Path,
) -> None:
    # By the default, everysec, a Redis that is killed may forget what it has already confirmed.
    queue.config_set("appendfsync", "always")
    campaign = make_campaign(160)
    programs.run("enqueue", str(tmp_path / "jobs.jsonl"))
    programs.start("record")
    programs.start("run", SUPERVISOR_PROCESS_NAME="worker", WORKER_CONCURRENCY="2")
    wait_until(lambda: tally(services, campaign).accepted > 20)
    if action == "restart":
        services.control("redis", "restart")
    else:
        services.control("redis", "kill")
        services.control("redis", "start")
    wait_until(lambda: tally(services, campaign).accounted_for, RECOVERY_SECONDS)
    result = tally(services, campaign)
    assert (result.accepted, result.unique) == (158, 158)


def test_a_redis_that_stalls_counts_as_away(
    make_campaign: MakeCampaign, programs: Programs, services: Services, queue: redis.Redis, tmp_path: Path
) -> None:
    campaign = make_campaign(160)
    programs.run("enqueue", str(tmp_path / "jobs.jsonl"))
    programs.start("record")
    worker = programs.start("run", WORKER_CONCURRENCY="2")
    wait_until(lambda: tally(services, campaign).accepted > 20)
    # Connections stay open, and nothing is answered for longer than a socket's time-out. Which of the worker's calls
    # runs into it is chance: a fetch, a beat or a result. Each says when it's over.
    queue.client_pause(20_000)
    worker.wait_for("Redis doesn't answer")
    wait_until(lambda: tally(services, campaign).accounted_for, RECOVERY_SECONDS)
    result = tally(services, campaign)
    assert (result.accepted, result.unique) == (158, 158)
    worker.wait_for("Redis answers again.")


def test_a_full_redis_is_emptied(
    make_campaign: MakeCampaign, programs: Programs, services: Services, queue: redis.Redis, tmp_path: Path
) -> None:
    campaign = make_campaign(160)
    programs.run("enqueue", str(tmp_path / "jobs.jsonl"))
    programs.start("record")
    wait_until(lambda: queue.exists(keys.OUTBOX) == 1)
    limit = str(queue.config_get("maxmemory")["maxmemory"])
    # As when an app has queued until it was refused; the workers themselves need some, too.
    queue.config_set("maxmemory", "1mb")
    try:
        code, printed = programs.run("enqueue", str(tmp_path / "jobs.jsonl"))
        assert (code, "Redis is full" in printed) == (1, True)
        worker = programs.start("run")
        wait_until(lambda: tally(services, campaign).accounted_for, RECOVERY_SECONDS)
    finally:
        queue.config_set("maxmemory", limit)
    assert "Redis is full" not in worker.text()
    result = tally(services, campaign)
    assert (result.accepted, result.unique) == (158, 158)


def test_mails_wait_for_the_smtp_server_without_spending_attempts(
    programs: Programs, services: Services, campaign: Campaign, tmp_path: Path
) -> None:
    services.control("smtp", "stop")
    programs.start("record")
    worker = programs.start("run", MAIL_RETRY_HOURS="0")
    programs.run("enqueue", str(tmp_path / "jobs.jsonl"))
    worker.wait_for("Mails wait; no attempt is spent.")
    services.control("smtp", "start")
    wait_until(lambda: tally(services, campaign).accounted_for)
    assert tally(services, campaign).unique == 49
    assert worker.text().count("Mails wait") == 1
    worker.wait_for("Mails leave again.")


def test_the_accounts_quota_fails_no_recipient(
    make_campaign: MakeCampaign, programs: Programs, services: Services, tmp_path: Path
) -> None:
    campaign = one_mail_to("quota", make_campaign, tmp_path)
    programs.start("record")
    worker = programs.start("run", MAIL_RETRY_HOURS="0", MAIL_ACCOUNT_PAUSE_SECONDS="3")
    programs.run("enqueue", str(tmp_path / "jobs.jsonl"))
    worker.wait_for("(550 5.4.5 the account's daily limit is exceeded). The account is paused on all hosts for 3 s")
    assert "STOPPED    SMTP server" in programs.run("status")[1]
    wait_until(lambda: tally(services, campaign).status == "sent")
    assert tally(services, campaign).accepted == 1
    assert "STOPPED" not in programs.run("status")[1]


def test_results_wait_for_the_database(
    programs: Programs, services: Services, queue: redis.Redis, campaign: Campaign, tmp_path: Path
) -> None:
    services.control("postgrest", "stop")
    recorder = programs.start("record")
    programs.start("run")
    programs.run("enqueue", str(tmp_path / "jobs.jsonl"))
    wait_until(lambda: tally(services, campaign).accepted == 49)
    recorder.wait_for("Results wait in the outbox.")
    assert queue.xlen(keys.OUTBOX) == 49
    services.control("postgrest", "start")
    wait_until(lambda: tally(services, campaign).accounted_for)


def test_a_killed_recorders_results_reach_the_database(
    programs: Programs, services: Services, queue: redis.Redis, campaign: Campaign, tmp_path: Path
) -> None:
    services.control("postgrest", "stop")
    programs.start("run")
    programs.run("enqueue", str(tmp_path / "jobs.jsonl"))
    victim = programs.start("record", SUPERVISOR_PROCESS_NAME="recorder")
    victim.wait_for("Results wait in the outbox.")
    victim.kill()
    services.control("postgrest", "start")
    programs.start("record", SUPERVISOR_PROCESS_NAME="recorder")  # supervisord would start it again
    wait_until(lambda: tally(services, campaign).accounted_for)
    assert queue.xlen(keys.OUTBOX) == 0


def _message(identity: str, **changes: object) -> bytes:
    message = {
        "queue_name": keys.QUEUE,
        "actor_name": keys.ACTOR,
        "args": [],
        "kwargs": {},
        "options": {"redis_message_id": identity},
        "message_id": identity,
        "message_timestamp": 0,
    }
    return json.dumps({**message, **changes}).encode()


JOB = {"to": "a@example.org", "from": "b@example.org", "subject": "s", "html": "x"}
#: Each with a part of the reason that it gets.
RUBBISH = {
    "text": (b"not JSON \xff", "not a message: "),
    "list": (b"[1, 2]", "not a message: its JSON isn't an object"),
    "no fields": (b'{"options": {"redis_message_id": "no fields"}}', "not a message: its queue_name isn't a str"),
    "actor": (
        _message("actor", actor_name="format_disk"),
        "its actor_name is 'format_disk', but only send_mail is known",
    ),
    "half a character": (_message("half a character", message_id="\ud83d"), "not a message: its message_id isn't text"),
    "no job": (_message("no job"), "its args hold 0 values and its kwargs 0, but one job is due"),
    "wrong type": (_message("wrong type", args=[{**JOB, "html": 7}]), "invalid job: html is a number"),
    "30 MB": (_message("30 MB", args=[{**JOB, "html": "x" * 30_000_000}]), "the message has 30000"),
    "injection": (
        _message("injection", args=[{**JOB, "subject": "s\r\nBcc: c@example.org"}]),
        "invalid job: subject holds a line break or another control character",
    ),
    "injection into a header": (
        _message("injection into a header", args=[{**JOB, "headers": {"X-A": "1\nBcc: c@example.org"}}]),
        "invalid job: headers.X-A holds a line break or another control character",
    ),
    "a million recipients": (
        _message("a million recipients", args=[{**JOB, "to": "a@b.c," * 700_000}]),
        "invalid job: to is longer than 50,000 characters",
    ),
    "a list of recipients": (
        _message("a list of recipients", args=[{**JOB, "to": ["a@b.c"] * 100_000}]),
        "invalid job: to holds 100000 addresses; at most 50 are sent to in one mail",
    ),
}


def test_rubbish_in_the_queue_goes_to_the_dead_letters(
    programs: Programs, services: Services, queue: redis.Redis, campaign: Campaign, tmp_path: Path
) -> None:
    queue.hset(keys.MESSAGES, mapping={identity: data for identity, (data, _) in RUBBISH.items()})
    queue.rpush(keys.WAITING, *RUBBISH)
    programs.run("enqueue", str(tmp_path / "jobs.jsonl"))
    # Delayed ones that are due at no time that there is.
    for eta in ("nan", "inf", 1e300):
        queue.hset(keys.DELAYED_MESSAGES, f"due {eta}", _message(f"due {eta}", options={"eta": eta}))
        queue.rpush(keys.DELAYED, f"due {eta}")
    programs.start("record")
    programs.start("run")
    wait_until(lambda: tally(services, campaign).accounted_for)
    wait_until(lambda: queue.zcard(keys.DEAD_LETTERS) == len(RUBBISH) + 3)
    for identity, (data, words) in RUBBISH.items():
        assert queue.hget(keys.DEAD_LETTER_MESSAGES, identity) == data
        reason: Any = queue.get(keys.dead_letter_reason(identity))
        assert reason.decode().startswith(words)
    assert queue.hlen(keys.MESSAGES) == 0
    assert f"{len(RUBBISH) + 3} messages that can't be worked on" in programs.run("status")[1]


def test_a_broken_job_fails_its_recipient_or_becomes_a_dead_letter(
    programs: Programs, services: Services, queue: redis.Redis
) -> None:
    campaign = Campaign.invent(1)
    campaign.insert(services.database_url)
    broken: dict[str, object] = {"to": "nobody", "from": "a@example.org", "html": "x"}
    jobs = {
        "known": {**broken, "campaignId": campaign.id, "subscriberId": campaign.subscriber_ids[0]},
        "unknown": broken,
    }
    for identity, job in jobs.items():
        queue.hset(keys.MESSAGES, identity, _message(identity, args=[job]))
        queue.rpush(keys.WAITING, identity)
    programs.start("record")
    programs.start("run")
    wait_until(lambda: tally(services, campaign).status == "sent")
    wait_until(lambda: queue.zcard(keys.DEAD_LETTERS) == 1)
    state: Any = queue.hget(keys.ledger(campaign.id), campaign.subscriber_ids[0])
    assert state.startswith(b"f:")
    assert state.endswith(b"invalid job: to isn't one mail address: 'nobody'")
    assert queue.get(keys.dead_letter_reason("unknown")) == b"invalid job: to isn't one mail address: 'nobody'"


def test_a_mail_that_stays_refused_for_now_fails_in_the_end(
    make_campaign: MakeCampaign, programs: Programs, services: Services, queue: redis.Redis, tmp_path: Path
) -> None:
    campaign = one_mail_to("busy", make_campaign, tmp_path)
    programs.start("record")
    programs.start("run", MAIL_RETRY_HOURS="0")
    programs.run("enqueue", str(tmp_path / "jobs.jsonl"))
    wait_until(lambda: tally(services, campaign).status == "sent")
    state: Any = queue.hget(keys.ledger(campaign.id), campaign.subscriber_ids[0])
    assert state.endswith(b"given up after 1 attempts: 450 4.2.0 the mailbox is busy, try again later")
