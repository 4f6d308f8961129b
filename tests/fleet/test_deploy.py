"""v1 → v2 → a broken v3 → rollback, while a campaign runs: molecule/deploy calls it.

MAIL_FAULTS names the kinds of a broken v3, or "all": each takes two minutes, and what they share is tested once."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex

import redis

from tests.fleet.campaign import SteadyCampaign, releases
from tests.fleet.conftest import Fleet
from tests.fleet.versions import BROKEN, make_version

RECIPIENTS = 12_000


def test_releases_come_and_go_under_a_campaign(
    fleet: Fleet, tmp_path: Path, pause: Callable[[str, float], None]
) -> None:
    redis_url = fleet.services.redis_url
    first = set(releases(redis_url).values())
    assert len(first) == 1
    fleet.play("deploy")  # The steady rate.
    campaign = SteadyCampaign(fleet.services, redis_url, RECIPIENTS, tmp_path)
    campaign.wait_for(20)

    began = time.time()
    printed = fleet.play("deploy", worker_source_directory=str(make_version(tmp_path, "0.2.0")))
    pause("v1 to v2", campaign.longest_pause(began, time.time()))
    assert "mails leave" in printed
    second = releases(redis_url)
    assert all(release.startswith("0.2.0-") for release in second.values()), second

    printed = fleet.play("deploy", worker_source_directory=str(tmp_path / "0.2.0-"))
    assert printed.count("unchanged: 0.2.0-") == len(fleet.inventory["mail_workers"]["hosts"])
    assert releases(redis_url) == second

    faults = os.environ.get("MAIL_FAULTS", "sends nothing")
    for fault in BROKEN if faults == "all" else faults.split(","):
        began = time.time()
        printed = fleet.play(
            "deploy",
            fails=True,
            worker_source_directory=str(make_version(tmp_path, "0.3.0", fault)),
            worker_gate_seconds=15,
        )
        pause(f"v3 that {fault}", campaign.longest_pause(began, time.time()))
        assert ": 0.3.0-" in printed
        assert " failed, and what ran before runs again." in printed
        assert "the deploy stopped, because of" in printed
        campaign.wait_for(20)
        assert releases(redis_url).keys() == second.keys()
        assert set(releases(redis_url).values()) == set(second.values())

    began = time.time()
    fleet.play("rollback")
    pause("rollback to v1", campaign.longest_pause(began, time.time()))
    campaign.wait_for(20)
    assert set(releases(redis_url).values()) == first

    # Rotation with an overlap: both passwords hold until every host has the new one.
    new_password = token_hex(16)
    with redis.Redis.from_url(redis_url) as client:
        client.execute_command("ACL", "SETUSER", "default", f">{new_password}")
        new_url = redis_url.replace(fleet.services.redis_password, new_password)
        fleet.play("deploy", worker_redis_url=new_url, worker_mail_rate="")
        client.execute_command("ACL", "SETUSER", "default", f"<{fleet.services.redis_password}")
    for host in fleet.inventory["mail_workers"]["hosts"]:
        secrets = (new_password, fleet.services.supabase_secret_key, fleet.services.smtp_password)
        assert fleet.files_with_secrets(host, *secrets) == ["/etc/mail-worker/worker.env"]
        assert fleet.files_with_secrets(host, fleet.services.redis_password) == []
    result = campaign.finish()
    assert result.accepted == result.unique, result
