"""What `mail-worker status` costs Redis, however much there is to count."""

import functools
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
import yaml

from testbed.services import Services
from tests.integration.consumers import MakeConsumer
from tests.integration.size import MOST_MS, fill, slowest_ms
from worker.base import keys
from worker.base.redis_client import connect
from worker.base.settings import Secret
from worker.mail.pacing import Limit
from worker.operating.status import show
from worker.queue.message_queue import Settlement
from worker.queue.processes import Process
from worker.queue.producer import enqueue
from worker.watching.status import read_status

ACCOUNT = "smtp:status"
DAY = Limit(1_000_000, 86_400_000)
MOST_ANSWERED_BYTES = 20_000
BROKER = Path(__file__).parents[2] / "roles" / "redis" / "vars" / "main.yml"


def watched(services: Services, action: Callable[[], Any]) -> list[str]:
    """What an action sends to Redis, without what its scripts run there."""
    seen: list[dict[str, Any]] = []
    with redis.Redis.from_url(services.redis_url, socket_timeout=None) as client, client.monitor() as monitor:

        def listen() -> None:
            for command in monitor.listen():
                if "end of this test" in command["command"]:
                    return
                seen.append(command)

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        action()
        with redis.Redis.from_url(services.redis_url) as other:
            other.echo("end of this test")
        listener.join(timeout=10)
    names = [one["command"].split()[0].upper() for one in seen if one["client_type"] != "lua"]
    return [name for name in names if name not in ("AUTH", "CLIENT", "SELECT", "HELLO", "ECHO", "SCRIPT")]


def test_a_look_is_one_command_and_a_short_answer_at_any_size(queue: redis.Redis, services: Services) -> None:
    now_ms = int(time.time() * 1000)
    campaigns = [f"{number:08}-0000-4000-8000-000000000000" for number in range(20_000)]
    for start in range(0, len(campaigns), 10_000):
        queue.sadd(keys.OPEN_CAMPAIGNS, *campaigns[start : start + 10_000])
    fill(queue, keys.CONTROL, dict.fromkeys(campaigns[:10000], "cancelled:by an operator"))
    fill(queue, keys.PARKED_CAMPAIGNS, {campaign: json.dumps([now_ms, "w" * 5000]) for campaign in campaigns[:200]})
    for number in range(500):
        line = Process(f"host/worker-{number}", "1", number, 5, time.time()).as_json()
        queue.hset(keys.PROCESSES, f"host/worker-{number}", line)
        queue.zadd(keys.ALIVE, {f"p{number}": now_ms})
    window = keys.window(ACCOUNT, DAY.window_ms)
    for start in range(0, 300_000, 10_000):
        queue.rpush(window, *range(now_ms - 2 * DAY.window_ms + start, now_ms - 2 * DAY.window_ms + start + 10_000))
    queue.rpush(window, *range(now_ms - 70_000, now_ms))
    queue.hset(keys.counts(campaigns[-1]), mapping={"sent": 7, "failed": 2})
    queue.expire(keys.counts(campaigns[-1]), 1000)
    queue.rpush(keys.lane(campaigns[-2]), "waiting")
    queue.zadd(f"{keys.LANES}:normal", {campaigns[-2]: 1})
    queue.hset(keys.MESSAGES, "waiting", json.dumps({"args": ["x" * 10_000], "message_timestamp": now_ms - 90_000}))

    client = connect(Secret(services.redis_url))
    look = functools.partial(read_status, client, ACCOUNT, [DAY], "bull:mail-queue", ["host/worker-499"])
    look()  # The scripts are known then.
    assert watched(services, look) == ["EVALSHA", "EVALSHA"]
    assert slowest_ms(queue, look) < MOST_MS
    status = look()

    assert status.account.used == (70_000,)
    assert status.number_of_campaigns == 20_000
    assert {campaigns[-2]} <= {campaign.campaign_id for campaign in status.campaigns}
    assert [campaign.waiting for campaign in status.campaigns if campaign.waiting] == [1]
    assert 80 < (status.oldest_seconds or 0) < 120
    assert status.number_of_processes == status.working == 500
    assert "host/worker-499" in {process.name for process in status.processes}
    text = "\n".join(show(status))
    assert len(text) < MOST_ANSWERED_BYTES
    assert "limit      70000 of 1000000 mails in 1 d" in text
    for kind, shown, number in (
        ("campaign", len(status.campaigns), 20_000),
        ("process ", len(status.processes), 500),
    ):
        assert f"{kind}   and {number - shown} more" in text
    assert f"put aside  {200 - len(status.parked_campaigns)} campaigns more" in text


def test_the_answer_in_redis_is_bounded(queue: redis.Redis, services: Services) -> None:
    queue.sadd(keys.OPEN_CAMPAIGNS, *(f"{number}-" + "ä" * 190 for number in range(500)))
    for number in range(300):
        name = f"{'h' * 200}/worker-{number}"
        queue.hset(keys.PROCESSES, name, Process(name, "1", number, 5, time.time()).as_json())
    queue.hset(
        keys.account(ACCOUNT), mapping={"stopped": "€" * 10_000, "stopped_until": int(time.time() * 1000) + 9000}
    )
    queue.hset(keys.PARKED_CAMPAIGNS, "one", json.dumps([1, "€" * 5000]))
    queue.hset(keys.CONTROL, "one", "paused:" + "€" * 5000)
    client = connect(Secret(services.redis_url))
    before: Any = queue.info("stats")
    status = read_status(client, ACCOUNT, [DAY], "")
    after: Any = queue.info("stats")
    info_bytes = 10_000
    assert after["total_net_output_bytes"] - before["total_net_output_bytes"] < MOST_ANSWERED_BYTES + info_bytes
    assert status.number_of_campaigns == 501
    assert status.account.stopped


def test_a_brokers_user_for_workers_may_look(queue: redis.Redis, services: Services) -> None:
    commands = yaml.safe_load(BROKER.read_text(encoding="utf-8"))["redis_commands_of_clients"].split()
    queue.execute_command("ACL", "SETUSER", "looker", "on", ">secret", "~mail:*", "~dramatiq:*", "~bull:*", *commands)  # type: ignore[no-untyped-call]
    try:
        url = services.redis_url.replace(f"default:{services.redis_password}", "looker:secret")
        assert read_status(connect(Secret(url)), ACCOUNT, [DAY], "bull:mail-queue").waiting == 0
    finally:
        queue.execute_command("ACL", "DELUSER", "looker")  # type: ignore[no-untyped-call]


def test_a_redis_that_is_full_is_looked_at(queue: redis.Redis, services: Services) -> None:
    client = connect(Secret(services.redis_url))
    queue.config_set("maxmemory", 1)
    try:
        status = read_status(client, ACCOUNT, [DAY], "bull:mail-queue")
    finally:
        queue.config_set("maxmemory", 0)
    assert status.waiting == 0


async def test_it_tells_what_processes_send_and_what_their_scripts_run(
    process: MakeConsumer, queue: redis.Redis, services: Services
) -> None:
    one = process()
    list(enqueue(queue, iter([{"to": "a@example.org"}])))
    inside = sent = 0
    with redis.Redis.from_url(services.redis_url, socket_timeout=None) as client, client.monitor() as monitor:
        [(identity, _)] = (await one.fetch()).messages
        await one.messages.settle(Settlement("ack", identity))
        queue.echo("the end")
        for command in monitor.listen():
            if "the end" in command["command"]:
                break
            inside += command["client_type"] == "lua"
            sent += command["command"].startswith(("EVALSHA", "SCRIPT"))
    await one.beat()
    status = read_status(connect(Secret(services.redis_url)), ACCOUNT, [DAY], "")
    # Here one client stands for both of a process's.
    assert (status.commands, status.commands_inside) == (2 * sent, inside)
    lines = "\n".join(show(status))
    assert f"{2 * sent} commands this month: $0.00 at Upstash's price" in lines
    assert f"if it bills the {inside} that scripts ran" in lines
