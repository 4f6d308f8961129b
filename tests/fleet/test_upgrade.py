"""Debian 12 becomes 13 under a campaign, and with it Python 3.11 3.13: molecule/upgrade calls it, on two hosts. The
first is restarted and left to site.yml, the second goes on until a deploy."""

import json
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from testbed.errors import TestbedError
from testbed.instance import Instance
from tests.fleet.campaign import SteadyCampaign, releases, wait_until_all_send
from tests.fleet.conftest import Fleet

RECIPIENTS = 12_000

#: docs/upgrade-the-system.md, for somebody who isn't there.
UPGRADE = """
set -eu
export DEBIAN_FRONTEND=noninteractive
apt="apt-get -yqq -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold"
sed -i 's/bookworm/trixie/g' /etc/apt/sources.list
$apt update
$apt full-upgrade >/dev/null
$apt autoremove >/dev/null
python3 -c 'import sys; print("Python {}.{}".format(*sys.version_info))'
"""


def test_an_upgrade_of_the_system_is_healed(fleet: Fleet, tmp_path: Path, say: Callable[[str], None]) -> None:
    redis_url = fleet.services.redis_url
    restarted, running = fleet.inventory["mail_workers"]["hosts"]
    assert {release.rpartition("-")[2] for release in releases(redis_url).values()} == {"py3.11"}
    fleet.play("deploy")  # The steady rate.
    # A release to go back to.
    fleet.play("deploy", worker_log_level="DEBUG")
    campaign = SteadyCampaign(fleet.services, redis_url, RECIPIENTS, tmp_path)
    campaign.wait_for(20)

    began = time.time()
    with ThreadPoolExecutor() as threads:
        printed = list(threads.map(lambda host: fleet.says(host, UPGRADE), (restarted, running)))
    assert [text.splitlines()[-1] for text in printed] == ["Python 3.13"] * 2
    say(f"the upgrade: {campaign.pause_since(began)}")

    # Broken, and no verb hides it.
    for verb in ("status", "rollback", "drain"):
        printed_by = fleet.play(verb, fails=True)
        assert "run playbooks/site.yml (docs/upgrade-the-system.md)." in printed_by, printed_by[-3000:]
    try:
        Instance("upgrade").restart(restarted)
    except TestbedError as error:
        say(str(error))  # supervisord can't start.
    deadline = time.monotonic() + 120
    while any(name.startswith(f"{restarted}/") for name in releases(redis_url)):
        assert time.monotonic() < deadline, releases(redis_url)
        time.sleep(1)

    began = time.time()
    printed_by = fleet.play("deploy", f"--limit={running}")
    say(f"a deploy heals {running}: {campaign.pause_since(began)}")
    assert "supervisord was restarted, by Python 3.13" in printed_by, printed_by[-3000:]
    campaign.wait_for(20)

    began = time.time()
    fleet.play("site")
    say(f"site.yml heals {restarted}: {campaign.pause_since(began)}")
    assert {release.rpartition("-")[2] for release in releases(redis_url).values()} == {"py3.13"}
    wait_until_all_send(redis_url)
    for host in (restarted, running):
        status = fleet.says(host, "mail-worker-release status; ls /opt/supervisor/venv/lib /opt/mail-worker/releases")
        assert "NO PYTHON" not in status, status
        # Nothing of the old one is left, on a small disk.
        assert re.findall(r"(?m)^python3\..*$|-py3\.11$", status) == ["python3.13"], status
    refusal = fleet.play("rollback", fails=True)
    assert "isn't on this host; there is:" in refusal
    printed_by = fleet.play("site")
    assert re.findall(r"changed=(\d+)", printed_by) == ["0"] * 3, printed_by[-1500:]

    fleet.play("deploy", worker_mail_rate="")
    result = campaign.finish()
    say(json.dumps(str(result)))
    assert result.accepted == result.unique, result
