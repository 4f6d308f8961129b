"""Read on the wire: no request to Redis grows with the jobs' size, for Upstash takes 10 MB on its smaller plans."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from testbed.services import Services
from testbed.tcp_proxy import Proxy
from worker.base import keys
from worker.base.redis_client import REQUEST_BYTES, connect, connect_async
from worker.base.settings import Secret
from worker.ledger.ledger import Entry, QueuedJob
from worker.ledger.uncertain import UncertainMails
from worker.queue.message_queue import MessageQueue, Settlement
from worker.queue.producer import CHUNK_JOBS, enqueue

#: Ids, command names and what the protocol puts around them.
AROUND = 200_000


@pytest.fixture
def proxy(services: Services) -> Iterator[Proxy]:
    proxy = Proxy(services.address, 6379)
    yield proxy
    proxy.stop()


def requests(stream: bytearray) -> Iterator[tuple[bytes, int]]:
    """Name and bytes of each command that a client sent; a transaction is one request, `EXEC`."""
    position = transaction = 0
    while position < len(stream):
        start, end = position, stream.index(b"\r\n", position)
        parts = []
        position = end + 2
        for _ in range(int(stream[start + 1 : end])):
            end = stream.index(b"\r\n", position)
            size = int(stream[position + 1 : end])
            parts.append(bytes(stream[end + 2 : end + 2 + min(size, 20)]))
            position = end + 4 + size
        name, size = parts[0].upper(), position - start
        if name == b"MULTI" or transaction:
            transaction += size
            if name != b"EXEC":
                continue
            size, transaction = transaction, 0
        yield name, size


def through(proxy: Proxy, services: Services) -> Secret:
    return Secret(services.redis_url.replace(f"{services.address}:6379", f"127.0.0.1:{proxy.port}"))


def largest(proxy: Proxy) -> int:
    return max(size for stream in proxy.sent for _, size in requests(stream))


def jobs(number: int, size: int) -> Iterator[dict[str, Any]]:
    return ({"to": "a@example.org", "html": "x" * size, "campaignId": "c", "subscriberId": i} for i in range(number))


@pytest.mark.parametrize(("number", "size"), [(CHUNK_JOBS, 30_000), (12, 1_000_000), (2, 4_500_000)])
async def test_a_request_holds_what_fits(
    queue: redis.Redis, services: Services, proxy: Proxy, number: int, size: int
) -> None:
    url = through(proxy, services)
    allowed = max(REQUEST_BYTES, size) + AROUND
    with connect(url) as client:
        assert list(enqueue(client, jobs(number, size)))[-1] == number
    assert queue.llen(keys.WAITING) == number
    assert size < largest(proxy) < allowed

    client, waiting = connect_async(url, 4), connect_async(url, 1)
    messages = MessageQueue(client, waiting, "p", "p", "account")
    fetched: list[tuple[str, bytes]] = []
    while len(fetched) < number:
        fetched += (await messages.fetch(number - len(fetched), 0)).messages
    # Each comes later, all of them at once, as after a greylisting.
    await asyncio.gather(
        *(messages.settle(Settlement("postpone", one, (f"{one}-again", data, 60_000))) for one, data in fetched)
    )
    await client.aclose()
    await waiting.aclose()
    assert queue.zcard(keys.DUE) == number
    assert size < largest(proxy) < allowed


def test_a_long_list_of_uncertain_mails_is_forgotten_in_parts(
    queue: redis.Redis, services: Services, proxy: Proxy
) -> None:
    mails = [Entry("c" * 200, f"{number:0200}", "") for number in range(10_000)]
    listed: Any = {mail.name: json.dumps([1, "", "resent"]) for mail in mails}
    queue.hset(keys.UNCERTAIN, mapping=listed)
    with connect(through(proxy, services)) as client:
        UncertainMails(client).forget_resent(60)
    assert queue.hlen(keys.UNCERTAIN) == 0
    assert largest(proxy) < REQUEST_BYTES


def test_a_servers_long_reply_isnt_kept_whole() -> None:
    returned = QueuedJob("1", "1", "<id@a.example>").returnvalue("250 " + "x" * 60_000)
    assert len(json.loads(returned)["response"]) == 1000
