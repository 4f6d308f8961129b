"""How `make logs` and `make dashboard` get to the hosts: as the inventory says."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parents[2] / "playbooks" / "files" / "fleet_ssh.py"


def fleet_ssh() -> Any:
    spec = importlib.util.spec_from_file_location("fleet_ssh", SOURCE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_host_is_reached_as_the_inventory_says() -> None:
    found = {
        "mail_workers": {"hosts": ["mail1"], "children": ["far"]},
        "far": {"hosts": ["mail2", "mail1"]},
        "brokers": {"hosts": ["redis1"]},
        "_meta": {
            "hostvars": {
                "mail1": {"ansible_host": "203.0.113.10", "ansible_user": "mailadmin", "ansible_port": 2222},
                "mail2": {
                    "ansible_ssh_common_args": "-o ProxyJump=gate@203.0.113.1",
                    "ansible_ssh_private_key_file": "~/.ssh/mail key",
                },
            }
        },
    }
    key = str(Path("~/.ssh/mail key").expanduser())
    jump = ["ssh", "-o", "ProxyJump=gate@203.0.113.1"]
    assert list(fleet_ssh().read_hosts(found)) == [
        ("mail1", [["ssh", "-p", "2222", "-l", "mailadmin", "203.0.113.10"]]),
        ("mail2", [[*jump, "-i", key, "-l", "mailadmin", "mail2"], [*jump, "-i", key, "mail2"]]),
    ]


def test_root_may_be_closed_and_sshd_have_moved_since_the_inventory_was_written() -> None:
    variables = {"ansible_user": "root", "ansible_port": 22, "access_ssh_port": 2022, "access_admin_user": "ann"}
    assert fleet_ssh().logins("mail1", variables) == [
        ["ssh", "-p", "2022", "-l", "ann", "mail1"],
        ["ssh", "-p", "22", "-l", "ann", "mail1"],
        ["ssh", "-p", "22", "-l", "root", "mail1"],
    ]
    assert fleet_ssh().logins("mail1", {"ansible_user": "root"}) == [
        ["ssh", "-l", "mailadmin", "mail1"],
        ["ssh", "-l", "root", "mail1"],
    ]


def test_an_inventory_without_workers() -> None:
    assert list(fleet_ssh().read_hosts({"_meta": {"hostvars": {}}})) == []


def test_a_host_that_lets_nobody_in(capsys: pytest.CaptureFixture[str]) -> None:
    closed = ["ssh", "-F", "none", "-p", "1", "127.0.0.1"]
    assert fleet_ssh().reach("mail1", [closed]) is None
    assert re.fullmatch(
        r"mail1 can't be reached \(.*refused\): check its address, port, user and key in hosts\.yml\.\n",
        capsys.readouterr().err,
    )
