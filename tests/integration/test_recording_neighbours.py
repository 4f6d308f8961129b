"""One bad row or campaign among good ones: the good ones are recorded and closed as ever, the bad one ends in a
sentence, and nothing of it is lost."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
import redis

from demo.campaign import Campaign
from demo.tally import tally
from testbed.services import Services
from tests.integration.conftest import MakeCampaign
from tests.integration.gateway import PAGE, Answer, Change, gateway
from tests.integration.programs import Program, Programs, wait_until
from worker.base import keys
from worker.ledger.ledger import Entry, mark_sent

Database = psycopg.Connection[tuple[object, ...]]

MAILS = 60
#: Far less than an outage's or a campaign's back-off.
SOON_SECONDS = 15.0


def was_sent(queue: redis.Redis, campaign_id: str, subscriber_ids: tuple[str, ...] | list[str]) -> None:
    """Their mails were accepted: the results are in the ledger and in the outbox."""
    for subscriber_id in subscriber_ids:
        mark_sent(queue, Entry(campaign_id, subscriber_id, ""))


def start(programs: Programs, **changes: str) -> Program:
    """A recorder with the name that it has on a host: after a restart it goes on with what it held."""
    return programs.start("record", SUPERVISOR_PROCESS_NAME="mail-recorder", **changes)


def is_closed(services: Services, campaign: Campaign) -> bool:
    found = tally(services, campaign)
    return found.status == "sent" and found.rows_sent == len(campaign.subscriber_ids)


@contextmanager
def trigger(database: Database, event: str, body: str) -> Iterator[None]:
    """An app's own trigger, until the block ends."""
    database.execute(
        f"CREATE FUNCTION objection() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NEW; END $$;"
        f"CREATE TRIGGER objection BEFORE UPDATE ON {event} FOR EACH ROW EXECUTE FUNCTION objection()"
    )
    try:
        yield
    finally:
        database.execute("DROP FUNCTION objection() CASCADE")


def test_a_campaign_whose_id_is_no_uuid(
    make_campaign: MakeCampaign, programs: Programs, services: Services, queue: redis.Redis
) -> None:
    good = make_campaign(MAILS)
    was_sent(queue, "spring-sale", [f"s-{number}" for number in range(300)])
    was_sent(queue, good.id, good.subscriber_ids)
    was_sent(queue, "spring-sale", [f"s-{number}" for number in range(300, 600)])
    recorder = start(programs)
    wait_until(lambda: is_closed(services, good), SOON_SECONDS)
    wait_until(lambda: queue.hexists(keys.PARKED_CAMPAIGNS, "spring-sale"), SOON_SECONDS)
    assert "campaign spring-sale is put aside: Supabase refuses a value for campaigns" in recorder.text()
    _, shown = programs.run("status")
    assert "put aside  campaign spring-sale: Supabase refuses a value" in shown
    assert queue.hlen(keys.ledger("spring-sale")) == 600


@pytest.mark.parametrize("code", ["P0001", "23514", "XX000", "55P03"])
def test_a_row_that_a_trigger_refuses(
    code: str,
    make_campaign: MakeCampaign,
    programs: Programs,
    services: Services,
    queue: redis.Redis,
    database: Database,
) -> None:
    good, other = make_campaign(MAILS), make_campaign(MAILS)
    bad_row = other.subscriber_ids[7]
    was_sent(queue, other.id, other.subscriber_ids)
    was_sent(queue, good.id, good.subscriber_ids)
    objection = f"IF NEW.subscriber_id = '{bad_row}' THEN RAISE 'not this one' USING ERRCODE = '{code}'; END IF"
    with trigger(database, "campaign_subscribers", objection):
        recorder = start(programs)
        wait_until(lambda: is_closed(services, good), SOON_SECONDS)
        wait_until(lambda: tally(services, other).rows_sent == MAILS - 1, SOON_SECONDS)
        recorder.wait_for("not this one")
        assert tally(services, other).status == "sending"
    assert programs.run("reconcile", other.id, "--repair")[0] == 0
    recorder.stop()
    start(programs)  # Which tries at once, where a running one waits for a minute.
    wait_until(lambda: is_closed(services, other), SOON_SECONDS)
    assert queue.xlen(keys.PARKED_RESULTS) == 0


def test_a_campaign_whose_rows_are_all_refused(
    make_campaign: MakeCampaign, programs: Programs, services: Services, queue: redis.Redis, database: Database
) -> None:
    good, bad = make_campaign(MAILS), make_campaign(500)
    was_sent(queue, bad.id, bad.subscriber_ids)
    was_sent(queue, good.id, good.subscriber_ids)
    objection = f"IF NEW.campaign_id = '{bad.id}' THEN RAISE 'archived'; END IF"
    with trigger(database, "campaign_subscribers", objection):
        recorder = start(programs)
        wait_until(lambda: is_closed(services, good), SOON_SECONDS)
        recorder.wait_for(f"results of campaign {bad.id} wait in the outbox")
        # It was tried a few times, and the rest waits for the campaign to be mended.
        assert queue.xlen(keys.PARKED_RESULTS) <= 40
        assert queue.xlen(keys.OUTBOX) >= 460
    recorder.stop()
    recorder = start(programs)
    wait_until(lambda: tally(services, bad).rows_sent >= 460 and queue.xlen(keys.OUTBOX) == 0, SOON_SECONDS)
    recorder.stop()
    assert programs.run("reconcile", bad.id, "--repair")[0] == 0
    start(programs)  # Which looks at once, where a running one does so once a minute.
    wait_until(lambda: is_closed(services, bad), SOON_SECONDS)


def test_a_campaign_that_must_not_be_closed(
    make_campaign: MakeCampaign, programs: Programs, services: Services, queue: redis.Redis, database: Database
) -> None:
    good, bad = make_campaign(MAILS), make_campaign(MAILS)
    was_sent(queue, bad.id, bad.subscriber_ids)
    with trigger(database, "campaigns", f"IF NEW.id = '{bad.id}' THEN RAISE 'on hold'; END IF"):
        recorder = start(programs)
        wait_until(lambda: tally(services, bad).rows_sent == MAILS, SOON_SECONDS)
        was_sent(queue, good.id, good.subscriber_ids)
        wait_until(lambda: is_closed(services, good), SOON_SECONDS)
        recorder.wait_for(f"campaign {bad.id} is put aside: Supabase refuses a value for campaigns: on hold (P0001)")
    recorder.stop()
    start(programs)
    wait_until(lambda: is_closed(services, bad), SOON_SECONDS)
    assert queue.hlen(keys.PARKED_CAMPAIGNS) == 0


def test_a_campaign_that_makes_the_database_slow(
    make_campaign: MakeCampaign, programs: Programs, services: Services, queue: redis.Redis, database: Database
) -> None:
    good, slow = make_campaign(MAILS), make_campaign(MAILS)
    database.execute("ALTER ROLE authenticator SET statement_timeout = '300ms'")
    services.control("postgrest", "restart")
    try:
        with trigger(
            database, "campaign_subscribers", f"IF NEW.campaign_id = '{slow.id}' THEN PERFORM pg_sleep(5); END IF"
        ):
            was_sent(queue, slow.id, slow.subscriber_ids)
            was_sent(queue, good.id, good.subscriber_ids)
            recorder = start(programs)
            wait_until(lambda: is_closed(services, good), SOON_SECONDS)
            recorder.wait_for(f"results of campaign {slow.id} wait in the outbox: Supabase gives up")
            assert queue.xlen(keys.OUTBOX) == MAILS
    finally:
        database.execute("ALTER ROLE authenticator RESET statement_timeout")
        services.control("postgrest", "restart")
    recorder.stop()
    start(programs)
    wait_until(lambda: is_closed(services, slow), SOON_SECONDS)


def test_rubbish_in_the_outbox(
    make_campaign: MakeCampaign, programs: Programs, services: Services, queue: redis.Redis
) -> None:
    good = make_campaign(MAILS)
    fields: dict[str | bytes, str | bytes] = {
        "campaign": good.id,
        "subscriber": good.subscriber_ids[0],
        "result": "s",
        "at": "1",
        "words": "",
    }
    rubbish: list[tuple[str, str | bytes]] = [("at", "1" * 30), ("at", "-1"), ("at", "soon"), ("campaign", b"\xff")]
    rubbish += [("campaign", "\0"), ("campaign", "x" * 100_000), ("subscriber", "\x01" * 100)]
    for name, value in rubbish:
        queue.xadd(keys.OUTBOX, {**fields, name: value})  # type: ignore[dict-item]  # dict is invariant
    was_sent(queue, good.id, good.subscriber_ids)
    recorder = start(programs)
    wait_until(lambda: is_closed(services, good), SOON_SECONDS)
    wait_until(lambda: queue.xlen(keys.OUTBOX) == 0, SOON_SECONDS)
    assert recorder.process.poll() is None


def page_for(what: str) -> Change:
    return lambda method, path, ask: PAGE if what in f"{method} {path}" else ask()


def without_range(method: str, path: str, ask: Callable[[], Answer]) -> Answer:
    answer = ask()
    headers = {name: value for name, value in answer.headers.items() if name.lower() != "content-range"}
    return dataclasses.replace(answer, headers=headers)


def other_json(method: str, path: str, ask: Callable[[], Answer]) -> Answer:
    return dataclasses.replace(ask(), body=b'{"hello":"you"}') if method == "GET" else ask()


def empty(method: str, path: str, ask: Callable[[], Answer]) -> Answer:
    return Answer(200, {}, b"")


@pytest.mark.parametrize(
    "change",
    [page_for("PATCH"), page_for("GET"), page_for("campaigns?"), without_range, other_json, empty],
    ids=["page for updates", "page for counts", "page for campaigns", "no Content-Range", "other JSON", "empty"],
)
def test_a_gateway_that_answers_in_its_place(
    change: Change, make_campaign: MakeCampaign, programs: Programs, services: Services, queue: redis.Redis
) -> None:
    campaign = make_campaign(MAILS)
    was_sent(queue, campaign.id, campaign.subscriber_ids)
    with gateway(services, change) as url:
        recorder = start(programs, SUPABASE_URL=url)
        recorder.wait_for("can't be understood")
        time.sleep(2)
        assert recorder.process.poll() is None
        assert tally(services, campaign).status == "sending"
        assert queue.sismember(keys.OPEN_CAMPAIGNS, campaign.id)
        recorder.stop()
    start(programs)
    wait_until(lambda: is_closed(services, campaign), SOON_SECONDS)


def test_one_request_that_a_firewall_in_between_refuses(
    make_campaign: MakeCampaign, programs: Programs, services: Services, queue: redis.Redis
) -> None:
    good, bad = make_campaign(MAILS), make_campaign(MAILS)

    def change(method: str, path: str, ask: Callable[[], Answer]) -> Answer:
        refused = bad.subscriber_ids[3] in path
        return Answer(403, {"Content-Type": "text/html"}, b"<html>Forbidden</html>") if refused else ask()

    was_sent(queue, bad.id, bad.subscriber_ids)
    was_sent(queue, good.id, good.subscriber_ids)
    with gateway(services, change) as url:
        recorder = start(programs, SUPABASE_URL=url)
        wait_until(lambda: is_closed(services, good), SOON_SECONDS)
        wait_until(lambda: tally(services, bad).rows_sent == MAILS - 1, SOON_SECONDS)
        recorder.wait_for(f"a result of campaign {bad.id} can't be recorded yet")


def test_a_status_that_is_empty_becomes_sent(
    make_campaign: MakeCampaign, programs: Programs, services: Services, queue: redis.Redis, database: Database
) -> None:
    campaign = make_campaign(MAILS)
    database.execute("ALTER TABLE campaigns ALTER status DROP NOT NULL")
    try:
        database.execute("UPDATE campaigns SET status = NULL WHERE id = %s", (campaign.id,))
        was_sent(queue, campaign.id, campaign.subscriber_ids)
        start(programs)
        wait_until(lambda: is_closed(services, campaign), SOON_SECONDS)
    finally:
        database.execute("DELETE FROM campaigns WHERE status IS NULL")
        database.execute("ALTER TABLE campaigns ALTER status SET NOT NULL")


def test_a_result_that_was_put_aside_outlives_its_ledger(
    make_campaign: MakeCampaign, programs: Programs, services: Services, queue: redis.Redis, database: Database
) -> None:
    campaign = make_campaign(MAILS)
    bad_row = campaign.subscriber_ids[7]
    was_sent(queue, campaign.id, campaign.subscriber_ids)
    with trigger(database, "campaign_subscribers", f"IF NEW.subscriber_id = '{bad_row}' THEN RAISE 'no'; END IF"):
        recorder = start(programs)
        wait_until(lambda: queue.xlen(keys.PARKED_RESULTS) == 1, SOON_SECONDS)
        recorder.stop()
    queue.delete(keys.ledger(campaign.id))
    code, said = programs.run("reconcile", campaign.id)
    assert code == 1
    assert "       0 missing" in said
    assert programs.run("reconcile", campaign.id, "--repair")[0] == 0
    start(programs)
    wait_until(lambda: is_closed(services, campaign), SOON_SECONDS)


def test_parked_campaigns_are_json(queue: redis.Redis, programs: Programs) -> None:
    was_sent(queue, "c-1", ["s-1"])
    start(programs)
    wait_until(lambda: queue.hexists(keys.PARKED_CAMPAIGNS, "c-1"), SOON_SECONDS)
    stored = queue.hget(keys.PARKED_CAMPAIGNS, "c-1")
    at_ms, reason = json.loads(stored)  # type: ignore[arg-type]
    assert abs(at_ms / 1000 - time.time()) < 60
    assert "22P02" in reason
