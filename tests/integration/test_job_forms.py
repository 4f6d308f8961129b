"""Each form of docs/jobs.md, queued by the npm package bullmq as an app does, arrives as the page says."""

import json
import re
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import redis

from testbed.app import App, Major
from testbed.services import Services
from tests.integration.conftest import MakeCampaign
from tests.integration.programs import Programs, wait_until
from worker.mail.addresses import Address
from worker.mail.jobs import Defaults, Job, parse_job
from worker.queue.templates import add_template

JOBS = (Path(__file__).parents[2] / "docs/jobs.md").read_text(encoding="utf-8")
EXAMPLES = [json.loads(example) for example in re.findall(r"```json(?: template)?\n(.*?)\n```", JOBS, re.DOTALL)]


@pytest.fixture(params=[5, 6])
def major(request: pytest.FixtureRequest) -> Major:
    return 5 if request.param == 5 else 6


def parts(job: Job) -> list[str]:
    return sorted(file.filename for file in job.attachments)


def test_each_documented_form_arrives(
    app: App, make_campaign: MakeCampaign, programs: Programs, services: Services, queue: redis.Redis
) -> None:
    campaign = make_campaign(len(EXAMPLES))
    template = add_template(queue, "spring", subject="Hello {{name}}", html="<p>to {{user.city}}")
    raws = [
        _mine(raw, campaign.id, subscriber) for raw, subscriber in zip(EXAMPLES, campaign.subscriber_ids, strict=True)
    ]
    programs.start("record")
    programs.start("run", MAIL_PLACEHOLDERS="fields")
    before = len(services.accepted())
    app.ask("addBulk", jobs=[{"name": "mail", "data": raw} for raw in raws])
    wait_until(lambda: app.counts("completed", "failed") == {"completed": len(raws), "failed": 0})

    lines = services.accepted()[before:]
    mails: list[EmailMessage] = []
    for line in lines:
        mail = message_from_bytes((services.mail_directory / line["file"]).read_bytes(), policy=policy.default)
        assert isinstance(mail, EmailMessage)
        mails.append(mail)
    defaults = Defaults(sender=Address("", "news@testbed.example"), placeholders="fields")
    for raw in raws:
        job = parse_job(raw, defaults, lambda _: template)
        [mail] = [one for one in mails if one["X-Number"] == dict(job.headers)["X-Number"]][:1]
        assert [one.addr_spec for one in mail["To"].addresses] == [one.email for one in job.to]
        assert mail["Subject"] == job.subject
        found = [part.get_filename() for part in mail.walk() if part.get_content_disposition()]
        assert sorted(name for name in found if name and not name.endswith(".ics")) == parts(job)
        assert mail["From"].addresses[0].addr_spec == job.sender.email


def _mine(raw: dict[str, Any], campaign_id: str, subscriber_id: str) -> dict[str, Any]:
    """The example, with a mark by which its mail is found, and recipients that the test's server takes."""
    text = re.sub(r"@example\.org", "@reader.example", json.dumps(raw))
    mine: dict[str, Any] = json.loads(text)
    for name, value in (("campaignId", campaign_id), ("subscriberId", subscriber_id)):
        if name in mine:
            mine[name] = value
    fields = mine.get("mailOptions", mine)
    headers = fields.get("headers", {})
    mark = {"key": "X-Number", "value": subscriber_id}
    fields["headers"] = [*headers, mark] if isinstance(headers, list) else {**headers, "X-Number": subscriber_id}
    return mine
