"""For how long a call of ours keeps Redis from serving others, with so many recipients in all that it reads: by Redis's
own SLOWLOG. Exit code 1 if of one kind 99 % aren't below `--most-ms`.

.venv/bin/python -m benchmarks.size [--recipients 1000000] [--most-ms 20]
"""

import argparse
import asyncio
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import redis

from benchmarks.bench import bench
from worker.base import keys
from worker.base.redis_client import connect, connect_async
from worker.base.settings import Secret
from worker.ledger.ledger import LEDGER_SECONDS, Entry, LedgerOptions, RedisLedger
from worker.ledger.uncertain import UncertainMails
from worker.mail.outcomes import Sent
from worker.mail.pacing import Limit
from worker.operating.reconcile import Reconciliation
from worker.operating.retry_failed import FailedMails
from worker.queue.bullmq_view import foreign_jobs
from worker.queue.control import Control
from worker.queue.dead_letters import DeadLetters
from worker.queue.message_queue import MessageQueue
from worker.queue.processes import Process
from worker.recording.campaigns import Campaigns
from worker.recording.database import Recipient
from worker.watching.status import read_status

QUEUE = "bull:mail-queue"
ACCOUNT = "smtp:size"
OPEN, ENDED, EXPIRED = "c-open", "c-ended", "c-expired"
#: Mails with a body of 10 kB, of each queue; what waits behind them is ids alone, since bodies are read one by one.
BODIES = 5000
HTML = '<p class="x">' * 770
TAKES = 100
TAKE = 20
STEP = 20_000
#: Of Redis, meanwhile. What takes less than 0.2 ms isn't logged.
SETTINGS = {"maxmemory": "0", "slowlog-max-len": "10000", "slowlog-log-slower-than": "200"}

#: Fills by numbers: ARGV is the key, the first number, the last one, and a value; {} in it is the number.
_FILL = """
local command, key, more = ARGV[1], ARGV[2], ARGV[5]
for number = tonumber(ARGV[3]), tonumber(ARGV[4]) do
  local id = string.format('%08d-0000-4000-8000-000000000000', number)
  local value = string.gsub(more, '{}', id)
  if command == 'HSET' then redis.call('HSET', key, id, value)
  elseif command == 'HSET named' then redis.call('HSET', key, '["' .. ARGV[6] .. '", "' .. id .. '", ""]', value)
  elseif command == 'ZADD' then redis.call('ZADD', key, more + number, id)
  elseif command == 'SADD' then redis.call('SADD', key, id)
  elseif command == 'SET' then redis.call('HSET', key .. id, '-', value)
  elseif command == 'XADD' then
    redis.call('XADD', key, '*', 'campaign', value, 'subscriber', id, 'result', 's', 'at', '1')
  elseif command == 'times' then redis.call('RPUSH', key, string.format('%.0f', more + number))
  else redis.call('RPUSH', key, id) end
end
"""


class Rows:
    """A database that has no rows of the campaign."""

    def recipients(self, campaign_id: str) -> Iterator[Recipient]:
        return iter(())


def fill(client: "redis.Redis", recipients: int) -> None:
    """Puts so many recipients, or a tenth of it, wherever something grows with them."""

    def put(command: str, key: str, number: int, value: object = "", extra: str = "") -> None:
        for start in range(0, number, STEP):
            client.eval(_FILL, 1, "mail:fill", command, key, start, min(start + STEP, number) - 1, str(value), extra)

    now_ms, tenth = int(time.time() * 1000), recipients // 10
    put("HSET", keys.ledger(OPEN), recipients, f"f:{now_ms}:550 5.7.1 no")
    for campaign in (ENDED, EXPIRED):
        put("HSET", keys.ledger(campaign), recipients, f"s:{now_ms}:250 ok")
    client.expire(keys.ledger(ENDED), LEDGER_SECONDS - 8 * 86_400)
    client.zadd(keys.LEDGERS, {ENDED: 0})
    put("HSET named", keys.UNCERTAIN, tenth, json.dumps([1, "why", "resent"]), OPEN)
    put("HSET named", keys.HELD_MESSAGES, tenth, "{}", OPEN)
    put("SET", keys.single(""), tenth, f"s:{now_ms}:250 ok")
    put("XADD", keys.OUTBOX, tenth, OPEN)
    put("times", keys.window(ACCOUNT, 86_400_000), recipients, now_ms - 86_400_000 - recipients // 2)
    put("ZADD", keys.DEAD_LETTERS, tenth, now_ms)
    put("ZADD", keys.DUE, tenth, now_ms + 86_400_000)
    put("RPUSH", keys.lane(OPEN), recipients)
    put("RPUSH", keys.WAITING, recipients)
    put("RPUSH", f"{QUEUE}:wait", recipients)
    for state in ("completed", "failed"):
        put("ZADD", f"{QUEUE}:{state}", tenth, now_ms)
    put("ZADD", f"{QUEUE}:delayed", tenth, (now_ms + 10 * 365 * 86_400_000) * 4096)
    put("SADD", keys.bullmq_parked(QUEUE, "c-parked"), tenth)
    client.sadd(keys.OPEN_CAMPAIGNS, *(f"c-{number}" for number in range(10_000)), OPEN)
    client.zadd(f"{keys.LANES}:normal", {OPEN: 1})
    for number in range(BODIES):
        job = {"campaignId": OPEN, "subscriberId": f"s-{number}", "email": "r@a.example", "html": HTML}
        fields = {"name": "mail", "data": json.dumps(job), "opts": "{}", "timestamp": str(now_ms)}
        with client.pipeline(transaction=False) as pipeline:
            pipeline.hset(keys.MESSAGES, f"m-{number}", json.dumps({"args": [job], "message_timestamp": now_ms}))
            pipeline.rpush(keys.WAITING, f"m-{number}")
            pipeline.lpush(keys.lane(OPEN), f"m-{number}")
            pipeline.hset(f"{QUEUE}:{number}", mapping=fields)  # type: ignore[arg-type]  # dict is invariant
            pipeline.rpush(f"{QUEUE}:wait", number)
            pipeline.execute()
    client.hset(f"{keys.bullmq_own(QUEUE)}:state", mapping={"since": "1", "seen": str(now_ms)})
    client.hset(f"{QUEUE}:meta", "version", "bullmq:5")


async def work(url: str) -> None:
    """What a worker does: fetches, claims, results and beats."""
    client = connect_async(Secret(url), 4)
    queue = MessageQueue(client, client, "p", "host/p", ACCOUNT, QUEUE)
    limits = (Limit(100_000_000, 86_400_000),)
    ledger = RedisLedger(client, "p", ACCOUNT, LedgerOptions(limits=limits, bullmq=QUEUE))
    process = Process("host/p", "1", 1, 5, time.time())
    for number in range(TAKES):
        fetched = await queue.fetch(TAKE, TAKE)
        entries = [Entry(OPEN, f"{identity}-{number}", identity) for identity, _ in fetched.messages]
        await asyncio.gather(*(ledger.claim(entry, f"p:{entry.identity}") for entry in entries))
        await asyncio.gather(*(ledger.record(entry, f"p:{entry.identity}", Sent("250 ok")) for entry in entries))
        await queue.sort()
        await queue.beat(replace(process, seen_at=time.time()), 60_000, idle=number % 2 == 1)
    await client.aclose()


def slowest_ms(client: "redis.Redis", action: Callable[[], object]) -> tuple[float, float]:
    """The slowest command of an action, and the slowest but one in a hundred: on a host that has more to do, a command
    now and then waits for a processor, and Redis counts that too."""
    client.slowlog_reset()
    action()
    log: Any = client.slowlog_get(10_000)
    ours = sorted(entry["duration"] / 1000 for entry in log if not entry["command"].startswith(b"SLOWLOG")) or [0.0]
    return ours[-1], ours[-1 - len(ours) // 100]


def calls(client: "redis.Redis", url: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each by its name."""
    reconciliation = Reconciliation(client, Rows(), OPEN, QUEUE)
    control = Control(client, QUEUE)
    campaigns = Campaigns(client, None)  # type: ignore[arg-type]  # what is called asks Redis alone
    yield "status", lambda: read_status(client, ACCOUNT, [Limit(1_000_000, 86_400_000)], QUEUE)
    yield "check: the head of BullMQ's queue", lambda: foreign_jobs(client, QUEUE)
    yield "a worker's fetches, claims, results and beats", lambda: asyncio.run(work(url))
    yield "uncertain list", lambda: sum(1 for _ in UncertainMails(client).all())
    yield "dead list, the first 1,000", lambda: list(itertools.islice(DeadLetters(client).all(), 1000))
    yield "retry-failed", lambda: FailedMails(client, OPEN, QUEUE).find("", None)
    yield "reconcile", reconciliation.report
    yield "pause and resume", lambda: (control.pause(OPEN), control.resume(OPEN))
    yield "resume with parked jobs", lambda: (control.pause("c-parked"), control.resume("c-parked"))
    yield "cancel", lambda: control.cancel(OPEN)
    yield "recorder: the ledger of a campaign that has ended", campaigns.forget_ledgers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipients", type=int, default=1_000_000)
    parser.add_argument("--most-ms", type=float, default=20.0)
    options = parser.parse_args()
    slow = False
    with bench() as setup:
        url = setup.services.redis_url
        client = connect(Secret(url), socket_timeout_seconds=60)
        usual: dict[str, Any] = {name: client.config_get(name)[name] for name in SETTINGS}
        for name, value in SETTINGS.items():
            client.config_set(name, value)
        fill(client, options.recipients)
        memory: Any = client.info("memory")
        print(f"{options.recipients:,} recipients, {memory['used_memory'] / 1e9:.1f} GB in Redis")
        print("call                                                slowest ms   99 % ms   s in all")
        for name, action in calls(client, url):
            began = time.monotonic()
            slowest, most = slowest_ms(client, action)
            slow = slow or most > options.most_ms
            print(f"{name:<52}{slowest:10.1f}{most:10.1f}{time.monotonic() - began:11.1f}", flush=True)
        expiry_ms, _ = slowest_ms(client, lambda: client.delete(keys.ledger(EXPIRED)))
        print(f"{'(what an EXPIRE of a ledger would take)':<52}{expiry_ms:10.1f}")
        client.flushall()
        for name, value in usual.items():
            client.config_set(name, value)
    sys.exit(slow)


if __name__ == "__main__":
    main()
