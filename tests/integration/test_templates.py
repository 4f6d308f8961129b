"""Campaigns whose text is once in Redis, through both queues and the real programs."""

import json
import re
from collections.abc import Iterator
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest
import redis

from demo.tally import tally
from testbed.app import App, Major
from testbed.services import Services
from tests.integration.conftest import MakeCampaign
from tests.integration.programs import Programs, read_jobs, wait_until
from worker.base import keys
from worker.base.redis_client import CountingRedis
from worker.mail.addresses import Address
from worker.mail.jobs import Defaults
from worker.queue.control import AsyncControl
from worker.queue.producer import enqueue
from worker.queue.templates import Templates, add_template
from worker.sending.attachment_files import AttachmentFiles
from worker.sending.checking import Checker, Unclear
from worker.sending.delivery import Parked

HTML = "<h1>Hello {{name}}</h1>\n" + "<p>Grüße: this paragraph is only here for its weight.</p>\n" * 160
#: By the 100,000 that docs/jobs.md speaks of, 60 MB.
RECIPIENTS, MOST_BYTES = 20_000, 12_000_000


@pytest.fixture(params=[5])
def major(request: pytest.FixtureRequest) -> Major:
    return 5


def of_template(job: dict[str, Any], name: str, number: int) -> dict[str, Any]:
    kept = {key: job[key] for key in ("campaignId", "subscriberId", "to")}
    return {**kept, "templateId": name, "vars": {"name": f"Ann {number} <b>"}}


def write(path: Path, name: str) -> list[dict[str, Any]]:
    jobs = [of_template(job, name, number) for number, job in enumerate(read_jobs(path))]
    path.write_text("".join(json.dumps(job) + "\n" for job in jobs))
    return jobs


def test_a_campaign_with_a_template_goes_out(
    put: Any, make_campaign: MakeCampaign, programs: Programs, services: Services, queue: redis.Redis, tmp_path: Path
) -> None:
    campaign = make_campaign(30)
    (tmp_path / "spring.html").write_text(HTML, encoding="utf-8")
    code, words = programs.run("template", "add", "spring", str(tmp_path / "spring.html"), "--subject", "Hi {{name}}")
    assert (code, words) == (0, f"spring  {len(HTML):,} characters, subject 'Hi {{{{name}}}}'; needs name\n")
    jobs = write(tmp_path / "jobs.jsonl", "spring")
    programs.start("record")
    programs.start("run")
    put(jobs)
    wait_until(lambda: tally(services, campaign).status == "sent")
    assert tally(services, campaign).rows_sent == tally(services, campaign).unique == 30
    [entry] = [line for line in services.accepted() if f"-0.{campaign.tag}@" in line["rcpt"]]
    mail = message_from_bytes((services.mail_directory / entry["file"]).read_bytes(), policy=policy.default)
    assert mail["Subject"] == "Hi Ann 0 <b>"
    text, html = (part.get_content() for part in mail.iter_parts())
    assert text.startswith("Hello Ann 0 <b>")
    assert html.replace("\r\n", "\n").startswith("<h1>Hello Ann 0 &lt;b&gt;</h1>\n")


def test_a_missing_template_or_word_fails_nobody(
    put: Any, make_campaign: MakeCampaign, programs: Programs, services: Services, queue: redis.Redis, tmp_path: Path
) -> None:
    campaign = make_campaign(10)
    put(write(tmp_path / "jobs.jsonl", "summer"))
    programs.start("record")
    worker = programs.start("run")
    worker.wait_for(f"campaign {campaign.id} is paused: there's no template summer: add it with")
    assert queue.hget(keys.counts(campaign.id), "failed") is None
    add_template(queue, "summer", subject="Hi", html="<p>{{name}} {{colour}}")
    # By then the worker has asked once more.
    wait_until(lambda: programs.run("resume", campaign.id)[0] == 0)
    worker.wait_for(f"campaign {campaign.id} is paused: the template summer needs colour, but the job has no colour")
    add_template(queue, "summer", subject="Hi", html="<p>{{name}}")
    queue.hdel(keys.CONTROL, "nobody")
    wait_until(lambda: _resumed_and_sent(programs, services, campaign), seconds=120)
    assert queue.hget(keys.counts(campaign.id), "failed") is None


async def test_a_template_that_goes_while_its_mails_are_sent_fails_nobody(
    queue: redis.Redis, client: CountingRedis
) -> None:
    sender = Address("", "news@example.com")
    check = Checker(AsyncControl(client), Defaults(sender), Templates(client), AttachmentFiles())
    jobs = [{"campaignId": "c", "subscriberId": n, "to": "a@b.example", "templateId": "spring"} for n in range(3)]
    queue.hset(keys.counts("c"), "sent", 100)
    assert isinstance(await check(jobs[0]), Unclear)
    # Those that were in hand by then leave still.
    queue.hincrby(keys.counts("c"), "sent", 1)
    assert isinstance(await check(jobs[1]), Unclear)
    stored: Any = queue.hget(keys.counts("c"), "fault")
    fault = json.loads(stored)
    queue.hset(keys.counts("c"), "fault", json.dumps({**fault, "at": fault["at"] - 10_000}))
    assert await check(jobs[2]) == Parked("c")


def _resumed_and_sent(programs: Programs, services: Services, campaign: Any) -> bool:
    programs.run("resume", campaign.id)
    return tally(services, campaign).status == "sent"


def test_what_a_template_lacks_is_said_before_anything_is_queued(
    make_campaign: MakeCampaign, programs: Programs, queue: redis.Redis, tmp_path: Path
) -> None:
    make_campaign(3)
    write(tmp_path / "jobs.jsonl", "spring")
    path = str(tmp_path / "jobs.jsonl")
    code, words = programs.run("enqueue", path)
    assert (code, words.count("there's no template spring")) == (1, 3)
    add_template(queue, "spring", subject="Hi", html="<p>{{city}}")
    code, words = programs.run("enqueue", path)
    assert (code, words.count("the template spring needs city, but the job has no city in its vars")) == (1, 3)
    assert queue.hlen(keys.MESSAGES) == 0
    add_template(queue, "spring", subject="Hi", html="<p>{{name}}")
    assert programs.run("check", "--jobs", path)[0] == 0
    code, words = programs.run("preview", path)
    assert (code, "Ann 0 &lt;b&gt;" in words) == (0, True)
    assert programs.run("template", "list") == (0, "spring  11 characters, subject 'Hi'; needs name\n")
    assert programs.run("template", "remove", "spring")[0] == 0
    assert programs.run("template", "remove", "spring")[0] == 1


@pytest.fixture
def as_on_a_broker(queue: redis.Redis) -> Iterator[None]:
    """With the limit up to which roles/redis lets Redis keep a hash in one piece: a BullMQ job is one."""
    template = Path(__file__).parents[2] / "roles/redis/templates/live.conf.j2"
    [value] = re.findall(r"^hash-max-listpack-value (\d+)$", template.read_text(), re.MULTILINE)
    usual: Any = queue.config_get("hash-max-listpack-value")
    queue.config_set("hash-max-listpack-value", value)
    yield
    queue.config_set("hash-max-listpack-value", usual["hash-max-listpack-value"])


@pytest.mark.usefixtures("as_on_a_broker")
@pytest.mark.parametrize("put_all", ["dramatiq", "bullmq"])
def test_recipients_take_600_bytes_each(put_all: str, queue: redis.Redis, app: App, tmp_path: Path) -> None:
    add_template(queue, "spring", html=HTML, subject="Hello {{name}}")
    path = tmp_path / "jobs.jsonl"
    with path.open("w") as stream:
        for number in range(RECIPIENTS):
            job = {
                "campaignId": "2f1c1a5e-7f43-4b8e-9f0e-0a1f6a3f9f10",
                "subscriberId": f"9b2e4c1a-7f43-4b8e-9f0e-{number:012}",
                "to": f"some.reader-{number}@example.org",
                "templateId": "spring",
                "vars": {"name": "Ann Example"},
            }
            stream.write(json.dumps(job) + "\n")
    before = int(queue.info("memory")["used_memory"])
    if put_all == "dramatiq":
        for _ in enqueue(queue, map(json.loads, path.open())):
            pass
    else:
        app.ask("addBulkFile", path=str(path))
    assert int(queue.info("memory")["used_memory"]) - before < MOST_BYTES
