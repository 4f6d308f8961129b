"""Sentences about the host itself. Pure functions, for Python 3.8 too, like verdict.py."""

from __future__ import annotations

import shlex
from typing import Any

from .verdict import Verdict, failure, listed, ok

#: As the module setup calls them; other systems are called what they call themselves.
_DISTRIBUTIONS = {"debian": "Debian", "ubuntu": "Ubuntu"}


def facts(
    os_release: str, uname: Any, python: tuple[Any, ...], virtualization: str, *, has_apparmor: bool
) -> dict[str, Any]:
    """The host's facts, named as the module setup names them.

    Args:
        os_release: /etc/os-release (https://www.freedesktop.org/software/systemd/man/latest/os-release.html).
        uname: what os.uname() returns.
        python: as sys.version_info.
        virtualization: what systemd-detect-virt says.
    """
    release = dict(word.split("=", 1) for word in shlex.split(os_release, comments=True) if "=" in word)
    name = release.get("ID", "")
    return {
        "architecture": uname.machine,
        "apparmor": {"status": "enabled" if has_apparmor else "disabled"},
        "distribution": _DISTRIBUTIONS.get(name) or release.get("NAME") or name or "an unknown system",
        # One that isn't released has no number.
        "distribution_version": release.get("VERSION_ID") or release.get("VERSION_CODENAME") or "",
        "hostname": uname.nodename.split(".")[0],
        "nodename": uname.nodename,
        "python_version": ".".join(map(str, python[:3])),
        "virtualization_type": "container" if virtualization == "container-other" else virtualization,
    }


def system_verdict(host: str, name: str, version: str, systems: dict[str, list[str]]) -> Verdict:
    """Is the distribution one that the roles are tested on?"""
    if version in systems.get(name, []):
        return ok("system", f"{host} runs {name} {version}.")
    made_for = ", ".join(f"{each} {' and '.join(versions)}" for each, versions in systems.items())
    return failure(
        "system",
        f"{host} runs {name} {version}, but the worker is made for {made_for}: reinstall it with one of them.",
    )


def ram_verdict(host: str, ram_mb: int, needed_mb: int) -> Verdict:
    """Is there RAM for one process?"""
    if ram_mb >= needed_mb:
        return ok("RAM", f"{host} has {ram_mb} MB of RAM.")
    return failure(
        "RAM",
        f"{host} has {ram_mb} MB of RAM, but {needed_mb} MB are needed (preflight_min_ram_mb): take a bigger VPS.",
    )


def disk_verdicts(host: str, free_mb: list[tuple[list[str], int]], needed_mb: int) -> list[Verdict]:
    """`free_mb`: paths on one file system, and what is free there."""
    verdicts = []
    for paths, free in free_mb:
        where = f"{host} has {free} MB free at {listed(paths)}"
        if free >= needed_mb:
            verdicts.append(ok("disk", f"{where}."))
            continue
        verdicts.append(
            failure(
                "disk",
                f"{where}, but {needed_mb} MB are needed (preflight_min_free_disk_mb): delete something there, or take"
                " a bigger disk.",
            )
        )
    return verdicts


def python_verdict(host: str, version: tuple[int, ...], needed: str, missing: list[str]) -> Verdict:
    """`version` as in sys.version_info; `missing` are modules of the standard library, as with python3-minimal."""
    shown = ".".join(map(str, version[:2]))
    if version[:2] < tuple(map(int, needed.split(".")[:2])):
        return failure(
            "Python",
            f"{host} has Python {shown}, but {needed} is needed (preflight_min_python): reinstall it with a newer"
            " system.",
        )
    if missing:
        return failure("Python", f"{host}'s Python lacks {listed(missing)}: run apt-get install python3 there.")
    return ok("Python", f"{host} has Python {shown}.")


def networks(routes: str) -> int:
    """How many interfaces have an IPv4 network, but for those of containers. `routes` is /proc/net/route (proc(5))."""
    interfaces = {line.split()[0] for line in routes.splitlines()[1:] if line.strip()}
    return len([one for one in interfaces if not one.startswith(("docker", "br-", "podman", "cni", "veth", "lo"))])


def sudo_verdicts(host: str, user: str, version_line: str, without_password: bool) -> list[Verdict]:
    """How the user became root; no user is a login as root."""
    if not user:
        return []
    kind = version_line if version_line.startswith("sudo-rs") else version_line.replace("Sudo version", "sudo")
    password = "" if without_password else ", with a password each time (--ask-become-pass)"
    return [ok("sudo", f"{user} becomes root on {host} by {kind or 'sudo'}{password}.")]
