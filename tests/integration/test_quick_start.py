"""docs/quickstart.md as its reader has it: from a clone to a campaign's first mails, by the page's own blocks in their
order. What begins with YOUR- is the test bed's; all else is the page's."""

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from testbed.instance import Instance
from testbed.paths import CHECKOUT
from testbed.services import Services
from tests.integration.programs import wait_until

pytestmark = pytest.mark.hosts

PAGE = CHECKOUT / "docs/quickstart.md"
HOST = "mail1"
#: Of each of the page's blocks.
PATIENCE_SECONDS = 900
MAILBOX = "reader@testbed.example"
CAMPAIGN = "c0000000-0000-4000-8000-000000000001"
_BLOCK = re.compile(r"^```([a-z]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """`kind` is `sh`, `yaml`, `sql`, or `text` for what the last `sh` prints; `lead` is the line in front of it."""

    lead: str
    kind: str
    text: str


def blocks(page: str) -> list[Block]:
    """All of them, in their order."""
    return [Block(page[: found.start()].split("\n")[-3], found[1], found[2]) for found in _BLOCK.finditer(page)]


def _read(terminal: int) -> Iterator[bytes]:
    # Once nobody has its other end open any more, reading is an error.
    with contextlib.suppress(OSError):
        while data := os.read(terminal, 65536):
            yield data


class Reader:
    """Somebody with a home, an SSH key and one shell."""

    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        self._environment = environment
        self._directory, self._state = home / "directory", home / "state"
        self._directory.write_text(f"{home}\n", encoding="utf-8")
        self._state.touch()

    @property
    def checkout(self) -> Path:
        """Where the shell is."""
        return Path(self._directory.read_text(encoding="utf-8").strip())

    def run(self, commands: str) -> str:
        """Goes on in the shell; what it prints."""
        script = f". {self._state}\nset -euo pipefail\n{commands}\ndeclare -px >{self._state}\npwd >{self._directory}\n"
        # On a terminal, as the reader: ansible-vault says nothing without one.
        ours, theirs = os.openpty()
        with subprocess.Popen(
            ["timeout", str(PATIENCE_SECONDS), "bash", "-c", script],
            cwd=self.checkout,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
        ) as process:
            os.close(theirs)
            printed = b"".join(_read(ours)).decode(errors="replace")
        os.close(ours)
        assert process.returncode == 0, f"{commands}\n{printed}"
        return printed

    def edit(self, path: str, lines: str) -> None:
        """Puts each line in the place of the one of its name, as an editor would."""
        file = self.checkout / path
        text = file.read_text(encoding="utf-8")
        for line in lines.splitlines():
            # What isn't set in the example stands there behind a `#`.
            places = list(re.finditer(rf"^( *)(?:# )?{line.partition(':')[0]}:.*$", text, re.MULTILINE))
            assert len(places) == 1, f"{path} has {len(places)} lines for {line}"
            text = f"{text[: places[0].start()]}{places[0][1]}{line}{text[places[0].end() :]}"
        assert "CHANGE-ME" not in text
        file.write_text(text, encoding="utf-8")


@pytest.fixture
def vps() -> Iterator[Instance]:
    """One that nobody has touched, and the services."""
    instance = Instance(os.environ.get("TESTBED_INSTANCE", "contact"))
    instance.down()
    try:
        instance.up(vps=1, suite="trixie", services=True, mail_delay_ms=0, say=print)
        yield instance
    finally:
        instance.down()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """This checkout as it stands, committed or not."""
    copy = tmp_path / "repository"
    git = ["git", "-c", f"safe.directory={CHECKOUT}", "-c", "user.name=a test", "-c", "user.email=test@testbed.example"]
    listed = [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=CHECKOUT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (CHECKOUT / name).is_symlink() or (CHECKOUT / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, copy / name, follow_symlinks=False)
    for words in (["init", "-q"], ["add", "--all"], ["commit", "-q", "-m", "As it stands"]):
        subprocess.run([*git, *words], cwd=copy, check=True)
    return copy


@pytest.fixture
def reader(vps: Instance, tmp_path: Path) -> Reader:
    """With the VPS's key in the known ones, and what the test bed is beyond a VPS: a company's network, which has a
    certificate authority of its own and no DNS for the sender."""
    home = tmp_path / "home"
    programs = home / "bin"
    programs.mkdir(parents=True)
    inventory = json.loads((vps.directory / "hosts.yml").read_text(encoding="utf-8"))
    known = inventory["mail_workers"]["hosts"][HOST]
    # ssh takes its home from the user's record.
    configuration = home / "ssh_config"
    configuration.write_text(
        f"IdentityFile {vps.directory}/ssh_key\nIdentitiesOnly yes\nUserKnownHostsFile {vps.directory}/known_hosts\n",
        encoding="ascii",
    )
    for name in ("ssh", "scp"):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec /usr/bin/{name} -F {configuration} "$@"\n', encoding="ascii")
        program.chmod(0o755)
    names = ("base_ca_certificates", "worker_ram_mb", "preflight_mail_from")
    network = home / "network.json"
    network.write_text(json.dumps({"all": {"vars": {name: known[name] for name in names}}}), encoding="utf-8")
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ANSIBLE_", "PYTHON", "VIRTUAL_ENV", "TESTBED_"))
    } | {
        "HOME": str(home),
        "PATH": f"{programs}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")),
        "ANSIBLE_INVENTORY": f"inventory/production,{network}",
        "ANSIBLE_NOCOLOR": "1",
    }
    return Reader(home, environment)


def expect(printed: str, expected: str) -> None:
    """Sees each line of what the page shows, in its order, whatever stands for `…` and however wide the columns are."""
    rest = " ".join(printed.split())
    for line in expected.splitlines():
        pattern = ".*?".join(re.escape(part.strip()) + r"\s*" for part in line.split("…"))
        found = re.search(pattern.removesuffix(r"\s*"), rest)
        assert found, f"{line!r} isn't in {printed}"
        rest = rest[found.end() :]


def test_the_page_leads_to_the_first_mails(vps: Instance, repository: Path, reader: Reader) -> None:
    services = Services.load(vps.name)
    address = json.loads((vps.directory / "hosts.yml").read_text(encoding="utf-8"))["mail_workers"]["hosts"][HOST]
    fill = {
        "YOUR-REPOSITORY": str(repository),
        "YOUR-VPS-ADDRESS": address["ansible_host"],
        "YOUR-REDIS-ADDRESS": services.redis_url,
        "YOUR-SUPABASE-ADDRESS": services.supabase_url,
        "YOUR-SUPABASE-KEY": services.supabase_secret_key,
        "YOUR-SMTP-HOST": services.smtp_host,
        "YOUR-SMTP-USER": services.smtp_user,
        "YOUR-SMTP-PASSWORD": services.smtp_password,
        "YOUR-SENDER": "news@testbed.example",
        "YOUR-MAILBOX": MAILBOX,
    }
    page = PAGE.read_text(encoding="utf-8")
    told = re.findall(r"`(YOUR-[A-Z-]*[A-Z])`", page.partition("\n## ")[0])
    assert sorted(told) == sorted(fill) == sorted(set(re.findall(r"YOUR-[A-Z-]*[A-Z]", page)))

    everything, printed = "", ""
    for block in blocks(page):
        text = re.sub(r"YOUR-[A-Z-]*[A-Z]", lambda found: fill[found[0]], block.text)
        match block.kind:
            case "sh":
                if "mail-worker status" in text:
                    wait_until(lambda: database(services, "SELECT status FROM campaigns") == [("sent",)])
                printed = reader.run(text)
                everything += printed
            case "yaml":
                [path] = re.findall(r"`(inventory/\S+)`:$", block.lead)
                reader.edit(path, text)
            case "sql":
                database(services, text)
            case _:
                assert block.kind == "text"
                expect(printed, text)

    subjects = [mail["subject"] for mail in services.accepted() if mail["rcpt"] == MAILBOX]
    assert subjects == [f"Test mail from {HOST} ✓", *sorted(subjects[1:])]
    assert subjects[1:] == ["Hello Ann", "Hello Bob"]
    assert database(services, "SELECT id::text, status FROM campaigns") == [(CAMPAIGN, "sent")]
    assert database(services, "SELECT sent, sent_at IS NOT NULL FROM campaign_subscribers") == [(True, True)] * 2
    vault = reader.checkout / "inventory/production/group_vars/mail_workers/vault.yml"
    assert vault.read_text(encoding="utf-8").startswith("$ANSIBLE_VAULT;")
    for secret in (services.redis_password, services.supabase_secret_key, services.smtp_password):
        assert secret not in everything


def database(services: Services, statement: str) -> list[tuple[object, ...]]:
    """What a statement says, or does, in Supabase's SQL editor."""
    with psycopg.connect(services.database_url) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []
