"""How far a campaign is, to the mail, whichever queue its mails are in; and which campaigns there were."""

import json
import re
import time
from typing import Any, cast

import pytest
import redis

from demo.tally import tally
from testbed.app import App
from testbed.services import Services
from tests.integration.conftest import MakeCampaign
from tests.integration.programs import Programs, wait_until
from worker.base import keys
from worker.base.alerting import AlertSettings
from worker.base.redis_client import connect
from worker.base.settings import Secret
from worker.errors import DatabaseTooSlow
from worker.queue.control import BY_HAND
from worker.recording.database import Database
from worker.recording.recipients import Recipients
from worker.watching.points import CAMPAIGNS, Point
from worker.watching.status import read_status
from worker.watching.troubles import fleet_troubles

#: They run beside the others, with services of their own (make watching).
pytestmark = pytest.mark.watching
HOUR_MS = 3_600_000


def of_status(programs: Programs, campaign: str) -> dict[str, Any]:
    found = json.loads(programs.run("status", "--json")[1])["campaigns"]
    return next((row for row in found if row["campaign_id"] == campaign), {})


def test_delayed_and_parked_jobs_of_the_apps_queue_are_to_go(
    app: App, programs: Programs, make_campaign: MakeCampaign, services: Services
) -> None:
    campaign = make_campaign(50)
    jobs = [
        {
            "name": "mail",
            "data": {
                "to": f"r{number}@testbed.example",
                "subject": "s",
                "text": "x",
                "campaignId": campaign.id,
                "subscriberId": campaign.subscriber_ids[number],
            },
            "opts": {"delay": 0 if number < 10 else HOUR_MS},
        }
        for number in range(50)
    ]
    app.ask("addBulk", jobs=jobs)
    programs.start("run")
    programs.start("record")
    wait_until(lambda: of_status(programs, campaign.id).get("to_go") == 40)
    assert of_status(programs, campaign.id)["sent"] == 10
    text = programs.run("status")[1]
    assert f"campaign   {campaign.id}: 10 sent, 0 failed, 40 to go" in text
    # What comes in an hour is to be sent, too.
    [minutes] = re.findall(r"finish     done in about (\d+) min", text)
    assert 55 <= int(minutes) <= 60
    assert "0 given up, 0 were uncertain, 40 to go" in programs.run("campaign", campaign.id)[1]
    away = programs.run("campaign", campaign.id, NEXT_PUBLIC_SUPABASE_URL="http://127.0.0.1:9")[1]
    assert "40 to go" in away
    assert f"{campaign.id}: sending; 10 sent, 0 failed, 40 to go\n" in programs.run("campaign")[1]
    for job in app.ask("jobs", types=["delayed"]):
        app.ask("promote", id=job["id"])
    wait_until(lambda: tally(services, campaign).status == "sent")


def test_campaigns_of_late_are_listed(
    programs: Programs, queue: redis.Redis, make_campaign: MakeCampaign, services: Services, tmp_path: Any
) -> None:
    assert programs.run("campaign") == (0, "No campaign is open, and none was within the last week.\n")
    campaign = make_campaign(101)
    programs.run("enqueue", str(tmp_path / "jobs.jsonl"))
    programs.start("run")
    programs.start("record")
    wait_until(lambda: tally(services, campaign).status == "sent")
    wait_until(lambda: not queue.exists(keys.OPEN_CAMPAIGNS))
    counted = tally(services, campaign)
    code, said = programs.run("campaign")
    assert code == 0
    assert said.startswith(f"{campaign.id}: complete since ")
    assert f"; {counted.accepted} sent, {counted.failed} failed\n" in said
    [found] = json.loads(programs.run("campaign", "--json")[1])["campaigns"]
    assert (found["sent"], found["failed"], found["state"]) == (counted.accepted, counted.failed, "complete")
    assert time.time() - 60 < found["ended_at"] <= time.time()
    code, said = programs.run("campaign", "--csv", "x.csv")
    assert (code, "mail-worker campaign CAMPAIGN --csv FILE" in said) == (1, True)


class FakeDatabase:
    """One with so many rows, or none that it counts in time."""

    def __init__(self, rows: int | None) -> None:
        self.rows = rows
        self.asked = 0

    def count_recipients(self, campaign_id: str) -> int:
        self.asked += 1
        if self.rows is None:
            raise DatabaseTooSlow("too slow")
        return self.rows


@pytest.mark.parametrize(
    ("rows", "at_least", "at_most", "told"),
    [(1000, 990, 1010, 1000), (1000, 500, 510, 500), (0, 10, 12, 10), (None, 700, 800, 700)],
)
def test_how_many_recipients_there_are(
    queue: redis.Redis, rows: int | None, at_least: int, at_most: int, told: int
) -> None:
    database = FakeDatabase(rows)
    recipients = Recipients(queue, cast("Database", database))
    for _ in range(3):
        recipients.tell("c", at_least, at_most)
    assert int(queue.hget(keys.counts("c"), "recipients") or 0) == told
    assert queue.ttl(keys.counts("c")) > 86_400
    assert database.asked == (3 if rows == 0 else 1)


def test_the_number_of_a_quiet_moment_holds_while_results_are_under_way(queue: redis.Redis) -> None:
    database = FakeDatabase(40)
    recipients = Recipients(queue, cast("Database", database))

    def told(at_least: int, at_most: int) -> int:
        recipients.tell("c", at_least, at_most)
        return int(queue.hget(keys.counts("c"), "recipients") or 0)

    # Of 40 rows another worker has sent 25; 30 results, of whichever campaigns, are under way.
    assert told(15, 15) == 15
    assert told(10, 45) == 15
    # Five more.
    assert told(20, 20) == 20
    assert told(18, 50) == 20
    assert database.asked == 0


def test_who_waits_for_somebody_is_told_among_any_number(queue: redis.Redis, services: Services) -> None:
    for number in range(1000):
        campaign = f"a-{number:04}"
        queue.sadd(keys.OPEN_CAMPAIGNS, campaign)
        queue.rpush(keys.lane(campaign), f"m-{number}")
        queue.hset(keys.counts(campaign), mapping={"sent": number, "recipients": 2000})
        queue.zadd(f"{keys.LANES}:normal", {campaign: number})
    queue.hset(keys.CONTROL, mapping={"z-1": "paused:20 % failed", "z-2": f"paused:{BY_HAND}"})
    status = read_status(connect(Secret(services.redis_url)), "smtp:a@b", (), "")
    assert status.campaigns[0].campaign_id == "z-1"
    assert status.campaigns[0].state == "paused: 20 % failed"
    assert "z-2" not in {campaign.campaign_id for campaign in status.campaigns}
    assert all(campaign.to_go == 2000 - campaign.sent for campaign in status.campaigns[1:])
    running = Point.of(status, time.time()).campaigns
    assert len(running) == CAMPAIGNS
    assert "z-1" not in running


def test_each_that_paused_by_itself_is_told_and_none_as_over(queue: redis.Redis, services: Services) -> None:
    ids = [f"campaign-{number:03}" for number in range(100)]
    for number, campaign in enumerate(ids):
        queue.sadd(keys.OPEN_CAMPAIGNS, campaign)
        queue.hset(keys.counts(campaign), "sent", number)
        queue.expire(keys.counts(campaign), 86_400 + number)
        queue.hset(keys.CONTROL, campaign, f"paused:{'the template is missing ' * 20}")
    client = connect(Secret(services.redis_url))
    for renewed in (ids[0], ids[50]):
        status = read_status(client, "smtp:a@b", (), "")
        assert len(status.campaigns) < len(ids)
        told = [trouble.key for trouble in fleet_troubles(status, [], {}, AlertSettings(), time.time())]
        assert sorted(told) == [f"paused:{campaign}" for campaign in ids]
        # Each result has a campaign's counts kept for longer, and it's another one that comes first.
        queue.expire(keys.counts(renewed), 2 * 86_400)


def test_a_campaign_that_paused_before_its_first_result_is_there(programs: Programs, queue: redis.Redis) -> None:
    queue.hset(keys.CONTROL, "c-1", "paused:the template t is missing")
    said = "c-1: paused: the template t is missing; 0 sent, 0 failed\n"
    assert programs.run("campaign") == (0, said)
    code, said = programs.run("campaign", "c-1")
    assert (code, "campaign   c-1: paused: the template t is missing\n" in said) == (0, True)


@pytest.mark.parametrize("rubbish", ["abc", "", "nan", "1e400", "-5", "1.5", "9" * 400])
def test_what_is_no_number_ends_no_look(programs: Programs, queue: redis.Redis, rubbish: str) -> None:
    queue.sadd(keys.OPEN_CAMPAIGNS, "c-1")
    queue.hset(keys.counts("c-1"), mapping={"sent": 3, "recipients": rubbish})
    queue.expire(keys.counts("c-1"), 86_400)
    assert of_status(programs, "c-1")["sent"] == 3
    assert programs.run("campaign")[0] == 0
    assert programs.run("campaign", "c-1")[0] == 0


def test_a_count_that_is_too_slow_is_asked_for_once_in_a_while(queue: redis.Redis) -> None:
    # Results wait meanwhile: 20 s for each of a thousand campaigns, at each look, would be for good.
    database = FakeDatabase(None)
    recipients = Recipients(queue, cast("Database", database))
    for number in range(10):
        for campaign in ("c-1", "c-2"):
            recipients.tell(campaign, 700 + number, 800)
    assert database.asked == 1
    assert int(queue.hget(keys.counts("c-2"), "recipients") or 0) == 709


def test_what_is_put_aside_is_so_in_the_list_and_alone(programs: Programs, queue: redis.Redis) -> None:
    queue.hset(keys.PARKED_CAMPAIGNS, "c-1", json.dumps([1, "no uuid"]))
    queue.hset(keys.counts("c-1"), "sent", 3)
    queue.expire(keys.counts("c-1"), 86_400)
    assert programs.run("campaign") == (0, "c-1: put aside; 3 sent, 0 failed\n")
    assert programs.run("campaign", "c-1")[1].startswith("campaign   c-1: put aside\n")
