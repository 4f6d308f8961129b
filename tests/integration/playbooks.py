"""Runs a playbook on the test bed's VPS as a user does."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from testbed.instance import Instance
from testbed.paths import CHECKOUT

ANSIBLE_PLAYBOOK = Path(sys.executable).parent / "ansible-playbook"


def play(
    instance: Instance, directory: Path, playbook: str, variables: Mapping[str, object], *options: str
) -> "subprocess.CompletedProcess[str]":
    """Runs it with the committed inventory, the instance's on top, and these extra variables.

    The hardening is left out: it is Molecule's, and takes as long as the rest.
    """
    path = directory / "variables.json"
    path.write_text(json.dumps(variables), encoding="utf-8")
    options = ("--skip-tags", "hardening", *options)
    inventories = ["-i", "inventory/example", "-i", str(instance.directory / "hosts.yml")]
    return subprocess.run(
        [ANSIBLE_PLAYBOOK, *options, *inventories, "-e", f"@{path}", f"playbooks/{playbook}"],
        cwd=CHECKOUT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
