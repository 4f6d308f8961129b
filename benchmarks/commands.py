"""Counts Redis commands by MONITOR, which slows everything down: never in a run that is timed.

.venv/bin/python -m benchmarks.commands [--mails 3000] [--peers node,ours,bullmq]
"""

import argparse
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import redis

from benchmarks.bench import Bench, bench, wait_until_sent

PATIENCE_SECONDS = 300.0
#: Nobody else says that: mails pass by, too.
END = "benchmarks.commands: 7d0d47d5-4c0d-4f0c-9d57-the-end"


@dataclass(slots=True)
class Counted:
    """Commands that clients sent, and those that their scripts ran. Redis's own count makes no difference."""

    sent: int = 0
    inside: int = 0


@contextmanager
def counting(setup: Bench) -> Iterator[Counted]:
    """Counts until the block ends; the figures are there after it."""
    counted = Counted()
    with redis.Redis.from_url(setup.services.redis_url, socket_timeout=None) as client, client.monitor() as monitor:

        def count() -> None:
            for line in monitor.listen():
                if END in line["command"]:
                    return
                counted.inside += line["client_type"] == "lua"
                counted.sent += line["client_type"] != "lua"

        listening = threading.Thread(target=count, daemon=True)
        listening.start()
        try:
            yield counted
        finally:
            setup.client.echo(END)
            listening.join()


def a_mail(peer: str, setup: Bench, mails: int, concurrency: int) -> Counted:
    """What sending a campaign takes, without queueing it."""
    setup.client.flushall()
    jobs = setup.campaign(mails)
    setup.produce(peer, jobs)
    with setup.sink() as sink, counting(setup) as counted:
        processes = setup.start(peer, concurrency)
        wait_until_sent(sink, mails, PATIENCE_SECONDS)
        for process in processes:
            process.stop()
    return counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mails", type=int, default=3000)
    parser.add_argument("--peers", default="node,ours,bullmq")
    options = parser.parse_args()
    print(f"{options.mails} mails; commands a mail, start and stop included\npeer    at once   sent   in scripts")
    with bench() as setup:
        for concurrency in (5, 50):
            for peer in options.peers.split(","):
                counted = a_mail(peer, setup, options.mails, concurrency)
                sent, inside = counted.sent / options.mails, counted.inside / options.mails
                print(f"{peer:6} {concurrency:8} {sent:6.2f} {inside:12.1f}", flush=True)


if __name__ == "__main__":
    main()
