"""Runs a playbook on the test bed's VPSes as a user does."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from testbed.instance import Instance
from testbed.paths import CHECKOUT

#: An inventory without hosts of ours.
EMPTY = Path("localhost,")

_ANSIBLE_PLAYBOOK = Path(sys.executable).parent / "ansible-playbook"


def run_playbook(
    playbook: str,
    inventories: Sequence[Path],
    directory: Path,
    variables: Mapping[str, object],
    *options: str,
    timeout_seconds: float = 400.0,
) -> "subprocess.CompletedProcess[str]":
    """Runs it with these extra variables, which it writes into `directory`."""
    path = directory / "variables.json"
    path.write_text(json.dumps(variables), encoding="utf-8")
    inventory = [word for each in inventories for word in ("-i", str(each))]
    return subprocess.run(
        [_ANSIBLE_PLAYBOOK, *options, *inventory, "-e", f"@{path}", playbook],
        cwd=CHECKOUT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )


def play(
    instance: Instance, directory: Path, playbook: str, variables: Mapping[str, object], *options: str
) -> "subprocess.CompletedProcess[str]":
    """Runs it on mail1, with the committed inventory and the instance's on top.

    The hardening is left out: it is Molecule's, and takes as long as the rest.
    """
    inventories = [Path("inventory/example"), instance.directory / "hosts.yml"]
    chosen = ("--limit", "mail1,localhost", "--skip-tags", "hardening")
    return run_playbook(f"playbooks/{playbook}", inventories, directory, variables, *chosen, *options)
