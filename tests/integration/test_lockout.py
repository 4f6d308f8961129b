"""Changes of sshd, sudo and the firewall that lock their owner out are taken back; what the firewall lets through."""

import json
import re
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from testbed.instance import Instance
from testbed.services import Services
from tests.integration.playbooks import run_playbook

HOST = "mail2"
ADMIN = "mailadmin"
#: How long the host waits for a confirmation here; in production it's a minute.
GUARD_SECONDS = 10

Play = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def play(instance: Instance, services: Services, tmp_path_factory: pytest.TempPathFactory) -> Play:
    """Runs access.yml with these extra variables; the role base once only."""
    skipped: list[str] = []
    # As playbooks/group_vars wires them.
    wired = {
        "firewall_worker_user": "mailworker",
        "firewall_worker_tcp_ports": [443, 6379, services.smtp_port],
        "access_open_port_command": (
            "nft add element inet host_firewall ssh_ports '{ {{ access_ssh_port }} timeout 10m }'"
        ),
    }

    def run(inventory: dict[str, object] | None = None, **variables: object) -> "subprocess.CompletedProcess[str]":
        directory = tmp_path_factory.mktemp("play")
        (directory / "more.json").write_text(
            json.dumps({"mail_workers": {"hosts": {HOST: inventory or {}}}}), encoding="utf-8"
        )
        done = run_playbook(
            "tests/integration/access.yml",
            [instance.directory / "hosts.yml", directory / "more.json"],
            directory,
            {**wired, "guard_seconds": GUARD_SECONDS, **variables},
            *skipped,
        )
        skipped[:] = ["--skip-tags", "base"]
        return done

    return run


@pytest.fixture(scope="module", autouse=True)
def closed(play: Play) -> None:
    """The host after a first run."""
    done = play()
    assert done.returncode == 0, done.stdout


def as_admin(
    instance: Instance, command: str, user: str = ADMIN, key: Path | None = None, port: int = 22
) -> "subprocess.CompletedProcess[str]":
    """A new SSH connection from the controller."""
    host = json.loads((instance.directory / "hosts.yml").read_text(encoding="utf-8"))["mail_workers"]["hosts"][HOST]
    known_hosts = f"UserKnownHostsFile={instance.directory}/known_hosts"
    options = [f"-o{option}" for option in ("BatchMode=yes", "ConnectTimeout=5", "LogLevel=ERROR", known_hosts)]
    address = f"{user}@{host['ansible_host']}"
    return subprocess.run(
        [
            *("ssh", *options, f"-p{port}", "-oIdentitiesOnly=yes"),
            *("-i", key or host["ansible_ssh_private_key_file"], address, command),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def on(instance: Instance, host: str, command: str) -> "subprocess.CompletedProcess[str]":
    """A command past SSH, as root."""
    return instance.output(host, ["bash", "-c", command])


WRONG: dict[str, tuple[dict[str, object], str]] = {
    "sshd": ({"access_sshd_settings": {"AllowUsers": "nobody"}}, "/etc/ssh/sshd_config.d/10-mail-worker.conf"),
    "sudo": ({"access_sudoers_lines": [f"{ADMIN} ALL=(ALL:ALL) !ALL"]}, "/etc/sudoers.d/95-mail-worker"),
    "firewall": ({"firewall_ssh_sources": ["192.0.2.1"]}, "/etc/host-firewall.nft"),
    "what sshd itself refuses": (
        {"access_sshd_settings": {"Ciphers": "nonsense"}},
        "/etc/ssh/sshd_config.d/10-mail-worker.conf",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_change_that_locks_us_out_is_taken_back(name: str, play: Play, instance: Instance) -> None:
    variables, path = WRONG[name]
    before = on(instance, HOST, f"sha256sum {path}").stdout
    done = play(**variables)
    assert done.returncode != 0
    printed = " ".join(done.stdout.split())
    assert re.search(rf"The change \w+ \({path}\) failed on {HOST} and was taken back, the host is as it was:", printed)
    assert "in the inventory, and run the playbook again." in printed
    assert on(instance, HOST, f"sha256sum {path}").stdout == before
    assert as_admin(instance, "sudo -n id -u").stdout == "0\n"
    assert on(instance, HOST, "ls /var/lib/lockout-guard").stdout == ""


def _key(directory: Path, name: str) -> str:
    """A new key's public half; the private one lies in the directory under the name."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", directory / name], check=True)
    return (directory / f"{name}.pub").read_text(encoding="utf-8").strip()


def test_keys_that_are_not_ours_are_taken_back(play: Play, instance: Instance, tmp_path: Path) -> None:
    """As of a colleague alone, or of a machine that is gone; Ansible's kept connection would hide it."""
    before = on(instance, HOST, f"cat ~{ADMIN}/.ssh/authorized_keys").stdout
    done = play(access_admin_keys=[_key(tmp_path, "other")])
    assert done.returncode != 0
    printed = " ".join(done.stdout.split())
    assert f"authorized_keys) failed on {HOST} and was taken back" in printed
    assert "Permission denied" in printed
    assert "Correct access_admin_keys in the inventory" in printed
    assert on(instance, HOST, f"cat ~{ADMIN}/.ssh/authorized_keys").stdout == before
    assert as_admin(instance, "sudo -n id -u").stdout == "0\n"


def test_a_truncated_key_is_named_and_not_written(play: Play, instance: Instance, tmp_path: Path) -> None:
    ours = (instance.directory / "ssh_key.pub").read_text(encoding="utf-8").strip()
    before = on(instance, HOST, f"cat ~{ADMIN}/.ssh/authorized_keys").stdout
    truncated = _key(tmp_path, "other")[:40]
    done = play(access_admin_keys=[ours, truncated])
    assert done.returncode != 0
    assert f"key 2 of {ADMIN} is no public key" in " ".join(done.stdout.split())
    assert on(instance, HOST, f"cat ~{ADMIN}/.ssh/authorized_keys").stdout == before


def test_a_second_admin_comes_and_goes(play: Play, instance: Instance, tmp_path: Path) -> None:
    ann = {"name": "ann", "keys": [f'from="10.0.0.0/8" {_key(tmp_path, "ann")}']}
    assert play(access_admins=[ann]).returncode == 0
    assert as_admin(instance, "sudo -n id -u", "ann", tmp_path / "ann").stdout == "0\n"
    assert "changed=0" in play(access_admins=[ann]).stdout
    told = " ".join(play().stdout.split())
    assert f"ann can log in on {HOST} and become root, too. Whoever of them has left goes into access_admins" in told
    # Without her line in sudoers she is in no better place than others; then nothing is left of her ways in.
    assert play(access_admins=[{"name": "ann", "absent": True}]).returncode == 0
    assert as_admin(instance, "true", "ann", tmp_path / "ann").returncode != 0
    assert "changed=0" in play(access_admins=[{"name": "ann", "absent": True}]).stdout
    assert play(access_admins=[ann]).returncode == 0
    assert as_admin(instance, "sudo -n id -u", "ann", tmp_path / "ann").stdout == "0\n"
    assert play(access_admins=[{"name": "ann", "absent": True}]).returncode == 0


def test_a_user_who_was_there_before_keeps_its_keys(play: Play, instance: Instance, tmp_path: Path) -> None:
    colleague = _key(tmp_path, "colleague")
    on(instance, HOST, "useradd --create-home --shell /bin/bash deploy && install -d -o deploy -m 700 ~deploy/.ssh")
    on(instance, HOST, f"echo '{colleague}' | install -o deploy -m 600 /dev/stdin ~deploy/.ssh/authorized_keys")
    # The tests' own admin goes on after it.
    stays = [f"{ADMIN} ALL=(ALL:ALL) NOPASSWD: ALL"]
    done = play({"ansible_user": ADMIN}, access_admin_user="deploy", access_sudoers_lines=stays)
    assert done.returncode == 0, done.stdout
    for key in (tmp_path / "colleague", None):
        assert as_admin(instance, "sudo -n id -u", "deploy", key).stdout == "0\n"
    assert play(access_admins=[{"name": "deploy", "absent": True}]).returncode == 0


def test_sshd_moves_to_another_port_and_back(play: Play, instance: Instance) -> None:
    def ports() -> set[str]:
        listening = on(instance, HOST, "ss -Hltn | awk '{print $4}'").stdout.split()
        return {one.rpartition(":")[2] for one in listening} & {"22", "2222"}

    done = play(access_ssh_port=2222)
    assert done.returncode == 0, done.stdout
    assert ports() == {"2222"}
    assert "2222" in on(instance, HOST, "nft list set inet host_firewall ssh_ports").stdout
    # The inventory still has no port.
    assert "changed=0" in play(access_ssh_port=2222).stdout
    # A port that another program has is proven to be no way in.
    on(instance, HOST, "systemd-run --quiet --collect --unit=taken python3 -m http.server 2022")
    done = play({"ansible_port": 2222}, access_ssh_port=2022)
    on(instance, HOST, "systemctl stop taken.service")
    assert done.returncode != 0
    assert "failed on" in done.stdout
    assert ports() == {"2222"}
    done = play({"ansible_port": 2222}, access_ssh_port=22)
    assert done.returncode == 0, done.stdout
    assert ports() == {"22"}
    assert as_admin(instance, "true").returncode == 0


def test_nothing_is_changed_after_that(play: Play) -> None:
    assert "changed=0" in play().stdout


def test_make_secure_brings_a_change_of_ports_alone(play: Play, instance: Instance, tmp_path: Path) -> None:
    """What else site.yml does is left alone, and what it did of SSH and the firewall stays."""
    variables = {"firewall_in_tcp_ports": [8443], "guard_seconds": GUARD_SECONDS}

    def secure() -> str:
        inventory = [instance.directory / "hosts.yml"]
        done = run_playbook("playbooks/secure.yml", inventory, tmp_path, variables, "--limit", f"{HOST},localhost")
        assert done.returncode == 0, done.stdout
        return done.stdout

    printed = secure()
    assert set(re.findall(r"TASK \[(\w+) : ", printed)) == {"guard", "access", "firewall"}
    assert "tcp dport 8443 accept" in on(instance, HOST, "nft list chain inet host_firewall input").stdout
    assert "changed=0" in secure()
    assert play().returncode == 0


def _break_sshd(instance: Instance, seconds: int) -> None:
    """As if the controller died right after the change."""
    path = WRONG["sshd"][1]
    done = on(
        instance,
        HOST,
        f"lockout-guard arm ssh {seconds} 'systemctl reload ssh.service' {path}"
        f" && sed -i '1i AllowUsers nobody' {path} && systemctl reload ssh.service",
    )
    assert done.returncode == 0, done.stderr
    assert as_admin(instance, "true").returncode != 0


def _wait_for_login(instance: Instance) -> None:
    deadline = time.monotonic() + 60
    while as_admin(instance, "true").returncode:
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_a_controller_that_dies_in_the_middle(instance: Instance) -> None:
    _break_sshd(instance, 5)
    _wait_for_login(instance)


def test_a_reboot_in_the_middle(instance: Instance, play: Play) -> None:
    _break_sshd(instance, 3600)
    instance.restart(HOST)
    _wait_for_login(instance)
    assert "changed=0" in play().stdout


def test_a_reboot_between_the_socket_and_sshd(instance: Instance, play: Play) -> None:
    """systemd listens, at a port that its unit alone knows; the host goes down before sshd has proven itself there."""
    change = WRONG["sshd"][1]
    listen = "/etc/systemd/system/ssh.socket.d/listen.conf"
    for command in (
        f"mkdir {Path(listen).parent} && printf '[Socket]\nListenStream=\nListenStream=2222\n' >{listen}",
        "nft 'add element inet host_firewall ssh_ports { 2222 timeout 10m }'",
        f"rm {change} && systemctl disable --now ssh.service && systemctl enable --now ssh.socket",
    ):
        assert on(instance, HOST, command).returncode == 0
    at_port = {"ansible_port": 2222}
    assert play(at_port, access_enabled=False).returncode == 0  # the firewall's rules

    with ThreadPoolExecutor() as pool:
        outside = {"AllowUsers": "nobody"}
        playing = pool.submit(play, at_port, access_sshd_settings=outside, guard_seconds=3600)
        deadline = time.monotonic() + 120
        while on(instance, HOST, "ls /var/lib/lockout-guard/ssh && systemctl is-enabled ssh.service").returncode:
            assert time.monotonic() < deadline
        instance.restart(HOST)
        done = playing.result()
    assert f"({change}) failed on {HOST} and was taken back" in " ".join(done.stdout.split())
    assert as_admin(instance, "true", port=2222).returncode == 0
    assert on(instance, HOST, "systemctl is-enabled ssh.socket ssh.service").stdout == "enabled\ndisabled\n"
    # Back to how the other tests know it.
    done = play(at_port, access_ssh_port=22)
    assert done.returncode == 0, done.stdout
    assert on(instance, HOST, f"rm -r {Path(listen).parent} && systemctl daemon-reload").returncode == 0
    assert "changed=0" in play().stdout


def test_directories_come_back_as_they_were(instance: Instance) -> None:
    """As of PAM's, into which a package or a profile writes whatever it likes."""
    look = "cd /etc/pam.d && sha256sum * && stat --format='%n %a %U' *"
    before = on(instance, HOST, look).stdout
    done = on(
        instance,
        HOST,
        "lockout-guard arm several 3600 'touch /run/applied' /etc/pam.d /etc/new.conf /etc/issue"
        " && echo 'auth required pam_deny.so' >/etc/pam.d/sshd && rm /etc/pam.d/su && touch /etc/pam.d/more"
        " && touch /etc/new.conf && rm /etc/issue && lockout-guard revert several",
    )
    assert done.returncode == 0, done.stderr
    assert on(instance, HOST, look).stdout == before
    assert on(instance, HOST, "test ! -e /etc/new.conf && test -s /etc/issue && test -e /run/applied").returncode == 0


def test_the_next_run_takes_back_what_nobody_confirmed(instance: Instance, play: Play) -> None:
    path = WRONG["firewall"][1]
    on(instance, HOST, f"lockout-guard arm firewall 3600 true {path} && echo '# half' >>{path}")
    assert play().returncode == 0
    assert "# half" not in on(instance, HOST, f"cat {path}").stdout


def test_root_and_passwords_are_closed(instance: Instance) -> None:
    settings = on(instance, HOST, "sshd -T").stdout.splitlines()
    assert "permitrootlogin no" in settings
    assert "passwordauthentication no" in settings
    assert "kbdinteractiveauthentication no" in settings


def test_why_the_admin_cannot_come_in_is_told(instance: Instance, play: Play) -> None:
    assert instance.shell(HOST, ["sh", "-c", "echo 'No logins tonight.' >/run/nologin"]) == 0
    try:
        done = play()
    finally:
        assert instance.shell(HOST, ["rm", "/run/nologin"]) == 0
    printed = " ".join(done.stdout.split())
    assert done.returncode != 0
    assert f"{HOST} can't be reached by SSH as root" in printed
    assert "The admin user of an earlier run can't come in either (No logins tonight. Connection closed by" in printed
    assert play().returncode == 0


def test_a_guesser_is_banned_and_the_admin_is_not(instance: Instance, services: Services) -> None:
    for _ in range(15):
        assert as_admin(instance, "true").returncode == 0
    address = on(instance, HOST, "hostname -I").stdout.split()[0]
    guess = f"ssh -o BatchMode=yes -o StrictHostKeyChecking=no -o ConnectTimeout=2 guess@{address} true"
    guesses = on(instance, "services", f"for i in $(seq 15); do {guess}; done").stderr
    assert "Permission denied" in guesses
    assert "timed out" in guesses
    assert services.address in on(instance, HOST, "nft list set inet host_firewall ssh_banned4").stdout
    assert as_admin(instance, "true").returncode == 0


def test_syns_in_the_name_of_others_ban_nobody(instance: Instance, services: Services) -> None:
    address = on(instance, HOST, "hostname -I").stdout.split()[0]
    for name in ("ssh_banned4", "ssh_attempts4"):
        assert on(instance, HOST, f"nft flush set inet host_firewall {name}").returncode == 0
    for port in range(2000, 2040):
        send_syn(services.address, port, address, 22)
    assert services.address not in on(instance, HOST, "nft list set inet host_firewall ssh_banned4").stdout
    assert services.address not in on(instance, HOST, "nft list set inet host_firewall ssh_attempts4").stdout


def send_syn(source: str, source_port: int, destination: str, port: int) -> None:
    """A TCP segment that bears somebody else's address (RFC 9293, 3.1)."""
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    tcp = struct.pack("!HHIIBBHHH", source_port, port, 1, 0, 5 << 4, 2, 64240, 0, 0)
    words = struct.unpack("!16H", addresses + struct.pack("!HH", socket.IPPROTO_TCP, len(tcp)) + tcp)
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    header = struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, socket.IPPROTO_TCP, 0) + addresses
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(header + tcp[:16] + struct.pack("!H", checksum) + tcp[18:], (destination, 0))


def test_the_admin_stays_known_when_the_rules_come_anew(instance: Instance) -> None:
    address = as_admin(instance, "echo $SSH_CONNECTION").stdout.split()[0]
    for verb in ("reload", "restart"):
        on(instance, HOST, f"systemctl {verb} host-firewall.service")
        assert address in on(instance, HOST, "nft list set inet host_firewall ssh_known4").stdout


def test_no_port_but_ssh_answers(instance: Instance) -> None:
    address = on(instance, HOST, "hostname -I").stdout.split()[0]
    on(instance, HOST, "systemd-run --quiet --collect python3 -m http.server 8080")
    scan = f'for p in 80 8080 111; do timeout 1 bash -c "</dev/tcp/{address}/$p" && echo open $p; done'
    assert on(instance, "services", scan).stdout == ""
    assert _counter(instance, "in_dropped") > 0


def test_the_worker_reaches_its_services_and_nothing_else(instance: Instance, services: Services) -> None:
    def reach(user: str, port: int) -> bool:
        test = f"timeout 5 bash -c '</dev/tcp/{services.address}/{port}'"
        return on(instance, HOST, f"runuser --user={user} -- {test}").returncode == 0

    for port in (443, 6379, services.smtp_port):
        assert reach("mailworker", port)
    before = _counter(instance, "worker_refused")
    started = time.monotonic()
    for port in (25, 22, 2525, 5432):
        assert not reach("mailworker", port)
    assert time.monotonic() - started < 20  # refused, not dropped
    assert _counter(instance, "worker_refused") >= before + 4
    before = _counter(instance, "out_refused")
    assert not reach("root", 5432)
    assert not reach("nobody", 25)
    # The preflight asks a service at a new port before the rules know it.
    on(instance, HOST, "nft add element inet host_firewall probed_ports '{ 5432 timeout 1m }'")
    assert reach("root", 5432)
    assert not reach("mailworker", 5432)
    on(instance, HOST, "nft delete element inet host_firewall probed_ports '{ 5432 }'")
    assert _counter(instance, "out_refused") >= before + 2


def test_other_tables_stay(instance: Instance, play: Play) -> None:
    on(instance, HOST, "nft 'add table ip nat; add chain ip nat DOCKER'")
    assert "changed=0" in play().stdout
    on(instance, HOST, "systemctl restart host-firewall.service")
    assert "chain DOCKER" in on(instance, HOST, "nft list table ip nat").stdout
    done = play(firewall_enabled=False)
    assert done.returncode == 0, done.stdout
    tables = on(instance, HOST, "nft list tables").stdout
    assert tables.split("\n") == ["table ip nat", ""]
    assert play().returncode == 0
    assert "table inet host_firewall" in on(instance, HOST, "nft list tables").stdout


def _counter(instance: Instance, name: str) -> int:
    printed = on(instance, HOST, f"nft list counter inet host_firewall {name}").stdout
    match = re.search(r"packets (\d+)", printed)
    assert match, printed
    return int(match[1])
