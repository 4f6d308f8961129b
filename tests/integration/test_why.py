"""Why a given recipient got no mail: one command, whatever has become of it."""

import csv
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import redis

from demo.tally import tally
from testbed.app import App
from testbed.services import Services
from tests.integration.conftest import MakeCampaign
from tests.integration.programs import Programs, wait_until
from worker.base import keys
from worker.queue.producer import enqueue

#: They run beside the others, with services of their own (make watching).
pytestmark = pytest.mark.watching
MAIL = {"subject": "s", "html": "<p>x</p>"}


def ask(programs: Programs, *words: str, **changes: str) -> tuple[int, str]:
    return programs.run("why", *words, **changes)


def test_a_campaigns_recipients(
    programs: Programs, make_campaign: MakeCampaign, services: Services, tmp_path: Path
) -> None:
    campaign = make_campaign(101)
    programs.run("enqueue", str(tmp_path / "jobs.jsonl"))
    first, refused = campaign.subscriber_ids[1], campaign.subscriber_ids[50]
    code, said = ask(programs, first)
    assert code == 3
    assert f"campaign {campaign.id}, subscriber {first}: waiting" in said
    programs.run("pause", campaign.id)
    code, said = ask(programs, first)
    assert (code, f"subscriber {first}: paused" in said) == (3, True)
    assert "its campaign is paused: by an operator" in said
    programs.run("resume", campaign.id)
    programs.start("run")
    programs.start("record")
    wait_until(lambda: tally(services, campaign).status == "sent")
    for who in (first, campaign.address(1), campaign.address(1).upper()):
        code, said = ask(programs, who)
        assert code == 0, said
        assert f"subscriber {first}: sent" in said
        assert said.index("the mail server accepted it") < said.index("the database says: sent")
    [bounced] = [one for one in services.refused() if campaign.tag in one["rcpt"]][:1]
    code, said = ask(programs, bounced["rcpt"])
    assert code == 4
    assert f"subscriber {refused}: failed" in said
    assert "550 5.1.1 there is no such mailbox" in said
    assert "the database says: not sent" in said
    assert ask(programs, first, "--campaign", campaign.id)[0] == 0
    # Without the database it says what it doesn't know; the ledger knows all the same.
    code, said = ask(programs, refused, NEXT_PUBLIC_SUPABASE_URL="http://127.0.0.1:9")
    assert code == 4
    assert "550 5.1.1" in said
    assert "Not known is what the database has: Supabase can't be reached" in said
    said = ask(programs, bounced["rcpt"], NEXT_PUBLIC_SUPABASE_URL="http://127.0.0.1:9")[1]
    assert "Not known is which subscriber has the address: Supabase can't be reached" in said
    assert "Not known is what the database has: Supabase can't be reached" in said
    found = json.loads(ask(programs, refused, "--json")[1])
    assert [life["verdict"] for life in found["found"]] == ["failed"]

    code, said = programs.run("campaign", campaign.id, "--csv", str(tmp_path / "failed.csv"))
    assert code == 0
    assert "complete" in said
    assert "550 5.1.1 there is no such mailbox" in said
    with (tmp_path / "failed.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    counted = tally(services, campaign)
    assert len(rows) == counted.failed
    assert refused in {row["subscriber"] for row in rows}
    report = json.loads(programs.run("campaign", campaign.id, "--json")[1])
    assert (report["sent"], report["failed"], report["unsent"]) == (counted.accepted, counted.failed, counted.failed)
    assert sum(report["words"].values()) == counted.failed


def test_nobody_and_nothing(programs: Programs) -> None:
    code, said = ask(programs, "nobody@example.org")
    assert code == 5
    assert "Nothing is known of nobody@example.org: no queue, ledger or list has it." in said
    assert programs.run("why", " ") == (1, "Nobody is named: mail-worker why ADDRESS, or a subscriber's id.\n")
    assert programs.run("campaign", "no-campaign") == (
        1,
        "No mail of campaign no-campaign has a result yet: mail-worker campaign lists those that have one.\n",
    )


def test_a_recipient_who_was_never_queued(programs: Programs, queue: redis.Redis, make_campaign: MakeCampaign) -> None:
    campaign = make_campaign(3)
    queue.sadd(keys.OPEN_CAMPAIGNS, campaign.id)
    for who in (campaign.subscriber_ids[1], campaign.address(1)):
        for more in ((), ("--campaign", campaign.id)):
            code, said = ask(programs, who, *more)
            assert code == 4, said
            assert f"campaign {campaign.id}, subscriber {campaign.subscriber_ids[1]}: not queued\n" in said
            assert "the database says: not sent" in said
            assert f"mail-worker reconcile {campaign.id}" in said
    assert ask(programs, "nobody@example.org", "--campaign", campaign.id) == (
        5,
        "Nothing is known of nobody@example.org: no queue, ledger or list has it.\n",
    )


def test_what_could_not_be_asked_is_not_said_to_be_unknown(programs: Programs) -> None:
    code, said = programs.run("why", "nobody@example.org", SUPABASE_URL="http://127.0.0.1:1")
    assert code == 5
    assert "Nothing was found of nobody@example.org where it could be looked for" in said
    assert "Not known is which subscriber has the address: Supabase can't be reached" in said


def test_a_campaign_that_is_paused_has_no_end(programs: Programs, queue: redis.Redis) -> None:
    queue.hset(keys.counts("c-9"), "sent", "120")
    queue.rpush(keys.lane("c-9"), "1", "2")
    for minute in (1, 2):
        queue.lpush(keys.POINTS, f'[{60 * minute},0,0,0,0,0,0,0,0,{{"c-9":{60 * minute}}}]')
    assert "done in about 2 s" in programs.run("campaign", "c-9")[1]
    programs.run("pause", "c-9")
    assert "speed      1.0 mails/s\n" in programs.run("campaign", "c-9")[1]


def test_mails_that_come_again_or_cannot_be_worked_on(programs: Programs, queue: redis.Redis) -> None:
    busy = f"busy-{uuid4().hex}@testbed.example"  # The first time.
    jobs: list[dict[str, Any]] = [
        {**MAIL, "to": busy, "campaignId": "c-1", "subscriberId": "s-1"},
        {**MAIL, "to": "single@testbed.example"},
        {**MAIL, "to": "no address at all"},
    ]
    for _ in enqueue(queue, iter(jobs)):
        pass
    assert ask(programs, "single@testbed.example")[0] == 3
    programs.start("run")
    wait_until(lambda: "delayed" in ask(programs, "s-1")[1])
    code, said = ask(programs, busy)
    assert code == 3
    assert "is delayed in the queue after 1 try, due in" in said
    assert "; the last one: 450" in said
    # Of a mail outside any campaign the ledger knows its id alone, and that's gone with the job.
    assert ask(programs, "single@testbed.example")[0] == 5
    wait_until(lambda: queue.zcard(keys.DEAD_LETTERS) == 1)
    code, said = ask(programs, "no address at all")
    assert code == 4
    assert "is dead in the queue; the last one: invalid job: to" in said


def test_a_job_of_the_apps_queue(
    app: App, programs: Programs, queue: redis.Redis, make_campaign: MakeCampaign, services: Services
) -> None:
    campaign = make_campaign(2)
    subscriber = campaign.subscriber_ids[1]
    job = {**MAIL, "email": campaign.address(1), "campaignId": campaign.id, "subscriberId": subscriber}
    single = {**MAIL, "to": "alone@testbed.example"}
    app.ask("addBulk", jobs=[{"name": "email", "data": job}, {"name": "email", "data": single}])
    for who in (subscriber, campaign.address(1), "alone@testbed.example"):
        code, said = ask(programs, who)
        assert code == 3, said
        assert "is waiting in bull:mail-queue" in said
    programs.start("run")
    wait_until(lambda: ask(programs, subscriber)[0] == 0)
    wait_until(lambda: ask(programs, "alone@testbed.example")[0] == 0)


@pytest.mark.parametrize("who", ["', x", '"', "%", "*", "\\", "a" * 1000, "ü@example.org"])
def test_whoever_is_asked_for(who: str, programs: Programs, database: "psycopg.Connection[tuple[object, ...]]") -> None:
    assert ask(programs, who)[0] == 5
