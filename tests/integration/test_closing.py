"""When a campaign is closed, what is searched before, and how long its ledger lives."""

from collections.abc import Iterator

import psycopg
import pytest
import redis

from demo.campaign import Campaign
from demo.tally import tally
from testbed.services import Services
from tests.integration.conftest import MakeCampaign
from worker.base import keys
from worker.base.settings import load_settings
from worker.ledger.ledger import LEDGER_SECONDS, Entry, mark_sent
from worker.ledger.outbox import Outbox
from worker.recording import campaigns as closing
from worker.recording.campaigns import Campaigns
from worker.recording.database import SupabaseDatabase
from worker.recording.results import ResultWriter

Database = psycopg.Connection[tuple[object, ...]]


class Recording:
    """A recorder's parts, one step at a time."""

    def __init__(self, queue: redis.Redis, database: SupabaseDatabase) -> None:
        self.outbox = Outbox(queue, "recorder")
        self.outbox.open()
        self.campaigns = Campaigns(queue, database)
        self.writer = ResultWriter(self.outbox, database, self.campaigns)

    def step(self) -> None:
        self.writer.write(self.outbox.new(1000, 1))
        self.campaigns.close_complete()
        self.campaigns.forget_ledgers()


@pytest.fixture
def supabase(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, queue: redis.Redis
) -> Iterator[SupabaseDatabase]:
    monkeypatch.setenv("SSL_CERT_FILE", environment["SSL_CERT_FILE"])
    database = SupabaseDatabase(load_settings(environment))
    yield database
    database.close()


@pytest.fixture
def recording(queue: redis.Redis, supabase: SupabaseDatabase) -> Recording:
    return Recording(queue, supabase)


def was_sent(queue: redis.Redis, campaign: Campaign) -> None:
    for subscriber_id in campaign.subscriber_ids:
        mark_sent(queue, Entry(campaign.id, subscriber_id, ""))


def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a minute takes none."""
    monkeypatch.setattr(closing, "LOOK_AGAIN_SECONDS", 0.0)


def test_rows_that_come_after_their_mails_are_found(
    make_campaign: MakeCampaign,
    recording: Recording,
    services: Services,
    queue: redis.Redis,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at_once(monkeypatch)
    campaign = make_campaign(1500)
    late = list(campaign.subscriber_ids[:1200])
    # The first ones of the table's order have been handled, and so the search goes over pages in which nothing is late.
    database.execute("DELETE FROM campaign_subscribers WHERE subscriber_id = ANY(%s::uuid[])", (late,))
    was_sent(queue, campaign)
    queue.hdel(keys.ledger(campaign.id), campaign.subscriber_ids[-1])  # One isn't sent yet: the campaign stays open.
    queue.xtrim(keys.OUTBOX, maxlen=1499)
    recording.step()
    recording.step()
    assert queue.xlen(keys.OUTBOX) <= 1
    for subscriber_id in late:
        database.execute(
            "INSERT INTO campaign_subscribers (campaign_id, subscriber_id) VALUES (%s, %s)",
            (campaign.id, subscriber_id),
        )
    for _ in range(8):
        recording.step()
    assert tally(services, campaign).rows_sent >= 1499


def test_a_campaign_that_is_closed_and_gets_a_late_row_is_opened_and_closed_again(
    make_campaign: MakeCampaign,
    recording: Recording,
    services: Services,
    queue: redis.Redis,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at_once(monkeypatch)
    campaign = make_campaign(20)
    late = campaign.subscriber_ids[0]
    database.execute("DELETE FROM campaign_subscribers WHERE subscriber_id = %s", (late,))
    was_sent(queue, campaign)
    recording.step()
    assert tally(services, campaign).status == "sent"
    database.execute(
        "INSERT INTO campaign_subscribers (campaign_id, subscriber_id) VALUES (%s, %s)", (campaign.id, late)
    )
    for _ in range(6):
        recording.step()
    assert tally(services, campaign).rows_sent == 20
    assert not queue.sismember(keys.OPEN_CAMPAIGNS, campaign.id)


def test_a_trigger_that_takes_sent_back_is_not_fought(
    make_campaign: MakeCampaign, recording: Recording, queue: redis.Redis, database: Database
) -> None:
    campaign = make_campaign(20)
    was_sent(queue, campaign)
    recording.step()
    database.execute("UPDATE campaign_subscribers SET sent = false WHERE campaign_id = %s", (campaign.id,))
    queue.sadd(keys.OPEN_CAMPAIGNS, campaign.id)
    added = queue.xinfo_stream(keys.OUTBOX)["entries-added"]
    for _ in range(10):
        recording.step()
    assert queue.xinfo_stream(keys.OUTBOX)["entries-added"] - added <= 20


def test_an_open_campaign_keeps_its_ledger(
    make_campaign: MakeCampaign, recording: Recording, queue: redis.Redis
) -> None:
    campaign = make_campaign(3)
    mark_sent(queue, Entry(campaign.id, campaign.subscriber_ids[0], ""))
    for key in (keys.ledger(campaign.id), keys.counts(campaign.id)):
        queue.expire(key, 100)
    recording.step()
    for key in (keys.ledger(campaign.id), keys.counts(campaign.id)):
        assert queue.ttl(key) > LEDGER_SECONDS - 100


def test_a_campaign_that_is_not_there_is_waited_for_and_then_put_aside(
    make_campaign: MakeCampaign,
    supabase: SupabaseDatabase,
    services: Services,
    queue: redis.Redis,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    campaign = make_campaign(20)
    database.execute("DELETE FROM campaign_subscribers WHERE campaign_id = %s", (campaign.id,))
    database.execute("DELETE FROM campaigns WHERE id = %s", (campaign.id,))
    was_sent(queue, campaign)
    Recording(queue, supabase).step()
    # Nothing is dropped, and the campaign isn't closed.
    assert queue.xlen(keys.OUTBOX) == 20
    assert queue.sismember(keys.OPEN_CAMPAIGNS, campaign.id)
    assert queue.ttl(keys.ledger(campaign.id)) > 8 * 86_400
    assert queue.hlen(keys.PARKED_CAMPAIGNS) == 0
    monkeypatch.setattr(closing, "MISSING_SECONDS", -1.0)
    monkeypatch.setattr("worker.recording.results.MISSING_SECONDS", -1.0)
    recording = Recording(queue, supabase)
    recording.writer.write(recording.outbox.own(1000))
    assert queue.xlen(keys.OUTBOX) == 0
    assert not queue.sismember(keys.OPEN_CAMPAIGNS, campaign.id)
    assert queue.hexists(keys.PARKED_CAMPAIGNS, campaign.id)
    # It comes after all: a new start finds it, and its rows.
    campaign.insert(services.database_url)
    at_once(monkeypatch)
    recording = Recording(queue, supabase)
    recording.campaigns.open_parked()
    for _ in range(4):
        recording.step()
    assert tally(services, campaign).rows_sent == 20
    assert tally(services, campaign).status == "sent"
    assert queue.hlen(keys.PARKED_CAMPAIGNS) == 0


def test_a_campaign_that_was_put_aside_is_forgotten_with_its_ledger(recording: Recording, queue: redis.Redis) -> None:
    mark_sent(queue, Entry("c-1", "s-1", ""))
    recording.step()
    assert queue.hexists(keys.PARKED_CAMPAIGNS, "c-1")
    recording.campaigns.open_parked()
    assert queue.sismember(keys.OPEN_CAMPAIGNS, "c-1")
    queue.delete(keys.ledger("c-1"))
    recording.campaigns.open_parked()
    assert not queue.hexists(keys.PARKED_CAMPAIGNS, "c-1")


def age(queue: redis.Redis, campaign_id: str, days: float) -> None:
    """What Redis holds of a campaign's ledger that was changed so many days ago."""
    queue.expire(keys.ledger(campaign_id), int(LEDGER_SECONDS - days * 86_400))
    queue.zadd(keys.LEDGERS, {campaign_id: 0})


def test_a_ledger_goes_a_week_after_its_campaigns_end(
    make_campaign: MakeCampaign, recording: Recording, queue: redis.Redis
) -> None:
    campaign = make_campaign(20)
    was_sent(queue, campaign)
    recording.step()
    assert not queue.sismember(keys.OPEN_CAMPAIGNS, campaign.id)
    # Redis would stand still while it expires: that is left to where no recorder runs.
    assert queue.ttl(keys.ledger(campaign.id)) > LEDGER_SECONDS - 100
    score = queue.zscore(keys.LEDGERS, campaign.id)
    assert score is not None
    age(queue, campaign.id, 6.9)
    recording.step()
    assert queue.hlen(keys.ledger(campaign.id)) == 20
    age(queue, campaign.id, 7.1)
    queue.config_resetstat()
    recording.step()
    assert not queue.exists(keys.ledger(campaign.id), keys.counts(campaign.id), keys.LEDGERS)
    assert queue.info("commandstats")["cmdstat_unlink"]["calls"] == 1


@pytest.mark.parametrize("state", ["open", "cancelled", "put aside"])
def test_the_ledger_of_a_campaign_that_may_go_on_stays_longer(
    make_campaign: MakeCampaign, recording: Recording, queue: redis.Redis, state: str
) -> None:
    campaign = make_campaign(2)
    mark_sent(queue, Entry(campaign.id, campaign.subscriber_ids[0], ""))
    recording.step()
    if state == "cancelled":
        queue.hset(keys.CONTROL, campaign.id, "cancelled:by an operator")
        queue.srem(keys.OPEN_CAMPAIGNS, campaign.id)
    elif state == "put aside":
        recording.campaigns.park(campaign.id, "why")
    age(queue, campaign.id, 28.9)
    recording.step()
    assert queue.exists(keys.ledger(campaign.id))
    age(queue, campaign.id, 29.1)
    recording.step()
    assert queue.exists(keys.ledger(campaign.id)) == (state == "open")
