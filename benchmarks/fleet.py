"""A release is deployed to one host, and to a fleet of as many containers as wanted: how long each takes. Exit code 1
if the fleet takes more than AT_MOST times as long.

.venv/bin/python -m benchmarks.fleet [--hosts 20] [--rounds 3] [--keep]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from testbed.instance import Instance
from tests.fleet.versions import make_version
from tests.integration.playbooks import run_playbook

INSTANCE = "bench-fleet"
PLAYBOOK_SECONDS = 3600.0
#: What was promised for 20 hosts.
AT_MOST = 3.0


class Containers:
    """A fleet of bare VPSes; its playbooks are run as a user runs them."""

    def __init__(self, instance: Instance, directory: Path) -> None:
        self._inventory = instance.directory / "hosts.yml"
        self._directory = directory

    def play(self, playbook: str, *options: str, **variables: object) -> float:
        """Runs a playbook; returns the seconds that it took.

        Raises:
            SystemExit: it failed; with what it printed last.
        """
        began = time.monotonic()
        done = run_playbook(
            f"playbooks/{playbook}.yml",
            [self._inventory],
            self._directory,
            variables,
            *options,
            timeout_seconds=PLAYBOOK_SECONDS,
        )
        if done.returncode:
            raise SystemExit(f"{playbook}.yml failed:\n{(done.stdout + done.stderr)[-3000:]}")
        return time.monotonic() - began

    def deploy(self, version: str, *options: str) -> float:
        """Builds a release of its own and rolls it out; returns the seconds of the roll-out."""
        source = make_version(self._directory, version)
        return self.play("deploy", *options, worker_source_directory=str(source))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", action="store_true", help="leave the containers, for another run")
    chosen = parser.parse_args()
    instance = Instance(INSTANCE)
    try:
        instance.up(vps=chosen.hosts, suite="trixie", services=True, mail_delay_ms=0, say=print)
        with tempfile.TemporaryDirectory() as directory:
            _measure(Containers(instance, Path(directory)), chosen.hosts, chosen.rounds)
    finally:
        if not chosen.keep:
            instance.down()


def _measure(fleet: Containers, hosts: int, rounds: int) -> None:
    print(f"site.yml on {hosts} bare hosts: {fleet.play('site', '--skip-tags=hardening'):.0f} s", flush=True)
    found = []
    for number in range(rounds):
        # Unlike any version of an earlier run that was kept.
        version = f"9.{time.time():.0f}"
        one = fleet.deploy(f"{version}.1", "--limit=mail1,localhost")
        whole = fleet.deploy(f"{version}.2")
        found.append((one, whole, whole / one))
        print(f"round {number + 1}: one host {one:.1f} s, {hosts} hosts {whole:.1f} s, {whole / one:.2f}x", flush=True)
    one, whole, ratio = (statistics.median(column) for column in zip(*found, strict=True))
    print(f"medians: one host {one:.1f} s, {hosts} hosts {whole:.1f} s, {ratio:.2f}x")
    if ratio > AT_MOST:
        raise SystemExit(f"{ratio:.2f} times is more than {AT_MOST:.0f}.")


if __name__ == "__main__":
    main()
