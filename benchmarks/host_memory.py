"""How much RAM a host has left under full load, as a row of docs/scale.md. The host is any one that SSH reaches.

python -m benchmarks.host_memory --inventory FILE... --host HOST --services NAME   sends a campaign and measures
python -m benchmarks.host_memory --inventory FILE... --host HOST --seconds 60      measures what is going on there
"""

import argparse
import json
import random
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from demo.campaign import Campaign
from demo.tally import tally
from testbed.services import Services

SIZES = (10_000, 50_000)
DEADLINE_SECONDS = 1800.0

#: Each second: MB in all, MB available, MB of swap in use, connections to port $1, of which each busy slot has one.
_SAMPLE = r"""
port=$(printf '%04X' "$1")
while sleep 1; do
  awk -v port=":$port" '
    FNR == NR { mb[$1] = $2 / 1024; next }
    FNR > 1 && $4 == "01" && substr($3, length($3) - 4) == port { connections++ }
    END { print mb["MemTotal:"], mb["MemAvailable:"], mb["SwapTotal:"] - mb["SwapFree:"], connections + 0 }
  ' /proc/meminfo /proc/net/tcp
done
"""

#: A line for each of the worker's processes: its program, and its share of the RAM in MB.
_PROCESSES = r"""
for directory in $(grep -lE 'mail-worker|supervisord' /proc/[0-9]*/cmdline | sed 's|/cmdline||'); do
  [ "$(stat -c %U "$directory" 2>/dev/null)" = mailworker ] || continue
  program=$(tr '\0' ' ' <"$directory/cmdline" | grep -oE 'mail-worker (run|record)|supervisord' | head -n 1)
  awk -v program="${program##* }" '/^Pss:/ { print program, $2 / 1024 }' "$directory/smaps_rollup"
done
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """The host in one second, in MB."""

    total: float
    available: float
    swapped: float
    connections: int


class Host:
    """A host of an inventory, by SSH as the user who administers it."""

    def __init__(self, inventories: Sequence[str], name: str) -> None:
        command = [str(Path(sys.executable).parent / "ansible-inventory"), "--host", name]
        for inventory in inventories:
            command += ["-i", inventory]
        self.variables = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        given = self.variables.get
        user = given("ansible_user", "root")
        self._ssh = ["ssh", "-o", "BatchMode=yes", "-p", str(given("ansible_port", 22))]
        if "ansible_ssh_private_key_file" in self.variables:
            self._ssh += ["-i", given("ansible_ssh_private_key_file")]
        self._ssh += shlex.split(given("ansible_ssh_common_args", ""))
        self._ssh.append(f"{'mailadmin' if user == 'root' else user}@{given('ansible_host', name)}")

    def start(self, script: str, *words: str) -> "subprocess.Popen[str]":
        """Starts a shell script there as root."""
        command = shlex.join(["sudo", "sh", "-c", script, "sh", *words])
        return subprocess.Popen([*self._ssh, command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, script: str, given: str = "") -> str:
        """What it prints.

        Raises:
            RuntimeError: it failed.
        """
        process = self.start(script)
        printed, _ = process.communicate(given)
        if process.returncode:
            raise RuntimeError(f"the host answers with exit code {process.returncode} to: {script.strip()}")
        return printed


def main() -> int:
    """Prints the row."""
    options = _parser().parse_args()
    host = Host(options.inventory, options.host)
    port = str(host.variables.get("worker_smtp_port", 465))
    idle = host.run(_PROCESSES)
    sampler = host.start(_SAMPLE, port)
    try:
        if options.services:
            busy = _campaign(host, Services.load(options.services), options.mails)
        else:
            time.sleep(options.seconds)
            busy = host.run(_PROCESSES)
    finally:
        sampler.terminate()
    samples = list(_samples(sampler))
    lowest = min(samples, key=lambda sample: sample.available)
    print(f"idle: {_by_program(idle)}\nbusy: {_by_program(busy)}\nseconds: {len(samples)}")
    print(_row(options.host, lowest, samples, busy))
    return 0


def _campaign(host: Host, services: Services, mails: int) -> str:
    """Sends one and waits until it's complete; returns the processes in its midst."""
    campaign = Campaign.invent(mails)
    campaign.insert(services.database_url)
    jobs = "\n".join(json.dumps(job) for job in _jobs(campaign))
    host.run("umask 077; cat >/root/jobs.jsonl; mail-worker enqueue /root/jobs.jsonl; rm /root/jobs.jsonl", jobs)
    busy = ""
    started = time.monotonic()
    while not (now := tally(services, campaign)).accounted_for:
        if not busy and now.unique > mails / 2:
            busy = host.run(_PROCESSES)
        if time.monotonic() - started > DEADLINE_SECONDS:
            raise RuntimeError(f"the campaign isn't complete after {DEADLINE_SECONDS:.0f} s: {now}")
        time.sleep(2)
    print(f"{now}, {now.unique / (time.monotonic() - started):.0f} mails/s")
    return busy or host.run(_PROCESSES)


def _jobs(campaign: Campaign) -> Iterator[dict[str, object]]:
    sizes = random.Random(campaign.tag)
    for number, subscriber_id in enumerate(campaign.subscriber_ids):
        yield {
            "to": f"reader-{number}.{campaign.tag}@testbed.example",
            "from": "The bench <news@testbed.example>",
            "subject": f"Mail {number}",
            "html": "<p>This paragraph is only here for its weight.</p>\n" * (sizes.randint(*SIZES) // 51),
            "campaignId": campaign.id,
            "subscriberId": subscriber_id,
        }


def _samples(sampler: "subprocess.Popen[str]") -> Iterator[Sample]:
    printed, _ = sampler.communicate()
    for line in printed.splitlines(keepends=True):
        fields = line.split()
        if line.endswith("\n") and len(fields) == 4:
            yield Sample(float(fields[0]), float(fields[1]), float(fields[2]), int(fields[3]))


def _by_program(processes: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for line in processes.splitlines():
        program, megabytes = line.split()
        found.setdefault(program, []).append(round(float(megabytes)))
    return found


def _row(host: str, lowest: Sample, samples: Sequence[Sample], busy: str) -> str:
    programs = _by_program(busy)
    fields = (
        host,
        f"{lowest.total:.0f} MB",
        f"{len(programs.get('run', []))} processes",
        f"{max(sample.connections for sample in samples)} mails at once",
        f"{max(programs.get('run', [0]))} MB a process",
        f"{lowest.available:.0f} MB free",
        f"{100 * lowest.available / lowest.total:.0f} %",
        f"{max(sample.swapped for sample in samples):.0f} MB swapped",
    )
    return f"| {' | '.join(fields)} |"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.host_memory", description=__doc__)
    parser.add_argument("--inventory", action="append", required=True, help="as ansible-playbook's -i; several")
    parser.add_argument("--host", required=True, help="its name there")
    parser.add_argument("--services", help="the instance of the test bed whose Redis and mail server the host uses")
    parser.add_argument("--mails", type=int, default=3000)
    parser.add_argument("--seconds", type=int, default=60, help="without --services")
    return parser


if __name__ == "__main__":
    sys.exit(main())
