"""What a long queue costs: the time of a take of 20 of BullMQ's jobs and of their ends, with so many others waiting.

.venv/bin/python -m benchmarks.bullmq_waiting [--waiting 1000,1000000] [--takes 200]
"""

import argparse
import asyncio
import json
import statistics
import time

import redis

from benchmarks.bench import Bench, bench
from benchmarks.throughput import numbers
from worker.base import keys
from worker.base.redis_client import connect_async
from worker.base.settings import Secret
from worker.ledger.ledger import Entry, LedgerOptions, QueuedJob, RedisLedger
from worker.mail.outcomes import Sent
from worker.queue.message_queue import MessageQueue

QUEUE = "bull:mail-queue"
TAKE = 20
CHUNK = 10_000
HTML = "x" * 10_000


def fill(client: "redis.Redis", waiting: int, jobs: int) -> None:
    """Queues `jobs` of 10 kB at the queue's tail. What waits behind them is ids alone, since nobody looks at those."""
    client.flushall()
    client.hset(f"{keys.bullmq_own(QUEUE)}:state", mapping={"since": "1", "seen": str(int(time.time() * 1000))})
    for start in range(0, waiting, CHUNK):
        client.lpush(f"{QUEUE}:wait", *(f"behind-{number}" for number in range(start, min(start + CHUNK, waiting))))
    for number in range(jobs):
        data = json.dumps({"campaignId": 1, "subscriberId": number, "email": f"r{number}@a.example", "html": HTML})
        fields = {"name": "mail", "data": data, "opts": '{"attempts":0}', "timestamp": str(int(time.time() * 1000))}
        client.hset(f"{QUEUE}:{number}", mapping=fields)  # type: ignore[arg-type]  # dict is invariant
        client.rpush(f"{QUEUE}:wait", number)


async def measure(setup: Bench, takes: int) -> tuple[float, float]:
    """The medians in ms of a take, and of its jobs' claims and ends."""
    client = connect_async(Secret(setup.services.redis_url), 4)
    queue = MessageQueue(client, client, "p", "p", "account", QUEUE)
    ledger = RedisLedger(client, "p", "account", LedgerOptions(bullmq=QUEUE))
    taking, ending = [], []
    for _ in range(takes):
        begin = time.perf_counter()
        jobs = (await queue.fetch(TAKE, TAKE)).jobs
        taken = time.perf_counter()
        entries = [
            Entry(
                "1", job.id, job.id, QueuedJob(job.id, job.timestamp, "<1@a.example>", keep_completed=[1000, -1, 1000])
            )
            for job in jobs
        ]
        await asyncio.gather(*(ledger.claim(entry, f"p:{entry.identity}") for entry in entries))
        await asyncio.gather(*(ledger.record(entry, f"p:{entry.identity}", Sent("250 ok")) for entry in entries))
        taking.append((taken - begin) * 1000)
        ending.append((time.perf_counter() - taken) * 1000)
    await client.aclose()
    return statistics.median(taking), statistics.median(ending)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--waiting", type=numbers, default=[1000, 1_000_000])
    parser.add_argument("--takes", type=int, default=200)
    options = parser.parse_args()
    print(f"{options.takes} takes of {TAKE} jobs of 10 kB, medians")
    print("waiting     a take ms   claims and ends ms")
    first: tuple[float, float] | None = None
    with bench() as setup:
        for waiting in options.waiting:
            fill(setup.client, waiting, options.takes * TAKE)
            found = asyncio.run(measure(setup, options.takes))
            first = first or found
            ratios = f"   ({found[0] / first[0]:.2f}× and {found[1] / first[1]:.2f}×)"
            print(f"{waiting:<10,} {found[0]:10.2f} {found[1]:20.2f}{ratios}", flush=True)
        setup.client.flushall()


if __name__ == "__main__":
    main()
