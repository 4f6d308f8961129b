"""A campaign whose jobs are all wrong waits and fails nobody; one wrong job among good ones fails alone."""

from pathlib import Path
from typing import Any, cast

import pytest
import redis

from demo.tally import tally
from testbed.app import Major
from testbed.services import Services
from tests.integration.conftest import MakeCampaign
from tests.integration.programs import Programs, read_jobs, wait_until
from worker.base import keys


@pytest.fixture(params=[5])
def major(request: pytest.FixtureRequest) -> Major:
    return cast("Major", request.param)


def test_a_sender_that_cannot_be_read_fails_nobody(
    put: Any, make_campaign: MakeCampaign, programs: Programs, services: Services, queue: redis.Redis, tmp_path: Path
) -> None:
    campaign = make_campaign(30)
    put([{**job, "from": "The News"} for job in read_jobs(tmp_path / "jobs.jsonl")])
    programs.start("record")
    worker = programs.start("run")
    worker.wait_for(
        f"campaign {campaign.id} is paused: from isn't one mail address: 'The News'. No recipient has failed"
    )
    assert f"mail-worker resume {campaign.id} --from" in worker.text()
    assert queue.hget(keys.counts(campaign.id), "failed") is None
    assert programs.run("resume", campaign.id, "--from", "News")[0] == 1
    assert programs.run("resume", campaign.id, "--from", "The News <news@testbed.example>")[0] == 0
    wait_until(lambda: tally(services, campaign).status == "sent")
    assert tally(services, campaign).rows_sent == tally(services, campaign).unique
    assert worker.text().count("is paused") == 1


def test_missing_content_is_queued_again_and_everything_goes_out(
    put: Any, make_campaign: MakeCampaign, programs: Programs, services: Services, queue: redis.Redis, tmp_path: Path
) -> None:
    campaign = make_campaign(10)
    jobs = read_jobs(tmp_path / "jobs.jsonl")
    put([{**job, "html": "", "text": ""} for job in jobs])
    programs.start("record")
    worker = programs.start("run")
    worker.wait_for(f"campaign {campaign.id} is paused: html and text are both missing. No recipient has failed")
    assert programs.run("cancel", campaign.id)[0] == 0
    # The jobs of an app's queue fail by themselves when their turn comes.
    wait_until(lambda: not queue.exists(keys.lane(campaign.id)))
    wait_until(lambda: int(queue.hget(keys.counts(campaign.id), "cancelled") or 0) >= 10)
    assert programs.run("resume", campaign.id)[0] == 0
    put(jobs)
    wait_until(lambda: tally(services, campaign).status == "sent")
    assert tally(services, campaign).rows_sent == tally(services, campaign).unique > 0


def test_one_wrong_job_among_good_ones_fails_alone(
    put: Any, make_campaign: MakeCampaign, programs: Programs, services: Services, queue: redis.Redis, tmp_path: Path
) -> None:
    campaign = make_campaign(60)
    jobs = read_jobs(tmp_path / "jobs.jsonl")
    first, last = {**jobs[0], "html": "", "text": ""}, {**jobs[-1], "headers": "none"}
    put([first, *jobs[1:-1], last])
    programs.start("record")
    worker = programs.start("run")
    wait_until(lambda: tally(services, campaign).status == "sent")
    assert "is paused" not in worker.text()
    states: Any = queue.hmget(keys.ledger(campaign.id), first["subscriberId"], last["subscriberId"])
    assert [state.split(b":", 2)[2].partition(b":")[0] for state in states] == [b"invalid job", b"invalid job"]
