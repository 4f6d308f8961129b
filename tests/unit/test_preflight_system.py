"""What the preflight says about the host itself."""

from types import ModuleType, SimpleNamespace

import pytest

from preflight import system
from tests.unit.action_plugins import load_action_plugin

SYSTEMS = {"Debian": ["12", "13"], "Ubuntu": ["24.04", "26.04"]}


@pytest.fixture(scope="module")
def plugin() -> ModuleType:
    return load_action_plugin("preflight", "probe_system")


@pytest.mark.parametrize(
    ("release", "name", "version"),
    [
        ('ID=debian\nVERSION_ID="13"\nNAME="Debian GNU/Linux"\n', "Debian", "13"),
        ('ID=ubuntu\nVERSION_ID="24.04"\n', "Ubuntu", "24.04"),
        ("ID=debian\nVERSION_CODENAME=forky\n# no number yet\n", "Debian", "forky"),
        ('ID=linuxmint\nNAME="Linux Mint"\nVERSION_ID=22\n', "Linux Mint", "22"),
        ("", "an unknown system", ""),
    ],
)
def test_what_the_system_calls_itself(release: str, name: str, version: str) -> None:
    uname = SimpleNamespace(machine="aarch64", nodename="mail1.example.com")
    facts = system.facts(release, uname, (3, 13, 5, "final", 0), "container-other", has_apparmor=True)
    assert (facts["distribution"], facts["distribution_version"]) == (name, version)
    assert (facts["architecture"], facts["hostname"], facts["nodename"]) == ("aarch64", "mail1", "mail1.example.com")
    assert (facts["python_version"], facts["virtualization_type"]) == ("3.13.5", "container")
    assert facts["apparmor"] == {"status": "enabled"}


@pytest.mark.parametrize(("name", "version"), [("Debian", "12"), ("Debian", "13"), ("Ubuntu", "26.04")])
def test_systems_that_are_supported(name: str, version: str) -> None:
    assert system.system_verdict("mail1", name, version, SYSTEMS).level == "ok"


def test_a_system_that_is_not() -> None:
    verdict = system.system_verdict("mail1", "Ubuntu", "22.04", SYSTEMS)
    assert verdict.sentence == (
        "mail1 runs Ubuntu 22.04, but the worker is made for Debian 12 and 13, Ubuntu 24.04 and 26.04: reinstall it"
        " with one of them."
    )


def test_ram_and_disk() -> None:
    assert system.ram_verdict("mail1", 400, 400).level == "ok"
    assert system.ram_verdict("mail1", 230, 400).sentence == (
        "mail1 has 230 MB of RAM, but 400 MB are needed (preflight_min_ram_mb): take a bigger VPS."
    )
    good, bad = system.disk_verdicts("mail1", [(["/", "/var"], 900), (["/opt"], 30)], 700)
    assert good.sentence == "mail1 has 900 MB free at / and /var."
    assert bad.sentence == (
        "mail1 has 30 MB free at /opt, but 700 MB are needed (preflight_min_free_disk_mb): delete something there, or"
        " take a bigger disk."
    )


@pytest.mark.parametrize(
    ("version", "missing", "sentence"),
    [
        ((3, 11, 2), [], "mail1 has Python 3.11."),
        (
            (3, 9, 2),
            [],
            "mail1 has Python 3.9, but 3.11 is needed (preflight_min_python): reinstall it with a newer system.",
        ),
        ((3, 13, 5), ["ssl", "http"], "mail1's Python lacks ssl and http: run apt-get install python3 there."),
    ],
)
def test_python(version: tuple[int, ...], missing: list[str], sentence: str) -> None:
    assert system.python_verdict("mail1", version, "3.11", missing).sentence == sentence


@pytest.mark.parametrize(
    ("line", "without_password", "sentence"),
    [
        ("Sudo version 1.9.16p2", True, "bob becomes root on mail1 by sudo 1.9.16p2."),
        (
            "sudo-rs 0.2.8",
            False,
            "bob becomes root on mail1 by sudo-rs 0.2.8, with a password each time (--ask-become-pass).",
        ),
    ],
)
def test_sudo(line: str, without_password: bool, sentence: str) -> None:
    [verdict] = system.sudo_verdicts("mail1", "bob", line, without_password)
    assert (verdict.level, verdict.sentence) == ("ok", sentence)
    assert system.sudo_verdicts("mail1", "", line, without_password) == []


@pytest.mark.parametrize(
    ("at_host", "said"),
    [
        (1000.0, ""),
        (1039.0, ""),  # 10 s may have been the connection
        (971.0, ""),
        (1045.0, "mail1's clock is 35 s ahead of this machine's"),
        (900.0, "mail1's clock is 100 s behind this machine's"),
    ],
)
def test_a_slow_connection_is_no_wrong_clock(plugin: ModuleType, at_host: float, said: str) -> None:
    verdict = plugin.clock_verdict("mail1", 1000.0, at_host, 1010.0, 30.0)
    assert verdict["level"] == ("failure" if said else "ok")
    assert verdict["sentence"].startswith(said)


def test_networks_are_counted_without_those_of_containers() -> None:
    routes = (
        "Iface\tDestination\tGateway\tFlags\n"
        "eth0\t00000000\t0100A8C0\t0003\neth0\t0000A8C0\t00000000\t0001\n"
        "ens10\t0000000A\t00000000\t0001\ndocker0\t000011AC\t00000000\t0001\nbr-1234\t000012AC\t00000000\t0001\n"
    )
    assert system.networks(routes) == 2
    assert system.networks("Iface\tDestination\n") == 0
