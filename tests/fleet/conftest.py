"""A fleet, and the instance of the test bed whose services it uses; MAIL_FLEET names the instance.

Molecule provisions containers of that instance. Any other bare hosts that SSH reaches will do too:

    python -m testbed up fleet --services --vps 0
    MAIL_FLEET=fleet MAIL_FLEET_HOSTS=hosts.yml pytest tests/fleet/test_deploy.py

MAIL_FLEET_HOSTS is an inventory, in YAML or JSON, whose group mail_workers has the hosts with `ansible_host` and
whatever Ansible needs to log in, and no more. They must reach the instance's address, as guests on the same machine do,
and get the whole of playbooks/site.yml first, unless they run workers already. MAIL_RATE is the steady campaign's, for
all hosts together."""

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.host_memory import Host
from testbed.instance import Instance
from testbed.services import Services
from tests.fleet.campaign import releases
from tests.integration.playbooks import run_playbook

#: Mails per second of the whole fleet while a campaign is to last.
STEADY = os.environ.get("MAIL_RATE", "20/s")
#: Three small hosts at once, from nothing.
PLAYBOOK_SECONDS = 2400.0


def _failures(printed: str) -> str:
    """What each host that failed said: it may stand far above the end."""
    said = re.findall(r"(?ms)^(?:\x1b\S*?m)?fatal: .*?(?=\n\n|\Z)", printed)
    return "\n".join(one[:1500] for one in said)


class Fleet:
    """Its playbooks, run as a user runs them."""

    def __init__(self, name: str, directory: Path) -> None:
        instance = Instance(name)
        self.services = Services.load(name)
        self.directory = directory
        hosts = os.environ.get("MAIL_FLEET_HOSTS")
        path = Path(hosts) if hosts else instance.directory / "hosts.yml"
        self.inventory: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        self._options = [] if hosts else ["--skip-tags=hardening"]
        if hosts:
            workers = self.inventory["mail_workers"]["hosts"]
            for host, variables in workers.items():
                workers[host] = {**instance.worker_variables(services=True), **(variables or {})}
            if not releases(self.services.redis_url):
                self.play("site")

    def play(self, playbook: str, *options: str, fails: bool = False, **variables: object) -> str:
        """Runs a playbook; returns what it printed, on one line."""
        done = run_playbook(
            f"playbooks/{playbook}.yml",
            [self._write_inventory()],
            self.directory,
            {"worker_mail_rate": STEADY, "worker_stop_timeout_seconds": 5, **variables},
            *self._options,
            *options,
            timeout_seconds=PLAYBOOK_SECONDS,
        )
        printed = done.stdout + done.stderr
        for secret in (self.services.redis_password, self.services.supabase_secret_key, self.services.smtp_password):
            assert secret not in printed
        assert (done.returncode != 0) == fails, f"{_failures(printed)}\n…\n{printed[-3000:]}"
        return " ".join(printed.split())

    def files_with_secrets(self, host: str, *secrets: str) -> list[str]:
        """Where a host keeps one of these: files, logs, and what processes were started with."""
        places = "/etc /opt /var /root /home /tmp /run /usr/local /proc/[0-9]*/cmdline /proc/[0-9]*/environ"
        # They come from a file: a search with them on its command line would find itself.
        search = "grep -aFf /mnt/secrets"
        script = f"""
            cat >/mnt/secrets
            {search} -rl {places} 2>/dev/null
            journalctl --no-pager | {search} -q && echo journal
            rm /mnt/secrets
        """
        return self.says(host, script, "".join(f"{secret}\n" for secret in secrets)).split()

    def says(self, host: str, script: str, given: str = "") -> str:
        """What a shell script prints there, run by root with `given` as its standard input."""
        return Host([str(self._write_inventory())], host).run(script, given)

    def _write_inventory(self) -> Path:
        path = self.directory / "hosts.yml"
        # JSON is YAML.
        path.write_text(json.dumps(self.inventory), encoding="utf-8")
        return path


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Fleet(os.environ["MAIL_FLEET"], tmp_path_factory.mktemp("fleet"))


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Prints a figure, and asserts nothing, which another load would fail."""

    def say(what: str) -> None:
        with capsys.disabled():
            print(f"\n{time.strftime('%H:%M:%S')} {what}")

    return say
