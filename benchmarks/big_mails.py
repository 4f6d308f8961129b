"""How much memory a worker takes for mails with attachments of 5 MB, at each concurrency, against its share of a host.

.venv/bin/python -m benchmarks.big_mails [--mails 60] [--concurrency 3,5,10] [--megabytes 5]
"""

import argparse
import base64
import json
import os
import sys
from pathlib import Path

from benchmarks.bench import Bench, bench, wait_until_sent
from benchmarks.throughput import numbers

PATIENCE_SECONDS = 300.0
#: What one of worker_sizing's processes may have (worker_max_rss_mb): hosts of 512 MB, 1, 2 and 4 GB.
SHARES_MB = {3: 288, 5: 285, 10: 450}


def write_jobs(path: Path, mails: int, megabytes: float) -> None:
    """Jobs of a campaign, each with a file of its own."""
    with path.open("w", encoding="utf-8") as stream:
        for number in range(mails):
            content = base64.b64encode(os.urandom(int(megabytes * 1_000_000))).decode()
            job = {
                "to": f"reader-{number}@example.org",
                "subject": "Your report",
                "html": "<p>Here it is.</p>",
                "attachments": [{"filename": "report.pdf", "content": content}],
            }
            stream.write(json.dumps(job) + "\n")


def run(setup: Bench, mails: int, concurrency: int, megabytes: float) -> tuple[float, float]:
    """Mails a second, and the worker's most MB."""
    setup.client.flushall()
    path = setup.directory / "big.jsonl"
    write_jobs(path, mails, megabytes)
    setup.produce("ours", path)
    path.unlink()
    with setup.sink() as sink:
        worker, recorder = setup.start("ours", concurrency)
        report = wait_until_sent(sink, mails, PATIENCE_SECONDS)
        peak = worker.peak_rss_mb
        for process in (worker, recorder):
            process.stop()
    return (mails - 1) / (report["last"] - report["first"]), peak


def main() -> None:
    """Prints them; exit code 1 if one takes more than its share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mails", type=int, default=60)
    parser.add_argument("--concurrency", type=numbers, default=[3, 5, 10])
    parser.add_argument("--megabytes", type=float, default=5.0)
    options = parser.parse_args()
    too_much = False
    print("at once   mails/s   worker's peak MB   its share MB")
    with bench() as setup:
        for concurrency in options.concurrency:
            speed, peak = run(setup, options.mails, concurrency, options.megabytes)
            share = SHARES_MB.get(concurrency, max(SHARES_MB.values()))
            too_much = too_much or peak > share
            print(f"{concurrency:7} {speed:9.1f} {peak:18.0f} {share:14}", flush=True)
    sys.exit(1 if too_much else 0)


if __name__ == "__main__":
    main()
