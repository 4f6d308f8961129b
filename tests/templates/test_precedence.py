"""What a user writes beats what playbooks/group_vars wires, wherever it's written."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.templates.conftest import ANSIBLE_PLAYBOOK, HERE

CHECKOUT = HERE.parent.parent
#: Wired by playbooks/group_vars/all; each in a file of its own there.
VARIABLES = ["firewall_worker_tcp_ports", "base_further_packages", "preflight_transport", "firewall_further_in_sources"]
HOST = "mail1"


def hosts(everybody: object = None, group: object = None, host: object = None) -> dict[str, object]:
    """An inventory's hosts.yml."""
    workers = {"hosts": {HOST: host or {}}, "vars": group or {}}
    return {"all": {"vars": everybody or {}, "children": {"mail_workers": workers}}}


PLACES: dict[str, dict[str, object]] = {
    "hosts.yml, all": {"hosts.yml": hosts(everybody={"VARIABLE": "mine"})},
    "hosts.yml, mail_workers": {"hosts.yml": hosts(group={"VARIABLE": "mine"})},
    "hosts.yml, mail1": {"hosts.yml": hosts(host={"VARIABLE": "mine"})},
    "group_vars/all.yml": {"group_vars/all.yml": {"VARIABLE": "mine"}},
    "group_vars/all/main.yml": {"group_vars/all/main.yml": {"VARIABLE": "mine"}},
    "group_vars/mail_workers.yml": {"group_vars/mail_workers.yml": {"VARIABLE": "mine"}},
    "group_vars/mail_workers/main.yml": {"group_vars/mail_workers/main.yml": {"VARIABLE": "mine"}},
    "host_vars/mail1.yml": {"host_vars/mail1.yml": {"VARIABLE": "mine"}},
    "-e": {},
}


def variables_of(inventory: Path, *arguments: str) -> dict[str, object]:
    """What Ansible knows about the host when it runs a playbook of ours."""
    done = subprocess.run(
        [
            str(ANSIBLE_PLAYBOOK.with_name("ansible-inventory")),
            f"--inventory={inventory}",
            f"--playbook-dir={CHECKOUT / 'playbooks'}",
            f"--host={HOST}",
            *arguments,
        ],
        cwd=CHECKOUT,
        env={name: value for name, value in os.environ.items() if name != "ANSIBLE_CONFIG"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("place", PLACES)
def test_the_users_value_wins(place: str, tmp_path: Path) -> None:
    for path, content in {"hosts.yml": hosts(), **PLACES[place]}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content).replace('"VARIABLE": "mine"', ", ".join(f'"{one}": "mine"' for one in VARIABLES))
        (tmp_path / path).write_text(text, encoding="utf-8")
    extra = ["--extra-vars", json.dumps(dict.fromkeys(VARIABLES, "mine"))] if place == "-e" else []
    found = variables_of(tmp_path, *extra)
    assert {name: found[name] for name in VARIABLES} == dict.fromkeys(VARIABLES, "mine")


def test_what_nobody_writes_is_wired(tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text(json.dumps(hosts()), encoding="utf-8")
    found = variables_of(tmp_path)
    assert not [name for name in VARIABLES if name not in found]
