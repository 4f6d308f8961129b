"""Mails a second, CPU and memory of one process, against the peers in the same run, and against what is possible.

.venv/bin/python -m benchmarks.throughput [--mails 3000] [--concurrency 1,5,50,200] [--delay-ms 0,200]
    [--peers node,plain,ours,bullmq] [--rounds 3] [--limit] [--one-body] [--base CHECKOUT]
"""

import argparse
import itertools
import statistics
import time
from pathlib import Path

from benchmarks.bench import BASE, PEERS, Bench, bench, wait_until_sent
from benchmarks.limit import mails_per_second

PATIENCE_SECONDS = 300.0
#: A slow server gets so many mails that the ideal time is this.
IDEAL_SECONDS = 20.0
COLUMNS = "peer    at once  delay ms   mails/s   of ideal   CPU s/1000   worker MB   recorder MB   doubles"


def run(peer: str, setup: Bench, mails: int, concurrency: int, delay_ms: int, one_body: bool) -> dict[str, float]:
    """One run of one peer."""
    setup.client.flushall()
    jobs = setup.campaign(mails, one_body=one_body)
    setup.produce(peer, jobs)
    with setup.sink(delay_ms) as sink:
        before = time.time()
        processes = setup.start(peer, concurrency)
        started = [process.cpu_seconds for process in processes]
        report = wait_until_sent(sink, mails, PATIENCE_SECONDS)
        cpu = [process.cpu_seconds - base for process, base in zip(processes, started, strict=True)]
        peak = [process.peak_rss_mb for process in processes]
        for process in processes:
            process.stop()
    if report["unique"] < mails:
        raise RuntimeError(f"{peer}: {report['unique']:.0f} of {mails} mails arrived")
    seconds = report["last"] - report["first"]
    return {
        "mails_per_second": (mails - 1) / seconds,
        "doubles": report["mails"] - report["unique"],
        "cpu_per_1000": sum(cpu) / mails * 1000,
        "worker_mb": peak[0],
        "recorder_mb": peak[1] if len(peak) > 1 else 0.0,
        "start_seconds": report["first"] - before,
        "sink_cpu_per_1000": report["cpu_seconds"] / mails * 1000,
    }


def mails_of(mails: int, concurrency: int, delay_ms: int) -> int:
    """How many mails a cell of the table takes."""
    return min(mails, int(concurrency / delay_ms * 1000 * IDEAL_SECONDS)) if delay_ms else mails


def measure(
    setup: Bench, peers: list[str], mails: int, concurrency: int, delay_ms: int, rounds: int, *, one_body: bool
) -> dict[str, dict[str, float]]:
    """The medians of several runs of each peer, which take turns: the machine may be slower for a while."""
    mails = mails_of(mails, concurrency, delay_ms)
    runs: dict[str, list[dict[str, float]]] = {peer: [] for peer in peers}
    for _ in range(rounds):
        for peer in peers:
            runs[peer].append(run(peer, setup, mails, concurrency, delay_ms, one_body))
    return {
        peer: {name: statistics.median(result[name] for result in results) for name in results[0]}
        for peer, results in runs.items()
    }


def numbers(text: str) -> list[int]:
    """`1,5,50` as a list."""
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mails", type=int, default=3000)
    parser.add_argument("--concurrency", type=numbers, default=[1, 5, 50, 200])
    parser.add_argument("--delay-ms", type=numbers, default=[0, 200])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--limit", action="store_true", help="measure smtp-source too, which only sends")
    parser.add_argument("--one-body", action="store_true", help="as in the app's campaigns: all mails have one text")
    parser.add_argument("--base", type=Path, help=f"another checkout of this project, set up: one more peer, {BASE}")
    options = parser.parse_args()
    peers = [*options.peers.split(","), *([BASE] if options.base else [])]
    print(f"up to {options.mails} mails of 10 kB, medians of {options.rounds} runs")
    print(COLUMNS, flush=True)
    with bench(base=options.base and options.base.absolute()) as setup:
        for delay_ms, concurrency in itertools.product(options.delay_ms, options.concurrency):
            ideal = concurrency / delay_ms * 1000 if delay_ms else None
            cell = measure(
                setup, peers, options.mails, concurrency, delay_ms, options.rounds, one_body=options.one_body
            )
            for peer, result in cell.items():
                share = f"{result['mails_per_second'] / ideal:8.0%}" if ideal else "       -"
                print(
                    f"{peer:6} {concurrency:8} {delay_ms:9} {result['mails_per_second']:9.0f}   {share}"
                    f"   {result['cpu_per_1000']:10.2f}   {result['worker_mb']:9.0f}   {result['recorder_mb']:11.0f}"
                    f"   {result['doubles']:7.0f}",
                    flush=True,
                )
            if options.limit:
                speed = mails_per_second(setup, mails_of(options.mails, concurrency, delay_ms), concurrency, delay_ms)
                print(f"limit  {concurrency:8} {delay_ms:9} {speed:9.0f}   (smtp-source, without TLS)", flush=True)
            if "ours" in cell and "bullmq" in cell:
                ours, bullmq = cell["ours"], cell["bullmq"]
                print(
                    f"bullmq / ours: {bullmq['mails_per_second'] / ours['mails_per_second']:.2f}× the mails a second,"
                    f" {bullmq['cpu_per_1000'] / ours['cpu_per_1000']:.2f}× the CPU (the app's queue, Dramatiq's)",
                    flush=True,
                )
            for peer in [one for one in ("node", BASE) if one in cell and "ours" in cell]:
                ours, other = cell["ours"], cell[peer]
                print(
                    f"ours / {peer}: {ours['mails_per_second'] / other['mails_per_second']:.2f}× the mails a second,"
                    f" {ours['cpu_per_1000'] / other['cpu_per_1000']:.2f}× the CPU,"
                    f" {ours['worker_mb'] / other['worker_mb']:.2f}× the memory (worker process)",
                    flush=True,
                )


if __name__ == "__main__":
    main()
