"""`mail-worker retry-failed`, in both queues: who failed gets another try, hard bounces only by name."""

import json
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from demo.campaign import Campaign
from demo.tally import tally
from testbed.app import Major
from testbed.services import Services
from tests.integration.conftest import MakeCampaign
from tests.integration.programs import Programs, read_jobs, wait_until
from worker.base import keys


@pytest.fixture(params=[5])
def major(request: pytest.FixtureRequest) -> Major:
    return cast("Major", request.param)


def failed(queue: redis.Redis, campaign: Campaign) -> int:
    return int(queue.hget(keys.counts(campaign.id), "failed") or 0)


def make_failures(
    put: Any, make_campaign: MakeCampaign, programs: Programs, services: Services, path: Path
) -> tuple[Campaign, list[dict[str, Any]]]:
    """Ten recipients: four busy ones who failed at once, one without a mailbox, and five who got their mail."""
    campaign = make_campaign(10)
    kinds = ["busy"] * 4 + ["refused"] + ["reader"] * 5
    jobs = [
        {**job, "to": f"{kind}-{number}.{campaign.tag}@testbed.example"}
        for number, (kind, job) in enumerate(zip(kinds, read_jobs(path), strict=True))
    ]
    path.write_text("".join(json.dumps(job) + "\n" for job in jobs), encoding="utf-8")
    put(jobs)
    programs.start("record")
    programs.start("run", MAIL_RETRY_HOURS="0", MAIL_PAUSE_ABOVE_PERCENT="100")
    wait_until(lambda: tally(services, campaign).status == "sent")
    assert tally(services, campaign).rows_sent == 5
    return campaign, jobs


def test_those_who_failed_get_another_try(
    put: Any,
    make_campaign: MakeCampaign,
    programs: Programs,
    services: Services,
    queue: redis.Redis,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    path = tmp_path / "jobs.jsonl"
    campaign, _ = make_failures(put, make_campaign, programs, services, path)
    assert failed(queue, campaign) == 5
    assert programs.run("retry-failed", campaign.id, "--before", "2020-01-01")[1].startswith("0 of 0 failed")
    code, text = programs.run("retry-failed", campaign.id)
    if "dramatiq" in request.node.name:
        assert code == 1
        assert text.startswith("0 of 4 failed recipients get another try\n")
        assert "4 stay failed, since their jobs are gone" in text
        assert failed(queue, campaign) == 5
        code, text = programs.run("retry-failed", campaign.id, "--jobs", str(path))
    assert code == 0
    assert text == (
        "4 of 4 failed recipients get another try\n"
        "1 whose mailbox doesn't exist are left out: name the server's words by --reason\n"
    )
    wait_until(lambda: tally(services, campaign).rows_sent == 9)
    assert (tally(services, campaign).accepted, failed(queue, campaign)) == (9, 1)
    wait_until(lambda: not queue.sismember(keys.OPEN_CAMPAIGNS, campaign.id))


def test_a_hard_bounce_is_tried_again_by_name(
    put: Any, make_campaign: MakeCampaign, programs: Programs, services: Services, queue: redis.Redis, tmp_path: Path
) -> None:
    path = tmp_path / "jobs.jsonl"
    campaign, _ = make_failures(put, make_campaign, programs, services, path)
    before: Any = queue.hget(keys.ledger(campaign.id), campaign.subscriber_ids[4])
    code, text = programs.run("retry-failed", campaign.id, "--reason", "no such MAILBOX", "--jobs", str(path))
    assert (code, text) == (0, "1 of 1 failed recipients get another try\n")
    wait_until(lambda: queue.hget(keys.ledger(campaign.id), campaign.subscriber_ids[4]) not in (None, before))
    wait_until(lambda: failed(queue, campaign) == 5)
    wait_until(lambda: not queue.sismember(keys.OPEN_CAMPAIGNS, campaign.id))
    programs.run("cancel", campaign.id)
    assert "first mail-worker resume" in programs.run("retry-failed", campaign.id)[1]
