"""What already listens on a host, and would go dark behind the firewall. Pure functions, for Python 3.8 too."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from .verdict import Verdict, failure, listed, ok

#: What no one outside asks for: DHCP's client, time, names on the local network, the port mapper of NFS.
HARMLESS = {("udp", port) for port in (68, 123, 323, 546, 5353, 5355, 111)} | {("tcp", 111), ("tcp", 5355)}
#: Answers to a program's own questions come to ports from here on (net.ipv4.ip_local_port_range).
FIRST_EPHEMERAL_PORT = 32768
_PUBLISHED = re.compile(r"(?P<address>\S*):(?P<first>\d+)(?:-(?P<last>\d+))?->\S+/(?P<protocol>tcp|udp)")
#: A line of /etc/ufw/user.rules, as ufw's src/backend_iptables.py writes it.
_UFW_RULE = re.compile(r"### tuple ### allow(?:_log)? (?P<protocol>tcp|udp|any) (?P<ports>[\d,:]+) .* in")


class Listener(NamedTuple):
    """A port that the world may reach now. `container`: published by Docker or Podman."""

    protocol: str
    port: int
    program: str
    container: bool


def listeners(sockets: str, published: str = "") -> list[Listener]:
    """
    Args:
        sockets: what `ss --no-header --listening --numeric --tcp --udp --processes` printed.
        published: what `docker ps --format '{{.Ports}}'` and Podman's printed.
    """
    found = {}
    for line in sockets.splitlines():
        fields = line.split()
        if len(fields) < 5 or fields[0] not in ("tcp", "udp"):
            continue
        protocol = fields[0]
        address, _, port = fields[4].rpartition(":")
        program = re.search(r'\(\("([^"]+)"', line)
        name = program[1] if program else "?"
        if _is_local(address) or not port.isdigit() or name in ("sshd", "aardvark-dns"):
            continue
        if (protocol, int(port)) in HARMLESS or (protocol == "udp" and int(port) >= FIRST_EPHEMERAL_PORT):
            continue
        found[protocol, int(port)] = Listener(protocol, int(port), name, name == "docker-proxy")
    for match in _PUBLISHED.finditer(published):
        if not _is_local(match["address"]):
            for number in range(int(match["first"]), int(match["last"] or match["first"]) + 1):
                found[match["protocol"], number] = Listener(match["protocol"], number, "a container", True)
    return sorted(found.values())


def _is_local(address: str) -> bool:
    bare = address.strip("[]").partition("%")[0].replace("::ffff:", "")
    return bare.startswith("127.") or bare == "::1"


def listening_verdict(host: str, found: Iterable[Listener], kept: dict[str, list[int]]) -> Verdict:
    """`kept`: the ports that stay open (tcp, udp, forward), SSH's, and those that the owner wants closed (closed)."""
    dark = []
    for one in found:
        stays = kept["forward"] if one.container and one.protocol == "tcp" else kept[one.protocol]
        if one.port not in stays and one.port not in kept["closed"]:
            dark.append(one)
    if not dark:
        return ok("listening", f"Nothing on {host} that the world uses goes dark behind the firewall.")
    places = [
        (any(one.protocol == "tcp" and not one.container for one in dark), "firewall_in_tcp_ports"),
        (any(one.protocol == "udp" for one in dark), "firewall_in_udp_ports"),
        (any(one.protocol == "tcp" and one.container for one in dark), "firewall_forward_tcp_ports"),
    ]
    return failure(
        "listening",
        f"{listed([f'{one.protocol.upper()} {one.port} ({one.program})' for one in dark])} on {host} can be reached"
        f" today, and the firewall would close {'them' if len(dark) > 1 else 'it'}: what is to stay open goes into"
        f" {listed([name for needed, name in places if needed])}, the rest into preflight_closed_ports.",
    )


def ufw_ports(rules: str) -> list[str]:
    """What ufw lets in, as 80/tcp, from its user.rules."""
    return [f"{match['ports']}/{match['protocol']}" for match in _UFW_RULE.finditer(rules)]


def firewall_verdicts(host: str, foreign: dict[str, list[str]]) -> list[Verdict]:
    """`foreign`: another firewall that is active, and the ports and services that it lets in."""
    stop = {"ufw": "ufw disable", "firewalld": "systemctl disable --now firewalld"}
    return [
        failure(
            "firewall",
            f"{name} is active on {host}, and of two firewalls that don't know each other, each closes what the other"
            f" opens. Either put what it lets in ({', '.join(ports) or 'nothing'}) into firewall_in_tcp_ports, as far"
            f" as it's needed, and run {stop[name]} there; or keep {name} and set firewall_enabled: false.",
        )
        for name, ports in foreign.items()
    ]
