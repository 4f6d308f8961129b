"""The redis role's files. The integration test starts Redis with them; what they must say is here."""

import hashlib
import re
from pathlib import Path

import pytest

from tests.templates.conftest import HERE, expect_nft_takes, expect_systemd_takes, play

PASSWORDS = {f"redis_{user}_password": f"{user}-{'x' * 24}" for user in ("worker", "app", "admin", "backup")}
BROKER = {
    **PASSWORDS,
    "ansible_facts": {"virtualization_type": "kvm"},
    "firewall_in_sources": {6380: ["0.0.0.0/0", "::/0"]},
    "firewall_further_in_sources": {6379: ["10.0.0.5", "10.1.0.0/16", "2001:db8::/32"]},
    "redis_local_hash": {"stdout": "0" * 64 + "  -"},
    "redis_bullmq_prefixes": ["bull", "{app}"],
    "redis_ram_mb": 960,
}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A broker's rendered files."""
    return _render(tmp_path_factory.mktemp("broker"))


def _render(directory: Path, **changes: object) -> Path:
    done = play(HERE / "redis.yml", {**BROKER, **changes, "render_to": str(directory)}, directory)
    assert done.returncode == 0, done.stdout
    return directory


def _users(path: Path) -> dict[str, list[str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return {line.split()[1]: line.split()[2:] for line in lines if line.startswith("user ")}


def test_no_password_is_in_the_users_file(broker: Path) -> None:
    users = _users(broker / "users.acl")
    text = (broker / "users.acl").read_text(encoding="utf-8")
    for variable, password in PASSWORDS.items():
        assert password not in text
        assert f"#{hashlib.sha256(password.encode()).hexdigest()}" in users[variable.split("_")[1]]
    # `reset` is off, without a password. Redis replays the append-only file's transactions with this user's rights.
    assert users["default"] == ["reset", "~*", "&*", "+@all"]


def test_users_have_what_they_need_and_no_more(broker: Path) -> None:
    users = _users(broker / "users.acl")
    assert [rule for rule in users["worker"] if rule.startswith("~")] == [
        "~mail:*",
        "~dramatiq",
        "~dramatiq:*",
        "~bull:*",
        "~{app}:*",
    ]
    assert [rule for rule in users["app"] if rule.startswith("~mail")] == ["~mail:templates"]
    assert [rule for rule in users["app"] if rule.endswith(":*")] == ["~bull:*", "~{app}:*"]
    for name in ("worker", "app"):
        rules = users[name]
        # What comes later wins.
        after = set(rules[rules.index("-@dangerous") + 1 :])
        assert after <= {"+info", "+client|list", "+keys", "-scan", "-randomkey", "-dbsize"}
        assert "+@all" not in rules
    assert "+keys" not in users["app"]
    assert not any(rule.startswith("+@write") for rule in users["backup"])


def test_a_user_without_password_isnt_there(tmp_path: Path) -> None:
    users = _users(_render(tmp_path, redis_admin_password="", redis_backup_password="") / "users.acl")
    assert set(users) == {"default", "local", "worker", "app"}


@pytest.mark.parametrize(
    ("prefixes", "expected"),
    [
        (
            ["bull", "my app"],
            "redis_bullmq_prefixes is bull, my app for localhost, but must be names without spaces and",
        ),
        (["*"], "redis_bullmq_prefixes is * for localhost, but must be names without spaces and any of * ? [ ] \\:"),
        (["mail"], "redis_bullmq_prefixes is mail for localhost, by which the app might use the workers' own keys:"),
        (["mail:news", "{app}"], ""),
    ],
)
def test_prefixes_open_nothing_else(prefixes: list[str], expected: str, tmp_path: Path) -> None:
    done = play(HERE / "broker_variables.yml", {**BROKER, "redis_bullmq_prefixes": prefixes}, tmp_path)
    assert (done.returncode == 0) == (not expected), done.stdout
    assert expected in " ".join(done.stdout.split()).replace("''", "'")


def test_tls_is_the_only_way_in_and_nothing_is_evicted(broker: Path) -> None:
    main, live = (_settings(broker / name) for name in ("redis.conf", "live.conf"))
    assert (main["port"], main["tls-port"], main["appendonly"]) == ("0", "6379", "yes")
    assert main["include"] == "/etc/mail-broker/live.conf"
    assert live["maxmemory-policy"] == "noeviction"
    # What is big is removed beside the work.
    assert {name for name in live if name.startswith("lazyfree-") and live[name] == "yes"} == {
        "lazyfree-lazy-expire",
        "lazyfree-lazy-server-del",
        "lazyfree-lazy-user-del",
    }
    assert live["maxmemory"] == "256mb"
    assert live["appendfsync"] == "everysec"
    # A setting in both files would be applied to a running Redis, and be another one after its restart.
    assert not set(main) & set(live)


def test_only_the_named_addresses_reach_a_port(broker: Path, tmp_path: Path) -> None:
    text = (broker / "firewall.nft").read_text(encoding="utf-8")
    assert "    ip saddr { 10.0.0.5, 10.1.0.0/16 } tcp dport 6379 accept\n" in text
    assert "    ip6 saddr { 2001:db8::/32 } tcp dport 6379 accept\n" in text
    assert "    ip6 saddr { ::/0 } tcp dport 6380 accept\n" in text
    assert not re.search(r"^ *tcp dport \{? ?6379", text, re.MULTILINE)
    expect_nft_takes(broker / "firewall.nft", tmp_path)


def test_systemd_takes_the_backups_units(broker: Path, tmp_path: Path) -> None:
    units = [broker / "redis-backup.service", broker / "redis-backup.timer"]
    expect_systemd_takes(units, "/usr/local/sbin/redis-backup", tmp_path)


def test_systemd_never_gives_up_on_a_redis_that_loads(broker: Path) -> None:
    lines = (broker / "redis-server.conf").read_text(encoding="utf-8").splitlines()
    assert "TimeoutStartSec=infinity" in lines
    assert "PrivateUsers=no" not in lines


def _settings(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    pairs = [(name, value) for name, value in (line.split(" ", 1) for line in lines)]
    assert len({name for name, _ in pairs}) == len(pairs)
    return dict(pairs)
