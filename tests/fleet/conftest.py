"""A fleet that Molecule has provisioned; MAIL_FLEET names its instance."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testbed.instance import Instance
from testbed.services import Services
from tests.integration.playbooks import run_playbook

#: Mails per second of the whole fleet while a campaign is to last.
STEADY = "20/s"


class Fleet:
    """Its playbooks, run as a user runs them."""

    def __init__(self, name: str, directory: Path) -> None:
        self.instance = Instance(name)
        self.services = Services.load(name)
        self.directory = directory
        self.inventory: dict[str, Any] = json.loads((self.instance.directory / "hosts.yml").read_text(encoding="utf-8"))

    def play(self, playbook: str, *options: str, fails: bool = False, **variables: object) -> str:
        """Runs a playbook; returns what it printed, on one line."""
        hosts = self.directory / "hosts.yml"
        hosts.write_text(json.dumps(self.inventory), encoding="utf-8")
        done = run_playbook(
            f"playbooks/{playbook}.yml",
            [hosts],
            self.directory,
            {"worker_mail_rate": STEADY, "worker_stop_timeout_seconds": 5, **variables},
            "--skip-tags=hardening",
            *options,
        )
        printed = done.stdout + done.stderr
        for secret in (self.services.redis_password, self.services.supabase_secret_key, self.services.smtp_password):
            assert secret not in printed
        assert (done.returncode != 0) == fails, printed[-6000:]
        return " ".join(printed.split())

    def files_with_secrets(self, host: str, *secrets: str) -> list[str]:
        """Where a host keeps one of these: files, logs, and what processes were started with."""
        places = "/etc /opt /var /root /home /tmp /run /usr/local /proc/[0-9]*/cmdline /proc/[0-9]*/environ"
        # They come from a file: a search with them on its command line would find itself.
        search = "grep -aFf /mnt/secrets"
        self.instance.write(host, "/mnt/secrets", "".join(f"{secret}\n" for secret in secrets))
        try:
            found = self.says(host, f"{search} -rl {places} 2>/dev/null; true").split()
            return found + self.says(host, f"journalctl --no-pager | {search} -q && echo journal; true").split()
        finally:
            self.says(host, "rm /mnt/secrets")

    def says(self, host: str, command: str) -> str:
        done = self.instance.output(host, ["bash", "-c", command])
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Fleet(os.environ["MAIL_FLEET"], tmp_path_factory.mktemp("fleet"))


@pytest.fixture
def pause(capsys: pytest.CaptureFixture[str]) -> Callable[[str, float], None]:
    """Prints how long sending paused: a figure, and no assertion, which another load would fail."""

    def say(what: str, seconds: float) -> None:
        with capsys.disabled():
            print(f"\n{time.strftime('%H:%M:%S')} {what}: the longest pause of the fleet was {seconds:.1f} s")

    return say
