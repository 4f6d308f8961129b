"""The fleet's page, of the demo's VPS."""

import subprocess
import sys

from demo.run import NAME
from testbed.errors import TestbedError
from testbed.instance import Instance
from testbed.paths import CHECKOUT


def show_page() -> int:
    """Opens the page until Ctrl-C.

    Raises:
        TestbedError: no demo runs.
    """
    hosts = Instance(NAME).directory / "hosts.yml"
    if not hosts.exists():
        raise TestbedError("No demo runs: make demo first.")
    command = [sys.executable, str(CHECKOUT / "playbooks/files/fleet_ssh.py"), "dashboard", "--inventory", str(hosts)]
    return subprocess.run(command, cwd=CHECKOUT, check=False).returncode
