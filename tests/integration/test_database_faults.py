"""What Supabase may do to the recorder: each trouble is told apart, said once, and loses nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import redis

from demo.campaign import Campaign
from demo.tally import tally
from testbed.services import Services
from tests.integration.conftest import MakeCampaign
from tests.integration.programs import Programs, wait_until
from worker.base import keys

Database = psycopg.Connection[tuple[object, ...]]

MAILS = 120


@pytest.fixture
def sent(
    make_campaign: MakeCampaign, programs: Programs, services: Services, queue: redis.Redis, tmp_path: Path
) -> Campaign:
    """A campaign that has been sent, and whose results wait for a recorder."""
    campaign = make_campaign(MAILS)
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text(jobs.read_text(encoding="utf-8").replace("refused-", "reader-"), encoding="utf-8")
    assert programs.run("enqueue", str(jobs)) == (0, f"queued {MAILS} jobs\n")
    worker = programs.start("run", WORKER_CONCURRENCY="20")
    wait_until(lambda: queue.xlen(keys.OUTBOX) == MAILS)
    worker.stop()
    return campaign


@contextmanager
def changed(database: Database, services: Services, change: str, back: str) -> Iterator[None]:
    """A change to the database, until the block ends; PostgREST connects anew and reads the schema again."""
    database.execute(change)
    services.control("postgrest", "restart")
    try:
        yield
    finally:
        database.execute(back)
        services.control("postgrest", "restart")


def test_a_revoked_key_is_said_once_and_a_new_one_catches_up(
    sent: Campaign, programs: Programs, services: Services, queue: redis.Redis
) -> None:
    recorder = programs.start("record", SUPABASE_SERVICE_ROLE_KEY="sb_secret_revoked")
    recorder.wait_for("Supabase refuses the key")
    recorder.wait_for("Results wait in the outbox.")
    assert queue.xlen(keys.OUTBOX) == MAILS
    recorder.stop()
    assert recorder.text().count("Supabase refuses the key") == 1
    programs.start("record")
    wait_until(lambda: tally(services, sent).accounted_for)


def test_a_missing_table_is_said_once_and_waited_for(
    sent: Campaign, programs: Programs, services: Services, queue: redis.Redis, database: Database
) -> None:
    there, away = "campaign_subscribers", "campaign_subscribers_away"
    with changed(database, services, f"ALTER TABLE {there} RENAME TO {away}", f"ALTER TABLE {away} RENAME TO {there}"):
        recorder = programs.start("record")
        recorder.wait_for("Supabase has no table campaign_subscribers")
        assert queue.xlen(keys.OUTBOX) == MAILS
    wait_until(lambda: tally(services, sent).accounted_for)
    assert recorder.text().count("Supabase has no table") == 1


def test_a_statement_time_out_makes_the_requests_smaller(
    sent: Campaign, programs: Programs, services: Services, database: Database
) -> None:
    database.execute(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql"
        " AS $$ BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$"
    )
    database.execute("ALTER ROLE authenticator SET statement_timeout = '1s'")
    with changed(
        database,
        services,
        "CREATE TRIGGER dawdle BEFORE UPDATE ON campaign_subscribers FOR EACH ROW EXECUTE FUNCTION dawdle()",
        "DROP FUNCTION dawdle() CASCADE; ALTER ROLE authenticator RESET statement_timeout",
    ):
        recorder = programs.start("record")
        wait_until(lambda: tally(services, sent).accounted_for)
    assert "ERROR" not in recorder.text()


def test_rows_that_do_not_exist_are_said_once(
    sent: Campaign, programs: Programs, services: Services, queue: redis.Redis, database: Database
) -> None:
    database.execute(
        "DELETE FROM campaign_subscribers WHERE subscriber_id = ANY(%s::uuid[])", (list(sent.subscriber_ids[:9]),)
    )
    recorder = programs.start("record")
    wait_until(lambda: queue.xlen(keys.OUTBOX) == 0 and tally(services, sent).status == "sent")
    assert tally(services, sent).rows_sent == MAILS - 9
    assert recorder.text().count("is the campaign's id right?") == 1
