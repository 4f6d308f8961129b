"""What already runs on a host doesn't go dark without a word."""

import pytest

from preflight import listening
from preflight.listening import Listener

SOCKETS = """\
udp UNCONN 0 0 127.0.0.53%lo:53 0.0.0.0:* users:(("systemd-resolve",pid=400,fd=13))
udp UNCONN 0 0 0.0.0.0:68 0.0.0.0:* users:(("dhclient",pid=500,fd=7))
udp UNCONN 0 0 0.0.0.0:41641 0.0.0.0:* users:(("tailscaled",pid=500,fd=7))
udp UNCONN 0 0 *:51820 *:*
udp UNCONN 0 0 0.0.0.0:1194 0.0.0.0:* users:(("openvpn",pid=501,fd=7))
tcp LISTEN 0 128 0.0.0.0:22 0.0.0.0:* users:(("sshd",pid=600,fd=3))
tcp LISTEN 0 4096 *:2222 *:* users:(("systemd",pid=1,fd=3))
tcp LISTEN 0 511 0.0.0.0:80 0.0.0.0:* users:(("nginx",pid=700,fd=6),("nginx",pid=701,fd=6))
tcp LISTEN 0 511 [::]:80 [::]:* users:(("nginx",pid=700,fd=7))
tcp LISTEN 0 511 [::1]:6379 [::]:* users:(("redis-server",pid=710,fd=7))
tcp LISTEN 0 4096 0.0.0.0:8080 0.0.0.0:* users:(("docker-proxy",pid=720,fd=4))
tcp LISTEN 0 4096 [::ffff:127.0.0.1]:9000 *:* users:(("java",pid=730,fd=4))
"""
KEPT: dict[str, list[int]] = {"tcp": [2222], "udp": [], "forward": [], "closed": []}


def test_what_the_world_reaches_is_found() -> None:
    assert listening.listeners(SOCKETS, "0.0.0.0:8443-8444->443/tcp, 127.0.0.1:5432->5432/tcp, :::53->53/udp") == [
        Listener("tcp", 80, "nginx", False),
        Listener("tcp", 2222, "systemd", False),
        Listener("tcp", 8080, "docker-proxy", True),
        Listener("tcp", 8443, "a container", True),
        Listener("tcp", 8444, "a container", True),
        Listener("udp", 53, "a container", True),
        Listener("udp", 1194, "openvpn", False),
    ]


def test_it_is_refused_with_both_ways_out() -> None:
    verdict = listening.listening_verdict("mail1", listening.listeners(SOCKETS), KEPT)
    assert verdict.level == "failure"
    assert verdict.sentence == (
        "TCP 80 (nginx), TCP 8080 (docker-proxy) and UDP 1194 (openvpn) on mail1 can be reached today, and the firewall"
        " would close them: what is to stay open goes into firewall_in_tcp_ports, firewall_in_udp_ports and"
        " firewall_forward_tcp_ports, the rest into preflight_closed_ports."
    )


@pytest.mark.parametrize(
    ("kept", "left"),
    [
        ({"tcp": [2222, 80], "udp": [1194], "forward": [8080]}, None),
        ({"tcp": [2222, 80, 8080], "udp": [1194]}, "TCP 8080 (docker-proxy) on mail1 can be reached today, and the"),
        ({"closed": [80, 8080, 1194]}, None),
        ({"tcp": [2222, 80], "forward": [8080], "udp": []}, "UDP 1194 (openvpn) on mail1 can be reached today"),
    ],
)
def test_what_is_kept_or_given_up_is_in_nobodys_way(kept: dict[str, list[int]], left: str | None) -> None:
    verdict = listening.listening_verdict("mail1", listening.listeners(SOCKETS), {**KEPT, **kept})
    assert verdict.level == ("ok" if left is None else "failure")
    assert left is None or verdict.sentence.startswith(left)


def test_another_firewall_is_refused_with_both_ways_out() -> None:
    rules = (
        "### tuple ### allow any 22 0.0.0.0/0 any 0.0.0.0/0 in\n"
        "-A ufw-user-input -p tcp --dport 22 -j ACCEPT\n"
        "### tuple ### allow tcp 80,443 0.0.0.0/0 any 0.0.0.0/0 Nginx%20Full - in\n"
        "### tuple ### deny tcp 23 0.0.0.0/0 any 0.0.0.0/0 in\n"
    )
    [verdict] = listening.firewall_verdicts("mail1", {"ufw": listening.ufw_ports(rules)})
    assert verdict.level == "failure"
    assert "put what it lets in (22/any, 80,443/tcp) into firewall_in_tcp_ports" in verdict.sentence
    assert "run ufw disable there; or keep ufw and set firewall_enabled: false." in verdict.sentence
    assert listening.firewall_verdicts("mail1", {}) == []
