"""A campaign in the sandbox: all is as ever, but nobody gets a mail, and everybody is told so."""

from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import redis

from demo.tally import tally
from testbed.services import Services
from tests.integration.conftest import MakeCampaign
from tests.integration.programs import Programs, read_jobs, wait_until
from worker.base import keys


def test_a_campaign_in_the_sandbox_reaches_nobody(
    make_campaign: MakeCampaign, programs: Programs, services: Services, tmp_path: Path
) -> None:
    campaign = make_campaign(40)
    sandbox = {"MAIL_SANDBOX": f"capture:{tmp_path / 'caught'}"}
    programs.start("record")
    worker = programs.start("run", **sandbox)
    worker.wait_for("SANDBOX: all mails are caught in")
    assert programs.run("enqueue", str(tmp_path / "jobs.jsonl"), **sandbox)[0] == 0
    wait_until(lambda: tally(services, campaign).status == "sent")
    assert tally(services, campaign).accepted == 0
    assert tally(services, campaign).rows_sent == 40
    caught = [message_from_bytes(path.read_bytes(), policy=policy.default) for path in (tmp_path / "caught").iterdir()]
    assert len(caught) == 40
    code, words = programs.run("status", **sandbox)
    assert (code, words.splitlines()[0].split("  ")[0]) == (0, "SANDBOX")
    assert "SANDBOX: all mails are captured in" in programs.run("check", **sandbox)[1]


def test_a_waiting_mail_is_shown_by_its_id(
    make_campaign: MakeCampaign, programs: Programs, queue: redis.Redis, tmp_path: Path
) -> None:
    make_campaign(1)
    [job] = read_jobs(tmp_path / "jobs.jsonl")
    assert programs.run("enqueue", str(tmp_path / "jobs.jsonl"))[0] == 0
    identities: Any = queue.hkeys(keys.MESSAGES)
    code, words = programs.run("preview", identities[0].decode())
    assert (code, str(job["subscriberId"]) in words) == (0, True)
    queue.hset("bull:mail-queue:7", "data", '{"email": "ann@example.org", "html": "<p>Hello {{name}}"}')
    code, words = programs.run("preview", "7")
    assert (code, "Hello Subscriber" in words) == (0, True)
    queue.hset("bull:mail-queue:8", "data", "rubbish")
    for name, sentence in (("8", "isn't a job"), ("9", "There's no file '9', and no job of that id waits in")):
        code, words = programs.run("preview", name)
        assert (code, sentence in words) == (1, True)
