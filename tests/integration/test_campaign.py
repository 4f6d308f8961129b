"""A campaign's whole path: file, queue, SMTP server, database."""

import re
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import redis

from demo.campaign import Campaign
from demo.tally import tally
from testbed.services import Services
from tests.integration.conftest import MakeCampaign
from tests.integration.programs import Programs, wait_until
from worker.base import keys


def test_every_recipient_is_accounted_for_and_the_campaign_is_closed_once(
    make_campaign: MakeCampaign, programs: Programs, services: Services, queue: redis.Redis, tmp_path: Path
) -> None:
    campaign = make_campaign(160, busy=True)
    recorders = [programs.start("record", SUPERVISOR_PROCESS_NAME=f"recorder-{number}") for number in range(2)]
    workers = [programs.start("run", SUPERVISOR_PROCESS_NAME=f"worker-{number}") for number in range(2)]
    assert programs.run("enqueue", str(tmp_path / "jobs.jsonl")) == (0, "queued 160 jobs\n")

    wait_until(lambda: tally(services, campaign).accounted_for)

    assert str(tally(services, campaign)) == (
        "queued 160, accepted 158, unique 158, rows sent 158, failed 2, campaign sent"
    )
    closed = sum(
        program.text().count(f"campaign {campaign.id} is complete: 158 sent, 2 failed or given up.")
        for program in recorders
    )
    assert closed == 1
    assert [program.stop() for program in (*workers, *recorders)] == [0, 0, 0, 0]
    left = {str(key, "utf-8") for key in queue.scan_iter()}
    assert left <= {
        keys.OUTBOX,
        keys.COMMANDS,
        keys.CLOSED_CAMPAIGNS,
        keys.CLOCK,
        keys.AWAKE,
        keys.LEDGERS,
        keys.TOTALS,
        keys.DURATIONS,
        keys.HOSTS,
        keys.HOST_TROUBLES,
        keys.WATCHER,
        keys.POINTS,
        keys.EVENTS,
        keys.TROUBLES,
        keys.TOLD,
        keys.ledger(campaign.id),
        keys.counts(campaign.id),
        keys.account(f"smtp:{services.smtp_user}@{services.smtp_host}"),
        f"{keys.bullmq_own('bull:mail-queue')}:state",
        *(key for key in left if key.startswith("dramatiq:__")),
    }
    assert queue.xlen(keys.OUTBOX) == 0
    assert queue.ttl(keys.ledger(campaign.id)) > 0


def test_a_mail_looks_as_it_should(
    make_campaign: MakeCampaign, programs: Programs, services: Services, tmp_path: Path
) -> None:
    campaign = make_campaign(1)
    programs.start("run")
    programs.run("enqueue", str(tmp_path / "jobs.jsonl"))
    wait_until(lambda: tally(services, campaign).accepted == 1)

    [entry] = [line for line in services.accepted() if campaign.tag in line["rcpt"]]
    mail = message_from_bytes((services.mail_directory / entry["file"]).read_bytes(), policy=policy.default)
    assert entry["rcpt"].endswith("@xn--bcher-kva.example")
    assert mail["To"].addresses[0].display_name == "Zoë Ångström"
    assert mail["From"] == "The demo <news@testbed.example>"
    assert mail["Subject"] == "Frühling bei uns 🌷 (0)"
    assert mail["List-Unsubscribe"].startswith("<https://app.example/unsubscribe?s=")
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    text, html = (part.get_content() for part in mail.iter_parts())
    assert "Unsubscribe (https://app.example/unsubscribe" in text
    assert "<h1>Hello Zoë Ångström</h1>" in html


def test_a_campaign_that_is_queued_twice_goes_out_once(
    make_campaign: MakeCampaign, programs: Programs, services: Services, queue: redis.Redis, tmp_path: Path
) -> None:
    campaign = make_campaign(40)
    for _ in range(2):
        programs.run("enqueue", str(tmp_path / "jobs.jsonl"))
    programs.start("record")
    for number in range(2):
        programs.start("run", SUPERVISOR_PROCESS_NAME=f"worker-{number}")
    wait_until(lambda: queue.hlen(keys.MESSAGES) == 0 and tally(services, campaign).accounted_for)
    result = tally(services, campaign)
    assert (result.accepted, result.unique, result.rows_sent) == (40, 40, 40)


def test_jobs_from_csv_without_a_campaign(programs: Programs, services: Services, tmp_path: Path) -> None:
    path, tag = tmp_path / "jobs.csv", uuid4().hex
    path.write_text(
        f'to,subject,text\nann.{tag}@example.org,"Hello, Ann",hi\nbo.{tag}@example.org,Hello,hi\n',
        encoding="utf-8",
    )
    programs.start("run")
    assert programs.run("enqueue", str(path)) == (0, "queued 2 jobs\n")

    def subjects() -> list[str]:
        return sorted(line["subject"] for line in services.accepted() if tag in line["rcpt"])

    wait_until(lambda: len(subjects()) == 2)
    assert subjects() == ["Hello", "Hello, Ann"]


def test_a_row_that_the_database_refuses_is_put_aside_and_the_others_are_recorded(
    programs: Programs,
    services: Services,
    queue: redis.Redis,
    database: "psycopg.Connection[tuple[object, ...]]",
    tmp_path: Path,
) -> None:
    campaign = Campaign.invent(30)
    campaign.insert(services.database_url)
    jobs = tmp_path / "jobs.jsonl"
    campaign.write_jobs(jobs)
    lines = jobs.read_text(encoding="utf-8").splitlines()
    lines[7] = lines[7].replace(campaign.subscriber_ids[7], "not-a-uuid")
    jobs.write_text("\n".join(lines), encoding="utf-8")
    programs.run("enqueue", str(jobs))
    worker = programs.start("run")
    wait_until(lambda: tally(services, campaign).accepted == 30)
    worker.stop()

    recorder = programs.start("record")
    recorder.wait_for("was put aside")
    wait_until(lambda: queue.xlen(keys.OUTBOX) == 0)

    assert tally(services, campaign).rows_sent == 29
    parked_results: Any = queue.xrange(keys.PARKED_RESULTS)
    [(_, parked)] = parked_results
    assert parked[b"subscriber"] == b"not-a-uuid"
    assert b"invalid input syntax for type uuid" in parked[b"reason"]
    # Its recipient's own row is unsent, so the campaign isn't complete.
    assert database.execute("SELECT status FROM campaigns WHERE id = %s", (campaign.id,)).fetchone() == ("sending",)


def test_the_programs_compile_nothing(
    make_campaign: MakeCampaign, programs: Programs, services: Services, tmp_path: Path
) -> None:
    campaign = make_campaign(60)
    # Python says where it takes each module's code from.
    quiet = {"PYTHONVERBOSE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    started = [programs.start("record", **quiet), programs.start("run", **quiet)]
    programs.run("enqueue", str(tmp_path / "jobs.jsonl"))
    wait_until(lambda: tally(services, campaign).accounted_for)
    for program in started:
        program.stop()
        sources = re.findall(r"code object from '?(\S+)\.py\b(?!c)", program.text())
        assert sources == []
        assert re.search(r"code object from '\S+\.opt-2\.pyc'", program.text())
