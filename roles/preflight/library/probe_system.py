#!/usr/bin/python
"""Looks at the host itself. Changes nothing."""

from __future__ import annotations

DOCUMENTATION = r"""
module: probe_system
short_description: Looks at a host's system, RAM, disk, Python, sudo, clock, firewalls and what listens
description:
  - Returns one verdict for each finding. Its action plugin adds the one about the clock.
options:
  host:
    description: What the sentences call the host.
    type: str
    required: true
  systems:
    description: Distributions and their versions that will do.
    type: dict
    required: true
  min_ram_mb:
    description: RAM that it needs.
    type: int
    required: true
  disk_paths:
    description: Where disk is needed.
    type: list
    elements: str
    required: true
  min_free_disk_mb:
    description: Free disk that it needs there.
    type: int
    required: true
  min_python:
    description: The oldest Python that will do, such as 3.11.
    type: str
    required: true
  max_clock_skew_seconds:
    description: How far the host's clock may be from the controller's.
    type: float
    required: true
  firewall:
    description:
      - What the firewall to come leaves open, as lists of ports C(tcp), C(udp) and C(forward) (of containers), and what
        its owner wants C(closed). Without it, nothing is looked for that would go dark.
    type: dict
  sudo_asks:
    description: Whether Ansible knows a password for sudo; its action plugin says. Then sudo is tried without one.
    type: bool
    default: true
author: mail-worker
"""

EXAMPLES = r"""
- name: Look at the host
  probe_system:
    host: "{{ inventory_hostname }}"
    systems: { Debian: ["12", "13"] }
    min_ram_mb: 400
    disk_paths: [/]
    min_free_disk_mb: 700
    min_python: "3.11"
    max_clock_skew_seconds: 30
"""

RETURN = r"""
verdicts:
  description: What was found, each with C(level) (ok, warning or failure), C(about) and C(sentence).
  returned: always
  type: list
  elements: dict
ansible_facts:
  description:
    - C(architecture), C(apparmor), C(distribution), C(distribution_version), C(hostname), C(nodename),
      C(python_version) and C(virtualization_type), as the module setup names them, which takes a small host four
      seconds.
    - C(ipv4_networks), the number of interfaces with an IPv4 network of their own, without those of containers.
    - C(memtotal_mb) and C(swaptotal_mb), and C(mounts) with the root filesystem alone, as the module setup has them in
      its subset C(hardware), which takes a small host five seconds.
  returned: always
  type: dict
can_probe:
  description: Whether the host's Python can run the other probes.
  returned: always
  type: bool
"""

import importlib.util  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible.module_utils.preflight import listening, system  # noqa: E402


def main() -> None:
    """Runs as a module."""
    module = AnsibleModule(
        argument_spec={
            "host": {"type": "str", "required": True},
            "systems": {"type": "dict", "required": True},
            "min_ram_mb": {"type": "int", "required": True},
            "disk_paths": {"type": "list", "elements": "str", "required": True},
            "min_free_disk_mb": {"type": "int", "required": True},
            "min_python": {"type": "str", "required": True},
            "max_clock_skew_seconds": {"type": "float", "required": True},
            "firewall": {"type": "dict"},
            "sudo_asks": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    now = time.time()
    given = module.params
    host = given["host"]
    ram_mb, swap_mb = (_memory_mb(name) for name in ("MemTotal", "SwapTotal"))
    missing = [name for name in ("ssl", "http") if importlib.util.find_spec(name) is None]
    python = system.python_verdict(host, tuple(sys.version_info), given["min_python"], missing)
    _, virtualization, _ = module.run_command(["systemd-detect-virt"])
    facts = system.facts(
        _text("/etc/os-release"),
        os.uname(),
        tuple(sys.version_info),
        virtualization.strip(),
        has_apparmor=Path("/sys/kernel/security/apparmor").exists(),
    )
    versions = {name: [str(each) for each in versions] for name, versions in given["systems"].items()}
    verdicts = [
        system.system_verdict(host, facts["distribution"], facts["distribution_version"], versions),
        python,
        system.ram_verdict(host, ram_mb, given["min_ram_mb"]),
        *system.disk_verdicts(host, _free(given["disk_paths"]), given["min_free_disk_mb"]),
        *_sudo(module, host, asks=given["sudo_asks"]),
        *_firewall(module, host, given["firewall"]),
    ]
    module.exit_json(
        changed=False,
        time=now,
        ansible_facts={
            **facts,
            "memtotal_mb": ram_mb,
            "swaptotal_mb": swap_mb,
            "mounts": _root(),
            "ipv4_networks": system.networks(_text("/proc/net/route")),
        },
        can_probe=python.level == "ok",
        verdicts=[verdict._asdict() for verdict in verdicts],
    )


def _memory_mb(name: str) -> int:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(f"{name}:"))


def _root() -> list[dict[str, object]]:
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines())
    available = os.statvfs("/")
    size = available.f_bavail * available.f_frsize
    # The last one of several lies on top.
    return [{"mount": "/", "fstype": fields[2], "size_available": size} for fields in mounts if fields[1] == "/"][-1:]


def _free(paths: list[str]) -> list[tuple[list[str], int]]:
    by_device: dict[int, tuple[list[str], int]] = {}
    for path in paths:
        there = Path(path).resolve()
        while not there.exists():
            there = there.parent
        found = os.statvfs(there)
        shown, _ = by_device.setdefault(there.stat().st_dev, ([], found.f_bavail * found.f_frsize >> 20))
        shown.append(path)
    return list(by_device.values())


def _sudo(module: AnsibleModule, host: str, *, asks: bool) -> list[system.Verdict]:
    user = os.environ.get("SUDO_USER", "")
    if user in ("", "root"):
        return []
    _, version, _ = module.run_command(["sudo", "--version"])
    without_password = not asks or module.run_command(["sudo", "-n", "-u", user, "sudo", "-n", "true"])[0] == 0
    line = (version.splitlines() or [""])[0]
    verdicts: list[system.Verdict] = system.sudo_verdicts(host, user, line, without_password)
    return verdicts


def _firewall(module: AnsibleModule, host: str, kept: dict[str, list[int]] | None) -> list[listening.Verdict]:
    if kept is None:
        return []
    foreign: dict[str, list[str]] = {}
    if "ENABLED=yes" in _text("/etc/ufw/ufw.conf"):
        foreign["ufw"] = listening.ufw_ports(_text("/etc/ufw/user.rules"))
    if module.run_command("systemctl is-active --quiet firewalld.service")[0] == 0:
        services, ports = (_printed(module, "firewall-cmd", option) for option in ("--list-services", "--list-ports"))
        foreign["firewalld"] = services.split() + ports.split()
    verdicts: list[listening.Verdict] = listening.firewall_verdicts(host, foreign)
    # Once the firewall is there, what listens behind it was closed long ago.
    if not foreign and not Path("/etc/host-firewall.nft").exists():
        sockets = _printed(module, "ss", "--no-header", "--listening", "--numeric", "--tcp", "--udp", "--processes")
        published = [_printed(module, program, "ps", "--format", "{{.Ports}}") for program in ("docker", "podman")]
        kept = {name: [int(port) for port in ports] for name, ports in kept.items()}
        verdicts.append(listening.listening_verdict(host, listening.listeners(sockets, " ".join(published)), kept))
    return verdicts


def _text(path: str) -> str:
    return Path(path).read_text(encoding="utf-8", errors="replace") if Path(path).exists() else ""


def _printed(module: AnsibleModule, program: str, *arguments: str) -> str:
    """What a program prints; nothing where it isn't there or fails."""
    path = module.get_bin_path(program, opt_dirs=["/usr/sbin", "/sbin"])
    if path is None:
        return ""
    code, printed, _ = module.run_command([path, *arguments])
    return str(printed) if code == 0 else ""


if __name__ == "__main__":
    main()
