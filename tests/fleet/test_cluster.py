"""A broker of one's own, two workers, one more, one less, while a campaign runs: molecule/cluster calls it."""

import time
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex

import pytest

from tests.fleet.campaign import SteadyCampaign, releases
from tests.fleet.conftest import Fleet

RECIPIENTS = 8_000
BROKER, ADDED, RETIRED = "mail4", "mail3", "mail1"
PASSWORDS = {f"redis_{user}_password": token_hex(16) for user in ("worker", "app", "admin", "backup")}


def test_hosts_come_and_go_under_a_campaign(
    fleet: Fleet, tmp_path: Path, say: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = fleet.inventory["mail_workers"]["hosts"]
    address = hosts[BROKER]["ansible_host"]
    authority = tmp_path / "ca" / f"{BROKER}.crt"
    url = f"rediss://{{}}:{{}}@{address}:6379"
    broker = (
        hosts.pop(BROKER)
        | PASSWORDS
        | {
            # The network's own address is what this machine's connections come from.
            "redis_client_addresses": [
                f"{address.rpartition('.')[0]}.1",
                *(host["ansible_host"] for name, host in hosts.items() if name != ADDED),
            ],
            "redis_ca_directory": str(authority.parent),
            # A container shows its host's RAM.
            "redis_ram_mb": 960,
        }
    )
    for host in hosts.values():
        host["worker_redis_url"] = url.format("worker", PASSWORDS["redis_worker_password"])
        host["base_ca_certificates"] = [*host["base_ca_certificates"], str(authority)]
    added = hosts.pop(ADDED)
    fleet.inventory["brokers"] = {"hosts": {BROKER: broker}}
    fleet.play("redis")
    fleet.play("site")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    worker_url, app_url = (url.format(user, PASSWORDS[f"redis_{user}_password"]) for user in ("worker", "app"))
    assert {name.partition("/")[0] for name in releases(worker_url)} == set(hosts)
    campaign = SteadyCampaign(fleet.services, app_url, RECIPIENTS, tmp_path)
    campaign.wait_for(20)

    hosts[ADDED] = added
    broker["redis_client_addresses"].append(added["ansible_host"])
    refusal = fleet.play("site", f"--limit={ADDED},localhost", fails=True)
    assert "or let this host through Redis's firewall (a broker of yours does by site.yml; behind --limit" in refusal
    began = time.time()
    fleet.play("site", f"--limit={ADDED},brokers,localhost")
    say(f"a host more: {campaign.pause_since(began)}")
    assert {name.partition("/")[0] for name in releases(worker_url)} == set(hosts)

    refusal = fleet.play("retire", fails=True)
    assert "That would retire every host of the inventory" in refusal
    began = time.time()
    fleet.play("retire", f"--limit={RETIRED}")
    say(f"a host less: {campaign.pause_since(began)}")
    assert {name.partition("/")[0] for name in releases(worker_url)} == set(hosts) - {RETIRED}
    secrets = (PASSWORDS["redis_worker_password"], fleet.services.supabase_secret_key, fleet.services.smtp_password)
    assert fleet.files_with_secrets(RETIRED, *secrets) == []
    assert fleet.says(RETIRED, "systemctl is-enabled supervisor || true").strip() == "disabled"
    del hosts[RETIRED]

    fleet.play("deploy", worker_mail_rate="")
    result = campaign.finish()
    assert result.accepted == result.unique, result
