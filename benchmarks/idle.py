"""What a host with nothing to do costs, and how soon it starts a new job, against the peers in the same run. A host of
ours has two workers and a recorder, one of a peer's a single process.

.venv/bin/python -m benchmarks.idle [--seconds 230] [--jobs 40] [--peers node,plain,ours,bullmq]
"""

import argparse
import json
import random
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from benchmarks.bench import NODE, PEERS, Bench, Sink, bench
from benchmarks.commands import counting
from worker.base import keys
from worker.queue.producer import enqueue

#: After the last that there was to do has been forgotten, until all have noticed.
FALLING_ASLEEP_SECONDS = 40.0


class Produce(Protocol):
    """Queues one job; returns the time in seconds since 1970."""

    def __call__(self, job: dict[str, object]) -> float: ...


@contextmanager
def producer(peer: str, setup: Bench) -> Iterator[Produce]:
    """The peer's own way to queue a job, connected beforehand."""
    if peer not in ("node", "bullmq"):

        def produce(job: dict[str, object]) -> float:
            list(enqueue(setup.client, iter([job])))
            return time.time()

        yield produce
        return
    command = ["node", str(NODE / "produce-lines.mjs")]
    process = subprocess.Popen(
        command, env=setup.environment(1), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    stdin, stdout = process.stdin, process.stdout
    if stdin is None or stdout is None or stdout.readline() != "ready\n":
        raise RuntimeError("the Node producer doesn't start")

    def produce_by_node(job: dict[str, object]) -> float:
        stdin.write(json.dumps(job) + "\n")
        stdin.flush()
        return int(stdout.readline()) / 1000

    try:
        yield produce_by_node
    finally:
        stdin.close()
        process.wait(timeout=20)


def run(peer: str, setup: Bench, seconds: float, jobs: int) -> dict[str, float]:
    """One run of one peer."""
    setup.client.flushall()
    with setup.campaign(jobs).open(encoding="utf-8") as stream:
        lines = [json.loads(line) for line in stream]
    with setup.sink() as sink, producer(peer, setup) as produce:
        processes = setup.start(peer, 10, workers=2)
        time.sleep(10)
        if peer in ("ours", "bullmq"):
            # As after five minutes.
            setup.client.delete(keys.AWAKE)
            time.sleep(FALLING_ASLEEP_SECONDS)
        with counting(setup) as counted:
            time.sleep(seconds)
        idle_mb = [process.rss_mb for process in processes]
        latencies = []
        for job in lines:
            time.sleep(random.uniform(0.3, 2.5))
            queued = produce(job)
            latencies.append(_arrival(sink, job) - queued)
        stop_seconds = [process.stop() for process in processes]
    latencies.sort()
    return {
        "commands_per_minute": counted.sent / seconds * 60,
        "inside_per_minute": counted.inside / seconds * 60,
        "idle_mb": idle_mb[0],
        "median_ms": statistics.median(latencies) * 1000,
        "p99_ms": latencies[min(len(latencies) - 1, round(len(latencies) * 0.99))] * 1000,
        "stop_seconds": max(stop_seconds),
    }


def _arrival(sink: Sink, job: dict[str, object]) -> float:
    to = job["to"]
    address = str(to["address"] if isinstance(to, dict) else to)
    # Some peers give a domain in its ASCII form, others don't.
    local = address.partition("@")[0]
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for recipient, at in sink.ask("arrived").items():
            if recipient.startswith(f"{local}@"):
                return at
        time.sleep(0.02)
    raise RuntimeError(f"{address} got no mail")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=230)
    parser.add_argument("--jobs", type=int, default=40)
    parser.add_argument("--peers", default=",".join(PEERS))
    options = parser.parse_args()
    print(f"10 at once; idle for {options.seconds:.0f} s, then {options.jobs} jobs one by one")
    print("peer    commands/min   in scripts   idle MB   median ms   p99 ms   stop s")
    with bench() as setup:
        for peer in options.peers.split(","):
            result = run(peer, setup, options.seconds, options.jobs)
            print(
                f"{peer:6} {result['commands_per_minute']:13.1f} {result['inside_per_minute']:12.1f}"
                f" {result['idle_mb']:9.0f} {result['median_ms']:11.0f} {result['p99_ms']:8.0f}"
                f" {result['stop_seconds']:8.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
