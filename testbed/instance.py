"""One instance: a network, VPSes in containers, and services if they are wanted."""

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

from testbed.errors import TestbedError
from testbed.images import SYSTEMS, services_image, vps_image
from testbed.paths import CHECKOUT_ID, INSTANCES
from testbed.podman import command, environment, leave_nothing, podman
from testbed.services import Services

BOOT_SECONDS = 90
VPS_RAM_MB = 1024
_SERVICES_HOST_NUMBER = 10
_FIRST_VPS_HOST_NUMBER = 11
#: What a VPS may do that a container usually may not: network filters, mounts, namespaces.
_CAPABILITIES = ("NET_ADMIN", "SYS_ADMIN", "AUDIT_WRITE", "SYS_CHROOT")
#: A company's TLS proxy, for one: what this machine trusts beyond Debian's own list, its guests must trust too.
_EXTRA_CA_DIRECTORY = Path("/usr/local/share/ca-certificates")

#: Gives a user the public key from standard input, as a provider's panel does.
_TAKE_KEY = """
set -eu
home=$(getent passwd "$1" | cut -d: -f6)
install -d -m 0700 -o "$1" -g "$1" "$home/.ssh"
cat >"$home/.ssh/authorized_keys"
chown "$1:$1" "$home/.ssh/authorized_keys"
chmod 0600 "$home/.ssh/authorized_keys"
"""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Instance:
    """A named group of containers. Its files are in `.testbed/NAME`."""

    name: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,19}", self.name):
            raise TestbedError(f"An instance can't be named {self.name!r}: use up to 20 letters, digits and dashes.")

    @property
    def directory(self) -> Path:
        return INSTANCES / self.name

    def container(self, host: str) -> str:
        """The container's name; another checkout's differ."""
        return f"mw-{CHECKOUT_ID}-{self.name}-{host}"

    def up(self, *, vps: int, suite: str, services: bool, mail_delay_ms: int, say: Say) -> None:
        """Starts what's missing and waits until it works.

        Raises:
            TestbedError: something can't be started.
        """
        self.directory.mkdir(parents=True, mode=0o700, exist_ok=True)
        network = self.container("net")
        if network not in podman("network", "ls", "--format", "{{.Name}}").split():
            podman("network", "create", network)
        addresses = list(ip_network(_subnet(network)).hosts())
        if services:
            address = str(addresses[_SERVICES_HOST_NUMBER - 1])
            self._services_up(address, mail_delay_ms, say)
        hosts = {}
        for number in range(1, vps + 1):
            address = str(addresses[_FIRST_VPS_HOST_NUMBER + number - 2])
            self._vps_up(f"mail{number}", address, suite, say)
            hosts[f"mail{number}"] = address
        for host in hosts:
            self._wait_for_boot(host)
        if hosts:
            self._write_inventory(hosts, SYSTEMS[suite].user, services)

    def down(self) -> None:
        """Removes the containers, the network and the files; nothing that isn't there is an error."""
        prefix = self.container("")
        containers = podman("ps", "--all", "--format", "{{.Names}}").split()
        if mine := [name for name in containers if name.startswith(prefix)]:
            podman("rm", "--force", "--time", "5", "--volumes", *mine)
        if self.container("net") in podman("network", "ls", "--format", "{{.Name}}").split():
            podman("network", "rm", "--force", self.container("net"))
        shutil.rmtree(self.directory, ignore_errors=True)
        if INSTANCES.is_dir() and not any(INSTANCES.iterdir()):
            INSTANCES.rmdir()
        leave_nothing()

    def shell(self, host: str, words: list[str]) -> int:
        """Runs a command on a host, or a login shell; returns its exit code."""
        terminal = ["--interactive", "--tty"] if not words and sys.stdin.isatty() else ["--interactive"]
        done = subprocess.run(
            [*command(), "exec", *terminal, self.container(host), *(words or ["bash", "--login"])],
            env=environment(),
            check=False,
        )
        return done.returncode

    def output(self, host: str, words: list[str]) -> "subprocess.CompletedProcess[str]":
        """Runs a command on a host and keeps what it prints."""
        return subprocess.run(
            [*command(), "exec", self.container(host), *words],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def write(self, host: str, path: str, text: str) -> None:
        """Writes a file on a host; its content is on no command line."""
        podman("exec", "-i", self.container(host), "tee", path, input_text=text)

    def restart(self, host: str) -> None:
        """Restarts a host and waits for it: a container's reboot."""
        podman("restart", "--time", "30", self.container(host))
        self._wait_for_boot(host)

    def _services_up(self, address: str, mail_delay_ms: int, say: Say) -> None:
        container = self.container("services")
        image = services_image(say)
        try:
            services = Services.load(self.name)
        except TestbedError:
            services = None
        if services is None or services.address != address:
            # Of a network that is gone; the certificate names the old address.
            shutil.rmtree(self.directory / "etc", ignore_errors=True)
            services = Services.invent(container, address, self.directory)
        services.write(mail_delay_ms)
        self._start(
            "services",
            address,
            image,
            f"--volume={self.directory / 'etc'}:/etc/testbed:ro",
            f"--volume={self.directory / 'mail'}:/var/mail-kept",
        )
        self._wait_for_boot("services")
        for port in (6379, 5432, 443, 465, 587, 2525):
            _wait_for_port(address, port)

    def _vps_up(self, host: str, address: str, suite: str, say: Say) -> None:
        self._start(host, address, vps_image(suite, say))

    def _start(self, host: str, address: str, image: str, *options: str) -> None:
        container = self.container(host)
        status = self._status(host)
        if status == "running":
            return
        if status:
            podman("rm", "--force", "--volumes", container)
        capabilities = [f"--cap-add={capability}" for capability in _CAPABILITIES]
        # A VPS keeps its network card's address when it's restarted; with another one, whoever remembers the old one
        # reaches nobody for ten seconds. A locally administered address (IEEE 802).
        card = "02:42:" + ":".join(f"{int(part):02x}" for part in address.split("."))
        podman(
            *("run", "--detach", "--systemd=always", "--name", container, "--hostname", host),
            *("--network", self.container("net"), "--ip", address, "--mac-address", card),
            *(*capabilities, *options, image),
        )

    def _status(self, host: str) -> str:
        return podman(
            "container", "inspect", "--format", "{{.State.Status}}", self.container(host), check=False
        ).strip()

    def _wait_for_boot(self, host: str) -> None:
        deadline = time.monotonic() + BOOT_SECONDS
        state = "unknown"
        while time.monotonic() < deadline:
            state = podman("exec", self.container(host), "systemctl", "is-system-running", check=False).strip()
            if state == "running":
                return
            if state == "degraded":
                failed = podman("exec", self.container(host), "systemctl", "--failed", "--plain", "--no-legend")
                raise TestbedError(f"{host} has booted, but these units failed: {' '.join(failed.split())}")
            if not state and self._status(host) != "running":
                raise TestbedError(f"{host} ended while it booted: {podman('logs', '--tail=1', self.container(host))}")
            time.sleep(0.3)
        raise TestbedError(f"{host} hasn't booted within {BOOT_SECONDS} s; systemd says {state or 'nothing'}.")

    def _write_inventory(self, hosts: dict[str, str], user: str, services: bool) -> None:
        key = self.directory / "ssh_key"
        if not key.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        public_key = key.with_suffix(".pub").read_text(encoding="ascii")
        known_hosts = self.directory / "known_hosts"
        lines = []
        for host, address in hosts.items():
            container = self.container(host)
            podman("exec", "-i", container, "sh", "-c", _TAKE_KEY, "sh", user, input_text=public_key)
            host_key = podman("exec", container, "cat", "/etc/ssh/ssh_host_ed25519_key.pub").split()[:2]
            lines.append(f"{address} {' '.join(host_key)}\n")
            _wait_for_port(address, 22)
        known_hosts.write_text("".join(lines), encoding="ascii")
        shared = {
            "ansible_user": user,
            "ansible_ssh_private_key_file": str(key),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={known_hosts} -o IdentitiesOnly=yes",
            # A container shows its host's RAM; size it as the VPS that it stands for.
            "worker_ram_mb": VPS_RAM_MB,
            **self.worker_variables(services),
        }
        inventory = {
            "mail_workers": {"hosts": {host: {"ansible_host": address, **shared} for host, address in hosts.items()}}
        }
        path = self.directory / "hosts.yml"
        path.touch(mode=0o600)
        # JSON is YAML.
        path.write_text(json.dumps(inventory, indent=2) + "\n", encoding="utf-8")

    def worker_variables(self, services: bool) -> dict[str, object]:
        """What a host of an inventory has to know to work with the services, or without them to be a guest here."""
        authorities = sorted(map(str, _EXTRA_CA_DIRECTORY.glob("*.crt")))
        if not services:
            return {"base_ca_certificates": authorities}
        found = Services.load(self.name)
        return {
            "base_ca_certificates": [*authorities, str(found.ca_file)],
            "worker_redis_url": found.redis_url,
            "worker_supabase_url": found.supabase_url,
            "worker_supabase_secret_key": found.supabase_secret_key,
            "worker_smtp_host": found.smtp_host,
            "worker_smtp_port": found.smtp_port,
            "worker_smtp_user": found.smtp_user,
            "worker_smtp_password": found.smtp_password,
            "worker_mail_from": "The test bed <news@testbed.example>",
            # No DNS knows that domain.
            "preflight_mail_from": "",
        }


def instances() -> list[str]:
    """The names of this checkout's instances."""
    return sorted(path.name for path in INSTANCES.iterdir()) if INSTANCES.is_dir() else []


def _subnet(network: str) -> str:
    return podman("network", "inspect", "--format", "{{range .Subnets}}{{.Subnet}}{{end}}", network).strip()


def _wait_for_port(address: str, port: int) -> None:
    deadline = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((address, port), timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise TestbedError(f"Nothing answers at {address}:{port} within {BOOT_SECONDS} s.")
