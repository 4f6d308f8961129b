"""v1 → v2 → a broken v3 → rollback, while a campaign runs, and a rollback without a network: molecule/deploy calls it.

MAIL_FAULTS names the kinds of a broken v3, or "all": each takes two minutes, and what they share is tested once.
MAIL_RECIPIENTS at MAIL_RATE must last until the rollback, on hosts that are slower than containers too."""

import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from secrets import token_hex

from tests.fleet.campaign import SteadyCampaign, pids, releases, wait_until_all_send
from tests.fleet.conftest import Fleet
from tests.fleet.versions import BROKEN, make_version, package_index

RECIPIENTS = int(os.environ.get("MAIL_RECIPIENTS", "12000"))

#: All traffic but the host's with itself is dropped while it goes back; the connection that asked for it outlasts that.
ROLL_BACK_WITHOUT_NETWORK = """
nft -f - <<'END'
table inet cut {{
  chain in {{ type filter hook input priority -300; policy drop; iif lo accept; }}
  chain out {{ type filter hook output priority -300; policy drop; oif lo accept; }}
}}
END
trap 'nft delete table inet cut' EXIT
began=$(date +%s.%N)
mail-worker-release rollback {release} || exit
echo "$began $(date +%s.%N)"
"""


def test_releases_come_and_go_under_a_campaign(fleet: Fleet, tmp_path: Path, say: Callable[[str], None]) -> None:
    redis_url = fleet.services.redis_url
    first = set(releases(redis_url).values())
    assert len(first) == 1
    fleet.play("deploy")  # The steady rate.
    campaign = SteadyCampaign(fleet.services, redis_url, RECIPIENTS, tmp_path)
    campaign.wait_for(20)

    source = make_version(tmp_path, "0.2.0")
    with package_index(tmp_path / "index", source) as url:
        began = time.time()
        printed = fleet.play("deploy", worker_version="0.2.0", worker_index_url=url)
        say(f"v1 to v2: {campaign.pause_since(began)}")
    assert "mails leave" in printed
    second, processes = releases(redis_url), pids(redis_url)
    assert all(release.startswith("0.2.0-") for release in second.values()), second

    # The same wheel, built here.
    printed = fleet.play("deploy", worker_source_directory=str(source))
    assert printed.count("unchanged: 0.2.0-") == len(fleet.inventory["mail_workers"]["hosts"]), printed[-3000:]
    assert pids(redis_url) == processes

    # Where another one fails, the first host keeps what has proven itself there.
    first_host, *_, last_host = fleet.inventory["mail_workers"]["hosts"]
    right = fleet.services.smtp_password
    printed = fleet.play(
        "deploy",
        fails=True,
        worker_source_directory=str(make_version(tmp_path, "0.2.1")),
        worker_smtp_password=f"{{{{ 'wrong' if inventory_hostname == '{last_host}' else '{right}' }}}}",
    )
    assert f"{last_host} was left as it is: mail-worker check failed: FAIL mail" in printed
    assert {release.partition("-")[0] for release in releases(redis_url).values()} == {"0.2.0", "0.2.1"}
    fleet.play("rollback", f"--limit={first_host}")
    campaign.wait_for(20)
    assert set(releases(redis_url).values()) == set(second.values())

    faults = os.environ.get("MAIL_FAULTS", "sends nothing")
    for fault in BROKEN if faults == "all" else faults.split(","):
        began = time.time()
        printed = fleet.play(
            "deploy",
            fails=True,
            worker_source_directory=str(make_version(tmp_path, "0.3.0", fault)),
            worker_gate_seconds=15,
        )
        say(f"v3 that {fault}: {campaign.pause_since(began)}")
        assert ": 0.3.0-" in printed
        assert " failed, and what ran before runs again." in printed
        assert "the deploy stopped, because of" in printed
        campaign.wait_for(20)
        wait_until_all_send(redis_url)
        assert releases(redis_url).keys() == second.keys()
        assert set(releases(redis_url).values()) == set(second.values())

    began = time.time()
    fleet.play("rollback")
    say(f"rollback to v1: {campaign.pause_since(began)}")
    campaign.wait_for(20)
    assert set(releases(redis_url).values()) == first

    # Rotation with an overlap: both sets of secrets hold until every host has the new one.
    old = fleet.services
    new = replace(
        old,
        redis_password=token_hex(16),
        smtp_password=token_hex(16),
        supabase_secret_key=f"sb_secret_{token_hex(16)}",
    )
    old.accept(old, new)
    fleet.services = new
    began = time.time()
    fleet.play(
        "deploy",
        worker_redis_url=new.redis_url,
        worker_smtp_password=new.smtp_password,
        worker_supabase_secret_key=new.supabase_secret_key,
        worker_mail_rate="",
    )
    say(f"new secrets: {campaign.pause_since(began)}")
    old.accept(new)
    fleet.play("verify")
    for host in fleet.inventory["mail_workers"]["hosts"]:
        found = fleet.files_with_secrets(host, new.redis_password, new.smtp_password, new.supabase_secret_key)
        assert found == ["/etc/mail-worker/worker.env"]
        assert fleet.files_with_secrets(host, old.redis_password, old.smtp_password, old.supabase_secret_key) == []
    result = campaign.finish()
    say(str(result))
    assert result.accepted == result.unique, result

    release = next(iter(second.values()))
    *lines, times = fleet.says(host, ROLL_BACK_WITHOUT_NETWORK.format(release=release)).splitlines()
    began, ended = map(float, times.split())
    say(f"rollback without a network: {ended - began:.1f} s; {'; '.join(lines)}")
    assert lines[-1] == f"{release} runs again"
    status = fleet.says(host, "mail-worker-release status")
    assert f"release    {release};" in status
    assert set(re.findall(r"(?m)^process .* (\w+) +\d+ MB$", status)) == {"RUNNING"}
