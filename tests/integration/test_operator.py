"""What an operator does to a running fleet, by the command on the host."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from demo.campaign import Campaign
from demo.tally import tally
from testbed.services import Services
from tests.integration.conftest import MakeCampaign
from tests.integration.programs import Programs, wait_until
from worker.base import keys

#: Slow enough to do something in the middle.
SLOWLY = "20/s"


@pytest.fixture
def rows(database: "psycopg.Connection[tuple[object, ...]]") -> Callable[[str, Campaign], int]:
    """Counts a campaign's rows by a condition."""

    def count(condition: str, campaign: Campaign) -> int:
        row = database.execute(
            f"SELECT count(*) FROM campaign_subscribers WHERE campaign_id = %s AND {condition}", (campaign.id,)
        ).fetchone()
        return int(str(row[0])) if row else 0

    return count


def accepted(services: Services, campaign: Campaign) -> int:
    return tally(services, campaign).accepted


def test_a_paused_campaign_waits_while_another_one_goes_on(
    make_campaign: MakeCampaign, programs: Programs, services: Services, tmp_path: Path
) -> None:
    first = make_campaign(120)
    programs.start("record")
    programs.start("run", MAIL_RATE=SLOWLY)
    text = programs.run("enqueue", str(tmp_path / "jobs.jsonl"), MAIL_RATE=SLOWLY)[1]
    assert text == "queued 120 jobs; by MAIL_RATE they take at least 5 s\n"
    wait_until(lambda: accepted(services, first) > 5)
    assert programs.run("pause", first.id) == (0, f"campaign {first.id} is paused; its mails wait\n")
    assert programs.run("pause", first.id)[0] == 1
    second = make_campaign(20)
    programs.run("enqueue", str(tmp_path / "jobs.jsonl"))
    wait_until(lambda: tally(services, second).accounted_for)
    seen = accepted(services, first)
    assert seen < 100
    status = programs.run("status")[1]
    assert re.search(rf"campaign   {first.id}: .* to go; paused: by an operator", status)
    assert programs.run("resume", first.id) == (0, f"campaign {first.id} goes on\n")
    wait_until(lambda: tally(services, first).accounted_for)


def test_no_mail_of_a_cancelled_campaign_leaves_after_the_command(
    make_campaign: MakeCampaign, programs: Programs, services: Services, queue: redis.Redis, tmp_path: Path
) -> None:
    campaign = make_campaign(300)
    programs.start("run", MAIL_RATE="50/s", WORKER_CONCURRENCY="10")
    programs.run("enqueue", str(tmp_path / "jobs.jsonl"))
    wait_until(lambda: accepted(services, campaign) > 20)
    code, text = programs.run("cancel", campaign.id)
    seen = accepted(services, campaign)
    assert (code, "no mail of it leaves any more" in text) == (0, True)
    wait_until(lambda: queue.hlen(keys.MESSAGES) == 0)
    programs.run("enqueue", str(tmp_path / "jobs.jsonl"))
    wait_until(lambda: queue.hlen(keys.MESSAGES) == 0)
    assert accepted(services, campaign) == seen < 300
    # A retry that was put off is among them.
    cancelled: Any = queue.hget(keys.counts(campaign.id), "cancelled")
    assert int(cancelled) >= 300


def test_a_campaign_of_high_priority_overtakes(
    make_campaign: MakeCampaign, programs: Programs, services: Services, tmp_path: Path
) -> None:
    big = make_campaign(300)
    programs.start("record")
    programs.start("run", MAIL_RATE=SLOWLY, WORKER_CONCURRENCY="2")
    programs.run("enqueue", str(tmp_path / "jobs.jsonl"))
    urgent = make_campaign(40)
    assert programs.run("priority", urgent.id, "high")[0] == 0
    programs.run("enqueue", str(tmp_path / "jobs.jsonl"))
    wait_until(lambda: tally(services, urgent).accepted == 40)
    order = ["urgent" if urgent.tag in line["rcpt"] else "big" for line in services.accepted()]
    first, last = order.index("urgent"), len(order) - order[::-1].index("urgent")
    # Those that were fetched before apart.
    assert order[first:last].count("big") <= 4
    programs.run("cancel", big.id)


def test_too_many_failures_pause_a_campaign(
    make_campaign: MakeCampaign, programs: Programs, services: Services, tmp_path: Path
) -> None:
    campaign = make_campaign(80)
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text(jobs.read_text(encoding="utf-8").replace("reader-", "refused-"), encoding="utf-8")
    programs.start("record")
    worker = programs.start("run", WORKER_CONCURRENCY="2")
    programs.run("enqueue", str(jobs))
    worker.wait_for("is paused, because too many of its mails fail")
    status = programs.run("status")[1]
    assert re.search(rf"campaign   {campaign.id}: .*; paused: 2\d of 2\d mails failed", status)
    assert 20 <= tally(services, campaign).failed < 80
    programs.run("resume", campaign.id)
    wait_until(lambda: programs.run("status")[1].count("to go; paused") == 1)


def test_held_mails_are_resolved_by_an_operator(
    make_campaign: MakeCampaign, programs: Programs, services: Services, queue: redis.Redis, tmp_path: Path
) -> None:
    campaign = make_campaign(12)
    victim = programs.start("run", MAIL_ON_UNCERTAIN="hold", WORKER_CONCURRENCY="3", SUPERVISOR_PROCESS_NAME="victim")
    victim.wait_for("mails at once")
    # Claims of a process that dies at this very moment.
    for subscriber_id in campaign.subscriber_ids[:3]:
        queue.hset(keys.ledger(campaign.id), subscriber_id, "c:1:dead:1")
    programs.run("enqueue", str(tmp_path / "jobs.jsonl"))
    programs.start("record")
    wait_until(lambda: accepted(services, campaign) == 9 and queue.hlen(keys.HELD_MESSAGES) == 3)
    text = programs.run("uncertain", "list")[1]
    assert text.endswith("3 uncertain mails, 3 of them held\n")
    assert f"held  campaign {campaign.id}, subscriber {campaign.subscriber_ids[0]}: its process died" in text
    assert "held       3 mails that may have been accepted" in programs.run("status")[1]
    assert tally(services, campaign).status == "sending"

    assert programs.run("uncertain", "resend")[0] == 1
    only = ("--campaign", campaign.id, "--subscriber", campaign.subscriber_ids[0])
    assert programs.run("uncertain", "mark-sent", *only) == (0, "1 held mails are marked as sent\n")
    assert programs.run("uncertain", "resend", "--all") == (0, "2 held mails are queued again\n")
    wait_until(lambda: tally(services, campaign).status == "sent")
    result = tally(services, campaign)
    assert (result.accepted, result.unique, result.rows_sent) == (11, 11, 12)


def test_dead_letters_are_shown_retried_and_dropped(programs: Programs, queue: redis.Redis, tmp_path: Path) -> None:
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text('{"to": "a@example.org", "text": "x"}\n' * 2, encoding="utf-8")
    assert programs.run("enqueue", str(jobs))[0] == 0
    programs.start("run", MAIL_FROM="", SMTP_USER="", MAIL_TRANSPORT="resend", RESEND_API_KEY="re_x")
    wait_until(lambda: queue.zcard(keys.DEAD_LETTERS) == 2)
    text = programs.run("dead", "list")[1]
    first, second = re.findall(r"  ([0-9a-f-]{36}) ", text)
    assert "invalid job: from is missing, and no MAIL_FROM is set in the worker's settings" in text
    assert json.loads(programs.run("dead", "show", first)[1])["args"] == [{"to": "a@example.org", "text": "x"}]
    assert programs.run("dead", "drop", first) == (0, "1 dead letters are dropped\n")
    code, text = programs.run("dead", "show", first)
    assert (code, text) == (1, f"There's no dead letter {first}: see mail-worker dead list.\n")
    programs.end()

    programs.start("run")
    assert programs.run("dead", "retry", second) == (0, "1 dead letters are queued again\n")
    wait_until(lambda: queue.hlen(keys.MESSAGES) == 0)
    assert programs.run("dead", "list")[1] == "0 dead letters\n"
    assert programs.run("dead", "retry")[0] == 1


def test_reconcile_finds_what_is_missing_and_queues_exactly_that(
    make_campaign: MakeCampaign,
    programs: Programs,
    services: Services,
    queue: redis.Redis,
    rows: Callable[[str, Campaign], int],
    database: "psycopg.Connection[tuple[object, ...]]",
    tmp_path: Path,
) -> None:
    campaign = make_campaign(49)
    jobs = tmp_path / "jobs.jsonl"
    lines = jobs.read_text(encoding="utf-8").splitlines()
    part = tmp_path / "part.jsonl"
    part.write_text("\n".join(lines[:40]), encoding="utf-8")  # 9 were never queued.
    programs.start("record")
    programs.start("run")
    programs.run("enqueue", str(part))
    wait_until(lambda: rows("sent", campaign) == 40)
    # Somebody has put a backup of the database back.
    ids = list(campaign.subscriber_ids[:5])
    database.execute("UPDATE campaign_subscribers SET sent = false WHERE subscriber_id = ANY(%s::uuid[])", (ids,))

    code, text = programs.run("reconcile", campaign.id)
    assert code == 1
    found = {words: int(number) for number, words in re.findall(r"^ +(\d+) (\w+)", text, re.MULTILINE)}
    assert found == {
        "sent": 40,
        "of": 5,
        "failed": 0,
        "given": 0,
        "waiting": 0,
        "held": 0,
        "in": 0,
        "missing": 9,
        "without": 0,
    }
    assert f"missing  {campaign.subscriber_ids[48]}" in text

    code, text = programs.run("reconcile", campaign.id, "--repair", "--jobs", str(jobs))
    assert (code, text.splitlines()[-1]) == (0, "repaired: 5 results recorded again, 9 jobs queued")
    wait_until(lambda: tally(services, campaign).accounted_for)
    assert tally(services, campaign).accepted == 49
    assert programs.run("reconcile", campaign.id)[0] == 0


def test_a_failed_recipients_reason_reaches_the_column_for_it(
    make_campaign: MakeCampaign,
    programs: Programs,
    services: Services,
    database: "psycopg.Connection[tuple[object, ...]]",
    tmp_path: Path,
) -> None:
    database.execute("ALTER TABLE campaign_subscribers ADD COLUMN IF NOT EXISTS error text")
    database.execute("NOTIFY pgrst, 'reload schema'")
    campaign = make_campaign(60)
    wait_until(lambda: "ok   supabase" in programs.run("check", SUPABASE_RECIPIENT_ERROR_COLUMN="error")[1])
    programs.start("record", SUPABASE_RECIPIENT_ERROR_COLUMN="error")
    programs.start("run")
    programs.run("enqueue", str(tmp_path / "jobs.jsonl"))
    wait_until(lambda: tally(services, campaign).accounted_for)
    found = database.execute(
        "SELECT sent, error FROM campaign_subscribers WHERE campaign_id = %s AND error IS NOT NULL", (campaign.id,)
    ).fetchall()
    database.execute("ALTER TABLE campaign_subscribers DROP COLUMN error")
    database.execute("NOTIFY pgrst, 'reload schema'")
    assert found == [(False, "550 5.1.1 there is no such mailbox")]
