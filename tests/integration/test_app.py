"""What plays the web app, its old worker and its cron does so, with each of BullMQ's majors."""

from pathlib import Path

import psycopg
import pytest

from demo.campaign import Campaign
from testbed.app import App, AppError
from testbed.old_worker import old_cron, old_worker
from testbed.services import Services
from tests.integration.conftest import MakeCampaign
from tests.integration.programs import PATIENCE_SECONDS, wait_until

Database = psycopg.Connection[tuple[object, ...]]


def queue_campaign(app: App, campaign: Campaign, path: Path) -> None:
    campaign.write_app_jobs(path)
    assert app.ask("addBulkFile", path=str(path)) == len(campaign.subscriber_ids)


def sent_rows(database: Database, campaign: Campaign) -> object:
    row = database.execute(
        "SELECT count(*) FROM campaign_subscribers WHERE campaign_id = %s AND sent", (campaign.id,)
    ).fetchone()
    return row[0] if row else None


def test_the_app_queues_a_campaign_in_its_own_shape(app: App, make_campaign: MakeCampaign, tmp_path: Path) -> None:
    campaign = make_campaign(5)
    queue_campaign(app, campaign, tmp_path / "app.jsonl")
    assert app.counts("waiting", "delayed") == {"waiting": 5, "delayed": 0}
    job = app.ask("job", id="2")
    assert set(job["data"]) == {"campaignId", "subscriberId", "email", "subject", "html", "subscriberName"}
    assert "{{name}}" in job["data"]["html"]
    assert job["name"] == f"email-{campaign.id}-reader-1.{campaign.tag}@bücher.example"
    # No options: `attempts` is what BullMQ itself writes.
    assert job["opts"] == {"attempts": 0}


def test_an_error_is_bullmqs_own_and_ends_nothing(app: App) -> None:
    held = app.ask("add", name="any", data={})
    app.ask("take", token="another")
    with pytest.raises(AppError, match="locked by another worker"):
        app.ask("remove", id=held)
    assert app.ask("state", id=held) == "active"


def test_the_old_worker_sends(
    app: App, services: Services, make_campaign: MakeCampaign, database: Database, tmp_path: Path
) -> None:
    campaign = make_campaign(1)
    queue_campaign(app, campaign, tmp_path / "app.jsonl")
    worker = old_worker(services, tmp_path / "old.log", major=app.major, keep_all=True)
    try:
        wait_until(lambda: app.counts("completed") == {"completed": 1})
    finally:
        worker.terminate()
        assert worker.wait(timeout=PATIENCE_SECONDS) == 0
    [mail] = [line for line in services.accepted() if campaign.tag in line["rcpt"]]
    # As it did on the old VPS.
    assert b"{{name}}" in (services.mail_directory / mail["file"]).read_bytes()
    assert app.ask("job", id="1")["returnvalue"]["messageId"] == mail["message_id"]
    assert sent_rows(database, campaign) == 1


def test_the_old_cron_and_its_button_take_no_lock(
    app: App, services: Services, make_campaign: MakeCampaign, database: Database, tmp_path: Path
) -> None:
    campaign = make_campaign(12)
    queue_campaign(app, campaign, tmp_path / "app.jsonl")
    # When it dies after a mail, then the job is still there
    crashed = old_cron(services, major=app.major, crash_before_remove=True)
    assert (crashed.returncode, crashed.stdout) == (1, "sent 12\n")
    assert app.counts("waiting") == {"waiting": 12}
    # When it runs, then the ten newest are sent and gone
    assert old_cron(services, major=app.major).returncode == 0
    assert sorted(job["id"] for job in app.ask("jobs", types=["waiting"])) == ["1", "2"]
    # When the button is pressed while a worker holds a job, then that one is sent too, and stays
    assert app.ask("take", token="node")["id"] == "1"
    pressed = old_cron(services, major=app.major, button=True)
    assert "sent 1\nfailed 1: Job 1 could not be removed because it is locked by another worker\n" in pressed.stdout
    assert app.counts("waiting", "active") == {"waiting": 0, "active": 1}
    assert sent_rows(database, campaign) == 12
