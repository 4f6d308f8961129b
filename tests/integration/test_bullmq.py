"""The web app's own queue, by the worker's own programs on all real services: what the app sees, and what arrives."""

import json
import re
from collections.abc import Callable
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import psycopg
import pytest
import redis

from demo.campaign import Campaign
from testbed.app import App, Major
from testbed.services import Services
from tests.integration.consumers import BULLMQ
from tests.integration.programs import Programs, wait_until
from worker.base import keys

Connection = psycopg.Connection[tuple[object, ...]]
#: Of an app that leaves it to the worker how many finished jobs are kept.
QUIET = {"BULLMQ_KEEP_COMPLETED": "1000000"}


def jobs_of(campaign: Campaign, kinds: dict[int, str] | None = None) -> list[dict[str, Any]]:
    """As the app's route makes them: one for each recipient, in its shape."""
    found = []
    for number, subscriber_id in enumerate(campaign.subscriber_ids):
        kind = (kinds or {}).get(number, "reader")
        email = f"{kind}-{number}.{campaign.tag}@testbed.example"
        data = {
            "campaignId": campaign.id,
            "subscriberId": subscriber_id,
            "email": email,
            "subject": "Hello",
            "html": "<p>Dear {{name}}</p>",
            "subscriberName": f"Zoë <{number}>",
        }
        found.append({"name": f"email-{campaign.id}-{email}", "data": data})
    return found


@pytest.fixture(params=[5])
def major(request: pytest.FixtureRequest) -> Major:
    """What only one of the majors shows is tested step by step, in the other modules."""
    return cast("Major", request.param)


@pytest.fixture
def make_rows(services: Services) -> Callable[[int], Campaign]:
    """A campaign of so many recipients in the database alone."""

    def make(recipients: int) -> Campaign:
        campaign = Campaign.invent(recipients, busy=False)
        campaign.insert(services.database_url)
        return campaign

    return make


def accepted(services: Services, campaign: Campaign) -> list[dict[str, Any]]:
    return [line for line in services.accepted() if f".{campaign.tag}@" in line["rcpt"]]


def status(database: Connection, campaign: Campaign) -> Any:
    row = database.execute("SELECT status FROM campaigns WHERE id = %s", (campaign.id,)).fetchone()
    return row[0] if row else None


def rows_sent(database: Connection, campaign: Campaign) -> Any:
    query = "SELECT count(*) FROM campaign_subscribers WHERE campaign_id = %s AND sent"
    row = database.execute(query, (campaign.id,)).fetchone()
    return row[0] if row else None


@pytest.mark.parametrize("major", [5, 6], indirect=True)
def test_a_campaign_as_the_app_queues_it(
    app: App,
    programs: Programs,
    services: Services,
    queue: redis.Redis,
    database: Connection,
    make_rows: Callable[[int], Campaign],
) -> None:
    campaign = make_rows(60)
    app.ask("listen")
    programs.start("record")
    for _ in range(2):
        programs.start("run", **QUIET)
    ids = app.ask("addBulk", jobs=jobs_of(campaign, {7: "refused"}))
    finished = app.start("waitUntilFinished", id=ids[0])
    wait_until(lambda: app.counts("completed", "failed") == {"completed": 59, "failed": 1})
    assert app.counts("waiting", "active", "delayed", "prioritized") == dict.fromkeys(
        ("waiting", "active", "delayed", "prioritized"), 0
    )
    assert app.wait(finished)["response"].startswith("250 ")
    # The app says `sending` after addBulk, and here after the last mail.
    wait_until(lambda: status(database, campaign) == "sent")
    database.execute("UPDATE campaigns SET status = 'sending' WHERE id = %s", (campaign.id,))
    wait_until(lambda: status(database, campaign) == "sent")
    assert rows_sent(database, campaign) == 59
    [failed] = app.ask("jobs", types=["failed"])
    assert failed["failedReason"] == "550 5.1.1 there is no such mailbox"
    assert (failed["attemptsMade"], failed["data"]["subscriberId"]) == (1, campaign.subscriber_ids[7])
    assert len(app.ask("workers")) == 2
    events = [event for event, _ in app.ask("events")]
    assert (events.count("completed"), events.count("failed"), events.count("active")) == (59, 1, 60)
    mails = accepted(services, campaign)
    assert len({line["rcpt"] for line in mails}) == len(mails) == 59
    # The app's clear route.
    app.ask("clean", type="completed")
    app.ask("clean", type="failed")
    assert app.counts("completed", "failed") == {"completed": 0, "failed": 0}


def test_the_mail_is_the_apps_mail(
    app: App, programs: Programs, services: Services, make_rows: Callable[[int], Campaign]
) -> None:
    campaign = make_rows(1)
    programs.start(
        "run",
        MAIL_FROM="",
        FROM_EMAIL="Brand <brand@testbed.example>",
        MAIL_REPLY_TO="reply@testbed.example",
        MAIL_HEADERS=json.dumps({"X-Priority": "3", "List-Unsubscribe": "<mailto:off@testbed.example>"}),
    )
    app.ask("addBulk", jobs=jobs_of(campaign))
    wait_until(lambda: len(accepted(services, campaign)) == 1)
    [entry] = accepted(services, campaign)
    mail = message_from_bytes((services.mail_directory / entry["file"]).read_bytes(), policy=policy.default)
    assert (mail["from"], mail["reply-to"]) == ("Brand <brand@testbed.example>", "reply@testbed.example")
    assert (mail["x-priority"], mail["list-unsubscribe"]) == ("3", "<mailto:off@testbed.example>")
    html, text = mail.get_body(("html",)), mail.get_body(("plain",))
    assert html is not None
    assert text is not None
    assert "<p>Dear Zoë &lt;0&gt;</p>" in html.get_content()
    assert "Dear Zoë <0>" in text.get_content()


@pytest.mark.parametrize("major", [5, 6], indirect=True)
def test_refused_for_now_it_comes_back_by_the_apps_own_rules(
    app: App, programs: Programs, make_rows: Callable[[int], Campaign]
) -> None:
    campaign = make_rows(2)
    programs.start("run")
    first, second = jobs_of(campaign, {0: "busy", 1: "busy"})
    app.ask("addBulk", jobs=[{**first, "opts": {"attempts": 3, "backoff": 200}}])
    app.ask("addBulk", jobs=[{**second, "opts": {"attempts": 1}}])
    wait_until(lambda: app.counts("failed", "completed")["failed"] >= 1)
    failed = {job["id"]: job for job in app.ask("jobs", types=["failed"])}
    assert failed["2"]["failedReason"].startswith("given up after 1 attempts: 450 4.2.0")
    wait_until(lambda: app.ask("state", id="1") in ("completed", "failed"))
    assert app.ask("job", id="1")["attemptsMade"] in (2, 3)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ('"text"', "not a mail: the job is a string, but must be an object"),
        ("null", "not a mail: the job is null"),
        ("[]", "not a mail: the job is a list"),
        ("{", "not a mail: its data isn't JSON"),
        ('{"subject": "s"}', "not a mail: to (or email) is missing"),
        ('{"email": "a@b.example", "html": "x", "raw": "From: c"}', "not a mail: raw can't be sent"),
        ('{"email": "nobody", "html": "x"}', "not a mail: email isn't one mail address"),
    ],
)
def test_what_is_not_a_mail_fails_with_a_sentence(
    app: App, programs: Programs, queue: redis.Redis, services: Services, data: str, words: str
) -> None:
    good = {"email": f"reader.{uuid4().hex[:8]}@testbed.example", "html": "x"}
    app.ask("add", name="x", data=good, opts={"delay": 3_600_000})
    queue.hset(f"{BULLMQ}:1", "data", data)
    app.ask("add", name="x", data=good, opts={})
    queue.zadd(f"{BULLMQ}:delayed", {"1": 0})  # The app itself couldn't read it.
    programs.start("run")
    wait_until(lambda: app.counts("failed", "completed") == {"failed": 1, "completed": 1})
    reason: Any = queue.hget(f"{BULLMQ}:1", "failedReason")  # The npm package can't read all of these.
    assert reason.decode().startswith(words)


def test_a_campaigns_job_that_can_not_be_a_mail_fails_its_recipient(
    app: App, programs: Programs, database: Connection, make_rows: Callable[[int], Campaign]
) -> None:
    campaign = make_rows(2)
    broken, good = jobs_of(campaign)
    broken["data"]["email"] = "nobody"
    programs.start("record")
    programs.start("run")
    app.ask("addBulk", jobs=[broken, good])
    wait_until(lambda: status(database, campaign) == "sent")
    assert rows_sent(database, campaign) == 1
    [failed] = app.ask("jobs", types=["failed"])
    assert failed["failedReason"] == "invalid job: email isn't one mail address: 'nobody'"


def test_without_a_sender_the_campaign_waits(
    app: App, programs: Programs, make_rows: Callable[[int], Campaign]
) -> None:
    campaign = make_rows(3)
    program = programs.start("run", MAIL_FROM="", SMTP_USER="", MAIL_TRANSPORT="resend", RESEND_API_KEY="re_x")
    app.ask("addBulk", jobs=jobs_of(campaign))
    program.wait_for(f"campaign {campaign.id} is paused: from is missing")
    wait_until(lambda: app.counts("delayed", "failed") == {"delayed": 3, "failed": 0})
    program.stop()
    programs.start("run")
    assert programs.run("resume", campaign.id) == (0, f"campaign {campaign.id} goes on\n")
    wait_until(lambda: app.counts("completed")["completed"] == 3)


def test_what_others_have_sent_before_us_is_not_sent_again(
    app: App,
    programs: Programs,
    services: Services,
    queue: redis.Redis,
    database: Connection,
    make_rows: Callable[[int], Campaign],
) -> None:
    queue.delete(f"{keys.bullmq_own(BULLMQ)}:state")
    campaign = make_rows(20)
    # The cron sent five, and was cut off before it removed their jobs.
    database.execute(
        "UPDATE campaign_subscribers SET sent = true, sent_at = '2020-01-01' WHERE subscriber_id = ANY(%s::uuid[])",
        (list(campaign.subscriber_ids[:5]),),
    )
    jobs = jobs_of(campaign)
    # One that no row can have.
    jobs.append({"name": "x", "data": {**jobs[0]["data"], "subscriberId": "no uuid", "email": "reader@a.example"}})
    app.ask("addBulk", jobs=jobs)
    programs.start("record")
    programs.start("run", **QUIET)
    wait_until(lambda: app.counts("completed")["completed"] == 21)
    assert len(accepted(services, campaign)) == 15
    wait_until(lambda: status(database, campaign) == "sent")
    query = "SELECT count(*) FROM campaign_subscribers WHERE campaign_id = %s AND sent_at < '2021-01-01'"
    assert database.execute(query, (campaign.id,)).fetchone() == (5,)
    [job] = [one for one in app.ask("jobs", types=["completed"]) if one["id"] == "1"]
    assert job["returnvalue"]["response"] == "sent before by another worker, as its row says"


def test_without_the_database_only_those_wait_that_others_may_have_sent(
    app: App, programs: Programs, services: Services, queue: redis.Redis, make_rows: Callable[[int], Campaign]
) -> None:
    queue.delete(f"{keys.bullmq_own(BULLMQ)}:state")
    campaign = make_rows(4)
    jobs = jobs_of(campaign)
    app.ask("addBulk", jobs=jobs[:2])
    services.control("postgrest", "stop")
    try:
        program = programs.start("run")
        program.wait_for("Jobs that others may have sent wait.")
        app.ask("addBulk", jobs=jobs[2:])
        wait_until(lambda: app.counts("completed", "delayed") == {"completed": 2, "delayed": 2})
    finally:
        services.control("postgrest", "start")
    wait_until(lambda: app.counts("completed")["completed"] == 4)


def test_a_closed_account_locks_nothing(
    app: App, programs: Programs, queue: redis.Redis, make_rows: Callable[[int], Campaign]
) -> None:
    campaign = make_rows(50)
    programs.start("run", MAIL_RATE="10/h")
    app.ask("addBulk", jobs=jobs_of(campaign))
    wait_until(lambda: app.counts("completed")["completed"] == 10)
    wait_until(lambda: app.counts("waiting", "active") == {"waiting": 40, "active": 0})
    assert re.search(r": 40 waiting, the oldest for \d{1,2} s; 0 in work, ", programs.run("status")[1])
    app.ask("drain")
    assert app.counts("waiting", "active") == {"waiting": 0, "active": 0}
    assert queue.exists(*(f"{BULLMQ}:{number}" for number in range(1, 51))) == 10


def test_pause_resume_and_cancel_reach_the_apps_jobs(
    app: App, programs: Programs, services: Services, make_rows: Callable[[int], Campaign]
) -> None:
    waiting, dropped = make_rows(30), make_rows(10)
    assert programs.run("pause", waiting.id)[0] == 0
    program = programs.start("run", **QUIET)
    program.wait_for("mails at once")
    app.ask("addBulk", jobs=[*jobs_of(waiting), *jobs_of(dropped)[:5]])
    wait_until(lambda: app.counts("completed", "delayed") == {"completed": 5, "delayed": 30})
    text = programs.run("status")[1]
    assert "bullmq     bull:mail-queue: 0 waiting; 0 in work, 0 delayed, 5 completed, 0 failed" in text
    assert "30 jobs of paused campaigns are put off until mail-worker resume" in text
    assert programs.run("cancel", dropped.id)[0] == 0
    app.ask("addBulk", jobs=jobs_of(dropped)[5:])
    wait_until(lambda: app.counts("failed")["failed"] == 5)
    assert programs.run("resume", waiting.id)[0] == 0
    wait_until(lambda: app.counts("completed")["completed"] == 35)
    assert len(accepted(services, waiting)) == 30


def test_reconcile_finds_recipients_in_each_of_bullmqs_states(
    app: App, programs: Programs, queue: redis.Redis, make_rows: Callable[[int], Campaign]
) -> None:
    campaign = make_rows(7)
    jobs = jobs_of(campaign)
    app.ask("addBulk", jobs=[jobs[0]])
    app.ask("addBulk", jobs=[{**jobs[1], "opts": {"delay": 3_600_000}}, {**jobs[2], "opts": {"priority": 3}}])
    app.ask("addBulk", jobs=[jobs[3]])
    app.ask("take", token="node")
    app.ask("fail", token="node", message="no", unrecoverable=True)
    app.ask("take", token="node")
    app.ask("addBulk", jobs=[jobs[4]])
    code, text = programs.run("reconcile", campaign.id)
    assert code == 1
    assert "       4 waiting in the queue" in text
    assert "       1 failed in BullMQ's queue, as cancelled or by another worker" in text
    assert "       2 missing" in text


@pytest.mark.parametrize("major", [5, 6], indirect=True)
def test_check_says_what_it_finds(app: App, programs: Programs, queue: redis.Redis) -> None:
    code, text = programs.run("check")
    assert (code, f"bull:mail-queue of bullmq:{app.major}." in text) == (0, True)
    app.ask("add", name="x", data={"html": "x" * 100_000}, opts={})
    app.ask("upsertJobScheduler", id="nightly", repeat={"every": 10}, template={"name": "report", "data": {}})
    app.ask("worker", result="ok", options={"concurrency": 1})
    wait_until(lambda: app.counts("completed")["completed"] > 0)
    app.ask("pause")
    queue.zadd(f"{BULLMQ}:completed", {f"old-{number}": number for number in range(6000)})
    text = programs.run("check")[1]
    assert "the app has paused it: nothing is taken until it calls queue.resume()" in text
    assert "others work on it too (1 connected)" in text
    assert "completed jobs are kept and take about" in text
    code, text = programs.run("check", BULLMQ_QUEUE="other")
    assert code == 0
    assert "no app has opened bull:other in this Redis yet. There's bull:mail-queue." in text
    assert "bullmq" not in programs.run("check", BULLMQ_QUEUE="")[1]


def test_no_address_of_a_job_reaches_a_log(
    app: App, programs: Programs, tmp_path: Path, make_rows: Callable[[int], Campaign]
) -> None:
    campaign = make_rows(3)
    programs.start("run", LOG_LEVEL="DEBUG")
    jobs = jobs_of(campaign, {1: "refused"})
    jobs[2]["data"]["html"] = 7
    app.ask("addBulk", jobs=jobs)
    wait_until(lambda: sum(app.counts("completed", "failed").values()) == 3)
    programs.end()
    assert campaign.tag + "@" not in programs.printed()


def test_a_job_that_stalled_too_often_fails_with_bullmqs_words(
    app: App, programs: Programs, queue: redis.Redis, database: Connection, make_rows: Callable[[int], Campaign]
) -> None:
    campaign = make_rows(2)
    app.ask("addBulk", jobs=jobs_of(campaign))
    queue.hset(f"{BULLMQ}:1", "defa", "job stalled more than allowable limit")
    programs.start("record")
    programs.start("run")
    wait_until(lambda: app.counts("completed", "failed") == {"completed": 1, "failed": 1})
    assert app.ask("job", id="1")["failedReason"] == "job stalled more than allowable limit"
    wait_until(lambda: status(database, campaign) == "sent")


def test_a_full_redis_lets_the_apps_mails_out(
    app: App, programs: Programs, services: Services, queue: redis.Redis, make_rows: Callable[[int], Campaign]
) -> None:
    campaign = make_rows(100)
    jobs = jobs_of(campaign)
    for one in jobs:
        one["data"]["html"] = "x" * 10_000
    app.ask("addBulk", jobs=jobs)
    programs.start("record")
    wait_until(lambda: queue.exists(keys.OUTBOX) == 1)
    limit = str(queue.config_get("maxmemory")["maxmemory"])
    queue.config_set("maxmemory", "1mb")
    try:
        programs.start("run", BULLMQ_KEEP_COMPLETED="0")
        wait_until(lambda: len(accepted(services, campaign)) == 100)
    finally:
        queue.config_set("maxmemory", limit)
    wait_until(lambda: sum(app.counts("waiting", "active").values()) == 0)


def test_each_job_wakes_an_idle_process_without_a_heartbeats_help(app: App, programs: Programs) -> None:
    # Three processes, one of which listens, and none of which looks by itself within this test.
    for number in range(3):
        program = programs.start(
            "run", SUPERVISOR_PROCESS_NAME=f"w{number}", WORKER_CONCURRENCY="1", WORKER_DEAD_AFTER_SECONDS="600"
        )
        program.wait_for("mails at once")
    job = {"email": "reader@testbed.example", "html": "x"}
    wait_until(lambda: len(app.ask("workers")) == 3)
    for number in range(8):
        if number % 3 == 1:
            app.ask("add", name="late", data=job, opts={"delay": 3_600_000})
        ids = [app.ask("add", name="x", data=job, opts={}) for _ in range(1 + number % 3)]
        for identity in ids:
            wait_until(lambda identity=identity: app.ask("state", id=identity) == "completed")  # type: ignore[misc]


def test_a_campaign_that_no_row_can_have_keeps_no_other_one_from_being_recorded(
    app: App, programs: Programs, database: Connection, make_rows: Callable[[int], Campaign]
) -> None:
    campaign = make_rows(3)
    recorder = programs.start("record")
    programs.start("run", **QUIET)
    # By hand, and by the app: ids that aren't those of the table.
    assert programs.run("cancel", "typo")[0] == 0
    assert programs.run("resume", "typo")[0] == 0
    wrong = {**jobs_of(campaign)[0]["data"], "campaignId": 7}
    app.ask("addBulk", jobs=[{"name": "x", "data": wrong}, *jobs_of(campaign)])
    wait_until(lambda: status(database, campaign) == "sent")
    recorder.wait_for("campaign 7 is put aside: Supabase refuses a value")
    assert rows_sent(database, campaign) == 3
    assert "typo" not in programs.run("status")[1]
