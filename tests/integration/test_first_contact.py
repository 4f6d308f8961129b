"""A VPS as providers hand it out: with an expired password, by another user, by a password alone, not set up yet;
and packages that are behind, and a reboot."""

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.instance import Instance
from tests.integration.playbooks import run_playbook

pytestmark = pytest.mark.hosts

HOST = "mail1"
PASSWORD = "given-by-the-provider"
SSHD = "/etc/ssh/sshd_config.d/50-provider.conf"


class Vps:
    """It, and an inventory with nothing but the way in."""

    def __init__(self, instance: Instance, directory: Path) -> None:
        self.instance = instance
        self._directory = directory
        hosts = json.loads((instance.directory / "hosts.yml").read_text(encoding="utf-8"))["mail_workers"]["hosts"]
        self.way_in = {name: value for name, value in hosts[HOST].items() if name.startswith("ansible_")}

    def play(self, playbook: str, *options: str, **variables: object) -> tuple[int, str]:
        """Its exit code, and what it printed, on one line."""
        inventory = self._directory / "hosts.yml"
        host = {**self.way_in, **{name: value for name, value in variables.items() if name.startswith("ansible_")}}
        inventory.write_text(json.dumps({"mail_workers": {"hosts": {HOST: host}}}), encoding="utf-8")
        others = {name: value for name, value in variables.items() if not name.startswith("ansible_")}
        done = run_playbook(playbook, [inventory], self._directory, others, *options)
        assert PASSWORD not in done.stdout + done.stderr
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    def run(self, command: str) -> str:
        """As root, past SSH; what it prints."""
        done = self.instance.output(HOST, ["bash", "-c", command])
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def hang_up(self) -> None:
        """Ansible keeps its connection for a minute, in which sshd stays of its first opinion."""
        self.run("pkill sshd-session || true")


@pytest.fixture(scope="module")
def vps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vps]:
    instance = Instance("contact")
    instance.down()
    try:
        instance.up(vps=1, suite="trixie", services=False, mail_delay_ms=0, say=lambda _: None)
        yield Vps(instance, tmp_path_factory.mktemp("contact"))
    finally:
        instance.down()


def test_an_expired_password(vps: Vps) -> None:
    """As Hetzner, OVH and others deliver root's, with a key or without."""
    vps.run(f"echo root:{PASSWORD} | chpasswd && chage --lastday 0 root")
    try:
        code, printed = vps.play("playbooks/preflight.yml")
    finally:
        vps.run("chage --lastday $(date +%F) root && systemctl reset-failed")
        vps.hang_up()
    assert code != 0
    assert f"The password of root on {HOST} has expired, as providers deliver it: log in once with ssh root@" in printed


def test_the_image_names_another_user(vps: Vps) -> None:
    """By what cloud-init writes before root's keys (disable_root_opts)."""
    options = (
        "no-port-forwarding,no-agent-forwarding,no-X11-forwarding,command=\"echo 'Please login as the user"
        ' \\"ubuntu\\" rather than the user \\"root\\".\';echo;sleep 10;exit 142"'
    )
    keys = "/root/.ssh/authorized_keys"
    before = vps.run(f"cat {keys}")
    vps.instance.write(HOST, keys, f"{options} {before}")
    try:
        code, printed = vps.play("playbooks/preflight.yml")
    finally:
        vps.instance.write(HOST, keys, before)
        vps.hang_up()
    assert code != 0
    assert f"The image of {HOST} takes no login as root, but as ubuntu: put ansible_user: ubuntu into" in printed


def test_updates_that_somebody_has_switched_off(vps: Vps) -> None:
    vps.run("systemctl mask --now apt-daily-upgrade.timer")
    try:
        code, printed = vps.play("tests/integration/updates.yml")
    finally:
        vps.run("systemctl unmask apt-daily-upgrade.timer && systemctl start apt-daily-upgrade.timer")
    assert code != 0
    assert f"{HOST} would get no security updates (apt-daily-upgrade.timer is masked" in printed


def test_the_first_run_upgrades_the_packages_and_tells_a_reboot(vps: Vps) -> None:
    """By two that dpkg takes for older ones."""
    for package in ("dbus", "tzdata"):
        vps.run(f"sed -i '/^Package: {package}$/,/^$/s/^Version: .*/&~older/' /var/lib/dpkg/status")
    code, printed = vps.play("tests/integration/base.yml")
    assert code == 0, printed
    assert "older" not in vps.run("dpkg-query --show --showformat='${Version}' dbus tzdata")
    assert f"{HOST} runs, but replaced parts of its system take effect at a reboot alone" in printed
    # Later ones are left to the updates.
    vps.run("sed -i '/^Package: tzdata$/,/^$/s/^Version: .*/&~older/' /var/lib/dpkg/status")
    code, printed = vps.play("tests/integration/base.yml")
    assert "changed=0" in printed
    assert "older" in vps.run("dpkg-query --show --showformat='${Version}' tzdata")


def test_a_reboot_is_proven(vps: Vps) -> None:
    """A container doesn't come back by itself; the test is its power button."""

    def started() -> str:
        return vps.run("systemctl show --value --property=UserspaceTimestamp")

    vps.run("rm -f /run/reboot-required")
    before = started()
    code, printed = vps.play("tests/integration/reboot.yml")
    assert (code, "changed=0" in printed, started() == before) == (0, True, True)
    vps.run("touch /run/reboot-required")
    button = threading.Thread(target=_start_when_it_ends, args=(vps.instance,))
    button.start()
    code, printed = vps.play("tests/integration/reboot.yml")
    button.join()
    assert code == 0, printed
    assert "changed=1" in printed
    assert started() != before


def _start_when_it_ends(instance: Instance) -> None:
    deadline = time.monotonic() + 60
    while instance.output(HOST, ["true"]).returncode == 0:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    instance.restart(HOST)


def test_a_password_alone_brings_the_key_and_is_closed(vps: Vps, tmp_path: Path) -> None:
    """--ask-pass, and a VPS that is neither a worker nor a broker yet."""
    key = tmp_path / "mine"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    vps.run(
        f"userdel mailworker; rm /root/.ssh/authorized_keys && echo root:{PASSWORD} | chpasswd"
        f" && echo 'PermitRootLogin yes' >{SSHD} && systemctl reload ssh.service"
    )
    code, printed = vps.play("playbooks/secure.yml", ansible_ssh_private_key_file=str(key), ansible_password=PASSWORD)
    assert code != 0
    assert f"{HOST} has no user mailworker (firewall_worker_user), whom the rules are about: set the host up" in printed
    assert key.with_suffix(".pub").read_text(encoding="utf-8") in vps.run("cat ~mailadmin/.ssh/authorized_keys")
    settings = vps.run("sshd -T").splitlines()
    assert "passwordauthentication no" in settings
    assert "permitrootlogin no" in settings
    # By the key from now on.
    vps.way_in["ansible_ssh_private_key_file"] = str(key)
    code, printed = vps.play("tests/integration/base.yml")
    assert code == 0, printed
    code, printed = vps.play("playbooks/secure.yml")
    assert code == 0, printed
