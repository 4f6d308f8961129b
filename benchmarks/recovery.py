"""A worker is killed with its mails in flight and started again: how long nothing leaves, and what is sent twice.

.venv/bin/python -m benchmarks.recovery [--mails 1500] [--peers node,ours] [--rounds 3]
"""

import argparse
import random
import statistics
import time

import redis

from benchmarks.bench import Bench, Sink, bench, wait_until_sent
from worker.base import keys

CONCURRENCY = 50
DELAY_MS = 200
PATIENCE_SECONDS = 400.0


def run(peer: str, setup: Bench, mails: int) -> dict[str, float]:
    """One run of one peer."""
    setup.client.flushall()
    setup.produce(peer, setup.campaign(mails))
    with setup.sink(DELAY_MS) as sink:
        processes = setup.start(peer, CONCURRENCY)
        wait_until_sent(sink, mails // 4, PATIENCE_SECONDS)
        # The mails in flight march in step; any moment between two steps is as likely as another.
        time.sleep(random.uniform(0, DELAY_MS / 1000))
        processes[0].process.kill()
        processes[0].process.wait()
        killed = time.time()
        for process in processes[1:]:
            process.stop()
        processes = setup.start(peer, CONCURRENCY)
        report = _wait_until_done(setup, sink)
        for process in processes:
            process.stop()
    return {
        # Mails of others go on at once; those that the dead one held come last.
        "seconds": report["last"] - killed,
        "doubles": report["mails"] - report["unique"],
        "lost": mails - report["unique"],
    }


def _wait_until_done(setup: Bench, sink: Sink) -> dict[str, float]:
    # Until nothing is queued or in work: a mail that goes out a second time may come long after all others.
    deadline = time.monotonic() + PATIENCE_SECONDS
    while _left(setup.client) and time.monotonic() < deadline:
        time.sleep(0.1)
    return sink.ask("report")


def _left(client: "redis.Redis") -> int:
    with client.pipeline(transaction=False) as pipeline:
        for name in ("wait", "active"):
            pipeline.llen(f"bull:mail:{name}")
        pipeline.zcard("bull:mail:delayed")
        pipeline.hlen(keys.MESSAGES)
        pipeline.hlen(keys.DELAYED_MESSAGES)
        return sum(pipeline.execute())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mails", type=int, default=1500)
    parser.add_argument("--peers", default="node,ours")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(
        f"kill -9 with {CONCURRENCY} mails in flight at {DELAY_MS} ms, then a new start; means of {options.rounds} runs"
    )
    print("peer    s until the last mail   sent twice   lost")
    with bench() as setup:
        for peer in options.peers.split(","):
            results = [run(peer, setup, options.mails) for _ in range(options.rounds)]
            result = {name: statistics.mean(each[name] for each in results) for name in results[0]}
            print(
                f"{peer:6} {result['seconds']:22.0f} {result['doubles']:12.0f} {result['lost']:6.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
