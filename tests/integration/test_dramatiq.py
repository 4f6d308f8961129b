"""What Dramatiq's documentation promises of acknowledgements, retries, delays, middleware, shutdown and dead letters
holds for the worker that runs its messages as tasks (worker/queue/runner.py)."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Retries, SkipMessage

from testbed.services import Services
from worker.base import keys
from worker.base.redis_client import connect, connect_async
from worker.base.settings import Secret
from worker.queue.beater import Rhythm
from worker.queue.broker import DeadLetter, MailBroker
from worker.queue.control import Control
from worker.queue.gate import Gate
from worker.queue.message_queue import MessageQueue
from worker.queue.processes import Process
from worker.queue.runner import GiveBack, Hold, MailWorker, Park, Postpone

PATIENCE_SECONDS = 20.0

Function = Callable[..., Awaitable[None]]


class Fleet:
    """Starts workers in this process, each with a connection and a name of its own."""

    def __init__(self, services: Services, queue: "redis.Redis") -> None:
        self.url = Secret(services.redis_url)
        self.redis = queue
        self.broker = MailBroker(connect(self.url))

    def actor(self, function: Function, **options: Any) -> Any:
        """Declares an actor on the mails' queue."""
        return dramatiq.actor(queue_name=keys.QUEUE, broker=self.broker, **options)(function)

    @asynccontextmanager
    async def worker(
        self, name: str = "w", *, concurrency: int = 4, dead_after_seconds: float = 30.0, stop_seconds: float = 10.0
    ) -> AsyncIterator[asyncio.Event]:
        """A running worker; it stops, and leaves in order, when the block ends or the event is set."""
        client, waiting = connect_async(self.url, 4), connect_async(self.url, 1, socket_timeout_seconds=70)
        stopping = asyncio.Event()
        worker = MailWorker(
            self.broker,
            MessageQueue(client, waiting, name, name, "account"),
            Gate(stopping),
            concurrency=concurrency,
            rhythm=Rhythm(dead_after_seconds),
            describe=lambda: Process(name, "1", 1, concurrency, time.time()),
            build=lambda raw: None,
        )
        running = asyncio.create_task(worker.run(stopping, stop_seconds))
        try:
            yield stopping
        finally:
            stopping.set()
            await running
            await client.aclose()
            await waiting.aclose()

    async def until(self, condition: Callable[[], Any]) -> None:
        """Waits until `condition` holds, or fails the test."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)

    def left(self) -> int:
        """Messages that aren't settled."""
        waiting: Any = self.redis.hlen(keys.MESSAGES)
        delayed: Any = self.redis.hlen(keys.DELAYED_MESSAGES)
        return int(waiting) + int(delayed)

    def dead(self) -> dict[str, str]:
        """Reasons of the dead letters by the message's own id."""
        found = {}
        stored: Any = self.redis.hgetall(keys.DEAD_LETTER_MESSAGES)
        for identity, data in stored.items():
            reason: Any = self.redis.get(keys.dead_letter_reason(identity.decode()))
            found[json.loads(data)["message_id"]] = reason.decode()
        return found


@pytest.fixture
def fleet(services: Services, queue: "redis.Redis") -> Fleet:
    return Fleet(services, queue)


async def test_a_message_is_acknowledged_after_its_actor_not_before(fleet: Fleet) -> None:
    go = asyncio.Event()
    seen: list[int] = []

    async def work(number: int) -> None:
        seen.append(number)
        await go.wait()

    actor = fleet.actor(work)
    async with fleet.worker():
        actor.send(1)
        await fleet.until(lambda: seen == [1])
        assert fleet.left() == 1
        go.set()
        await fleet.until(lambda: fleet.left() == 0)
    assert seen == [1]


async def test_an_idle_worker_starts_a_new_message_at_once(fleet: Fleet) -> None:
    begun: list[float] = []

    async def work() -> None:
        begun.append(time.monotonic())

    actor = fleet.actor(work)
    async with fleet.worker():
        await asyncio.sleep(0.5)
        sent = time.monotonic()
        actor.send()
        await fleet.until(lambda: begun)
    assert begun[0] - sent < PATIENCE_SECONDS / 4


async def test_an_error_is_retried_by_dramatiqs_middleware(fleet: Fleet) -> None:
    tries: list[int] = []

    async def work() -> None:
        message: Any = dramatiq.middleware.CurrentMessage.get_current_message()
        tries.append(message.options.get("retries", 0))
        if len(tries) < 3:
            raise RuntimeError("not yet")

    actor = fleet.actor(work, min_backoff=50, max_retries=5)
    async with fleet.worker():
        actor.send()
        await fleet.until(lambda: len(tries) == 3 and fleet.left() == 0)
    assert tries == [0, 1, 2]
    assert fleet.dead() == {}


async def test_who_has_no_retries_left_goes_to_the_dead_letters(fleet: Fleet) -> None:
    async def work() -> None:
        raise RuntimeError("never")

    actor = fleet.actor(work, max_retries=1, min_backoff=20)
    async with fleet.worker():
        message = actor.send()
        await fleet.until(lambda: fleet.dead() and fleet.left() == 0)
    assert fleet.dead() == {message.message_id: "unexpected error: RuntimeError('never')"}


async def test_what_an_actor_throws_on_purpose_isnt_retried(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    tries: list[int] = []

    async def work() -> None:
        tries.append(1)
        raise DeadLetter("no good")

    actor = fleet.actor(work, throws=DeadLetter)
    async with fleet.worker():
        message = actor.send()
        await fleet.until(lambda: fleet.dead())
    assert fleet.dead() == {message.message_id: "no good"}
    assert tries == [1]
    assert "Traceback" not in caplog.text


async def test_an_unknown_actor_goes_to_the_dead_letters(fleet: Fleet) -> None:
    async def known() -> None: ...

    actor = fleet.actor(known)
    fleet.broker.enqueue(actor.message().copy(actor_name="stranger"))
    async with fleet.worker():
        await fleet.until(lambda: fleet.dead())
    assert list(fleet.dead().values()) == ["its actor_name is 'stranger', but only known is known"]


async def test_a_delayed_message_comes_when_it_is_due(fleet: Fleet) -> None:
    begun: list[float] = []

    async def work() -> None:
        message: Any = dramatiq.middleware.CurrentMessage.get_current_message()
        assert "eta" not in message.options
        assert message.queue_name == keys.QUEUE
        begun.append(time.monotonic())

    actor = fleet.actor(work)
    sent = time.monotonic()
    actor.send_with_options(delay=700)
    async with fleet.worker():
        await fleet.until(lambda: begun and fleet.left() == 0)
    assert begun[0] - sent >= 0.69


async def test_a_postponed_message_keeps_its_id_and_spends_no_retry(fleet: Fleet) -> None:
    seen: list[tuple[str, int]] = []

    async def work() -> None:
        message: Any = dramatiq.middleware.CurrentMessage.get_current_message()
        seen.append((message.message_id, message.options.get("attempts", 0)))
        assert "retries" not in message.options
        if len(seen) < 3:
            raise Postpone(100, {"attempts": len(seen)})

    actor = fleet.actor(work)
    async with fleet.worker():
        message = actor.send()
        await fleet.until(lambda: len(seen) == 3 and fleet.left() == 0)
    assert seen == [(message.message_id, 0), (message.message_id, 1), (message.message_id, 2)]


async def test_a_held_message_waits_outside_the_queue(fleet: Fleet) -> None:
    async def work() -> None:
        raise Hold("name")

    actor = fleet.actor(work)
    fleet.redis.hset(keys.UNCERTAIN, "name", json.dumps([0, "lost", "held"]))
    async with fleet.worker():
        actor.send()
        await fleet.until(lambda: fleet.redis.hexists(keys.HELD_MESSAGES, "name"))
    assert fleet.left() == 0


async def test_middleware_hears_the_signals_in_dramatiqs_order(fleet: Fleet) -> None:
    heard: list[str] = []

    class Listener(dramatiq.Middleware):
        def before_worker_boot(self, broker: Any, worker: Any) -> None:
            heard.append("before boot")

        def after_worker_boot(self, broker: Any, worker: Any) -> None:
            heard.append("after boot")

        def before_process_message(self, broker: Any, message: Any) -> None:
            heard.append("before process")

        def after_process_message(
            self, broker: Any, message: Any, *, result: Any = None, exception: BaseException | None = None
        ) -> None:
            heard.append(f"after process {exception!r}")

        def before_ack(self, broker: Any, message: Any) -> None:
            heard.append("before ack")

        def after_ack(self, broker: Any, message: Any) -> None:
            heard.append("after ack")

        def before_nack(self, broker: Any, message: Any) -> None:
            heard.append("before nack")

        def after_nack(self, broker: Any, message: Any) -> None:
            heard.append("after nack")

        def before_worker_shutdown(self, broker: Any, worker: Any) -> None:
            heard.append("before shutdown")

        def after_worker_shutdown(self, broker: Any, worker: Any) -> None:
            heard.append("after shutdown")

    async def work(fails: bool) -> None:
        heard.append("work")
        if fails:
            raise DeadLetter("no")

    fleet.broker.add_middleware(Listener())
    actor = fleet.actor(work, throws=DeadLetter)
    async with fleet.worker(concurrency=1):
        actor.send(False)
        await fleet.until(lambda: fleet.left() == 0)
        actor.send(True)
        await fleet.until(lambda: "after nack" in heard)
    assert heard == [
        "before boot",
        "after boot",
        "before process",
        "work",
        "after process None",
        "before ack",
        "after ack",
        "before process",
        "work",
        "after process DeadLetter('no')",
        "before nack",
        "after nack",
        "before shutdown",
        "after shutdown",
    ]


async def test_middleware_may_skip_a_message(fleet: Fleet) -> None:
    skipped: list[str] = []

    class Skipper(dramatiq.Middleware):
        def before_process_message(self, broker: Any, message: Any) -> None:
            raise SkipMessage

        def after_skip_message(self, broker: Any, message: Any) -> None:
            skipped.append(message.message_id)

    async def work() -> None:
        raise AssertionError("it was to be skipped")

    fleet.broker.add_middleware(Skipper(), before=Retries)
    actor = fleet.actor(work)
    async with fleet.worker():
        message = actor.send()
        await fleet.until(lambda: fleet.left() == 0)
    assert skipped == [message.message_id]
    assert fleet.dead() == {}


async def test_a_stop_finishes_what_runs_and_gives_back_the_rest(fleet: Fleet) -> None:
    begun: list[int] = []
    ended: list[int] = []

    async def work(number: int) -> None:
        begun.append(number)
        await asyncio.sleep(0.3)
        ended.append(number)

    actor = fleet.actor(work)
    for number in range(20):
        actor.send(number)
    async with fleet.worker(concurrency=2):
        await fleet.until(lambda: begun)
    assert ended == begun
    assert fleet.left() == 20 - len(ended)
    assert fleet.redis.keys("dramatiq:__acks__*") == []
    async with fleet.worker("second", concurrency=20):
        await fleet.until(lambda: fleet.left() == 0)
    assert sorted(ended) == list(range(20))


async def test_a_stop_waits_no_longer_than_it_may(fleet: Fleet) -> None:
    begun: list[int] = []

    async def work() -> None:
        begun.append(1)
        if len(begun) == 1:
            await asyncio.sleep(60)

    actor = fleet.actor(work)
    actor.send()
    async with fleet.worker(stop_seconds=0.2):
        await fleet.until(lambda: begun)
    assert fleet.left() == 1
    async with fleet.worker("second"):
        await fleet.until(lambda: fleet.left() == 0)
    assert begun == [1, 1]


async def test_a_dead_processs_messages_come_back(fleet: Fleet) -> None:
    done: list[int] = []

    async def work(number: int) -> None:
        done.append(number)

    actor = fleet.actor(work)
    for number in range(5):
        actor.send(number)
    # Another process has fetched three of them, was woken by one, and was heard of last a while ago.
    fetched: Any = fleet.redis.lpop(keys.WAITING, 3)
    fleet.redis.sadd(keys.fetched("dead"), *fetched)
    fleet.redis.blmove(keys.WAITING, keys.WOKEN, 1)
    now_ms = time.time() * 1000
    fleet.redis.zadd(keys.ALIVE, {"dead": now_ms})
    async with fleet.worker(dead_after_seconds=2.0):
        await fleet.until(lambda: len(done) == 5)
    assert sorted(done) == list(range(5))
    assert fleet.redis.zscore(keys.ALIVE, "dead") is None
    assert fleet.redis.exists(keys.fetched("dead"), keys.WOKEN) == 0


async def test_connections_of_the_forgotten_take_no_messages_with_them(fleet: Fleet) -> None:
    done: list[int] = []

    async def work(number: int) -> None:
        done.append(number)

    actor = fleet.actor(work)
    # As after a power cut: Redis heard of no end, and the processes themselves may be forgotten by now.
    pool = redis.ConnectionPool.from_url(fleet.url, client_name="forgotten")
    connections = [pool.get_connection() for _ in range(2)]
    for connection in connections:
        connection.send_command("BLMOVE", keys.WAITING, keys.WOKEN, "LEFT", "RIGHT", 60)  # type: ignore[no-untyped-call]

    def waiting() -> int:
        clients: Any = fleet.redis.client_list()
        return sum(client["name"] == "forgotten" and "b" in client["flags"] for client in clients)

    await fleet.until(lambda: waiting() == 2)
    async with fleet.worker(dead_after_seconds=2.0):
        await asyncio.sleep(0.5)
        for number in range(2):
            actor.send(number)
        assert waiting() == 0
        await fleet.until(lambda: fleet.left() == 0)
    assert sorted(done) == [0, 1]
    pool.disconnect()


async def test_a_message_that_was_taken_away_isnt_acknowledged_by_its_old_owner(fleet: Fleet) -> None:
    go, begun = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await go.wait()

    actor = fleet.actor(work)
    async with fleet.worker():
        actor.send()
        await begun.wait()
        # Taken for dead, for example after the host was suspended.
        fleet.redis.delete(keys.fetched("w"))
        go.set()
        await asyncio.sleep(0.3)
        assert fleet.left() == 1


async def test_messages_are_taken_from_campaigns_in_turn(fleet: Fleet) -> None:
    order: list[str] = []

    async def work(job: dict[str, str]) -> None:
        order.append(job.get("campaignId", ""))

    actor = fleet.actor(work)
    for campaign, number in (("big", 12), ("small", 4)):
        for _ in range(number):
            actor.send({"campaignId": campaign})
    actor.send({})
    async with fleet.worker(concurrency=1):
        await fleet.until(lambda: len(order) == 17)
    # What belongs to no campaign comes first; then both take turns until the small one is done.
    assert order[0] == ""
    assert set(order[1:9:2]) != set(order[2:10:2])
    assert order[1:9].count("small") == 4


async def test_an_id_that_isnt_text_harms_nobody(fleet: Fleet) -> None:
    seen: list[int] = []

    async def work(number: int) -> None:
        seen.append(number)

    actor = fleet.actor(work)
    fleet.redis.hset(keys.MESSAGES, b"\xff id", actor.message(1).encode())
    fleet.redis.rpush(keys.WAITING, b"\xff id", b"\xfe nothing behind it")
    actor.send(2)
    async with fleet.worker():
        await fleet.until(lambda: fleet.left() == 0)
    assert sorted(seen) == [1, 2]


async def test_a_worker_that_cannot_go_on_ends(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("nobody foresaw this")

    monkeypatch.setattr(MessageQueue, "fetch", broken)
    with pytest.raises(RuntimeError, match="nobody foresaw this"):
        async with fleet.worker() as stopping:
            await stopping.wait()


async def test_a_message_given_back_comes_again(fleet: Fleet) -> None:
    seen: list[int] = []

    async def work() -> None:
        seen.append(1)
        if len(seen) == 1:
            raise GiveBack

    actor = fleet.actor(work)
    async with fleet.worker():
        actor.send()
        await fleet.until(lambda: len(seen) == 2 and fleet.left() == 0)


async def test_a_parked_message_waits_for_its_campaign_wherever_it_was_taken(fleet: Fleet) -> None:
    # A job that Lua reads otherwise than Python does: in the lane of a campaign that isn't paused.
    control = Control(fleet.redis, "")
    assert control.pause("c-9")
    tries: list[int] = []

    async def work(number: int) -> None:
        tries.append(number)
        if fleet.redis.hexists(keys.CONTROL, "c-9"):
            raise Park("c-9")

    actor = fleet.actor(work)
    async with fleet.worker():
        actor.send(1)
        await fleet.until(lambda: fleet.redis.llen(keys.lane("c-9")) == 1)
        actor.send(2)
        await fleet.until(lambda: fleet.redis.llen(keys.lane("c-9")) == 2)
        await asyncio.sleep(1.0)
        assert tries == [1, 2]
        assert control.resume("c-9") == "paused"
        await fleet.until(lambda: fleet.left() == 0)
    assert sorted(tries) == [1, 1, 2, 2]


async def test_a_message_whose_campaign_was_resumed_meanwhile_is_not_parked(fleet: Fleet) -> None:
    tries: list[int] = []

    async def work() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise Park("c-9")

    actor = fleet.actor(work)
    async with fleet.worker():
        actor.send()
        await fleet.until(lambda: len(tries) == 2 and fleet.left() == 0)


@pytest.mark.parametrize("delayed", [False, True], ids=["waiting", "retries that fall due"])
async def test_a_mail_of_no_campaign_goes_before_thousands(fleet: Fleet, delayed: bool) -> None:
    begun: list[str] = []

    async def work(job: dict[str, str]) -> None:
        begun.append(job.get("campaignId", "password"))
        await asyncio.sleep(0.1)

    actor = fleet.actor(work)
    job = {"campaignId": "c-1", "html": "x" * 10_000}
    messages = [actor.message(job) for _ in range(10_000)]
    with fleet.redis.pipeline(transaction=False) as pipeline:
        for message in messages:
            identity = message.message_id
            message = message.copy(options={"redis_message_id": identity, **({"eta": 1} if delayed else {})})
            pipeline.hset(keys.DELAYED_MESSAGES if delayed else keys.MESSAGES, identity, message.encode())
            if delayed:
                pipeline.zadd(keys.DUE, {identity: 1})
            else:
                pipeline.rpush(keys.WAITING, identity)
        pipeline.execute()
    async with fleet.worker(concurrency=2, stop_seconds=1.0):
        await fleet.until(lambda: len(begun) >= 4)
        actor.send({"html": "x"})
        before = len(begun)
        await fleet.until(lambda: "password" in begun)
    # Of some hundred in which a new fetch has room, and not of thousands.
    assert begun.index("password") - before < 60


async def test_a_fetch_that_arrives_late_takes_nothing(fleet: Fleet) -> None:
    async def work() -> None: ...

    actor = fleet.actor(work)
    client = connect_async(fleet.url, 2)
    messages = MessageQueue(client, client, "p", "p", "account")
    assert (await messages.fetch(1, 0)).messages == []
    its_keys = [*keys.QUEUE_KEYS, keys.fetched("p"), keys.WOKEN, *keys.bullmq_keys("")]
    await messages.give_back_all_but(set())  # Its answer was lost, or so it seems.
    for _ in range(10):
        actor.send()
    assert await messages._fetch(keys=its_keys, args=["p", 10, 1_000_000, 10, 0, "p", 1000, 0]) is None
    assert fleet.redis.exists(keys.fetched("p")) == 0
    assert len((await messages.fetch(10, 0)).messages) == 10
    # As when the answer to raising the fence got lost.
    fleet.redis.hset(keys.FENCES, "p", "17")
    assert (await messages.fetch(10, 0)).messages == []
    await messages.leave()
    assert not fleet.redis.hexists(keys.FENCES, "p")
    assert fleet.left() == 10
    await client.aclose()


async def test_a_plain_producer_whose_clock_is_ahead_doubles_nothing(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    go = asyncio.Event()

    async def work(number: int) -> None:
        begun.append(number)
        await go.wait()

    actor = fleet.actor(work)
    async with fleet.worker(concurrency=2), fleet.worker("other", concurrency=2):
        for number in range(8):
            actor.send(number)
        await fleet.until(lambda: len(begun) == 4)
        monkeypatch.setattr("dramatiq.brokers.redis.current_millis", lambda: int(time.time() * 1000) + 3_600_000)
        plain: Any = RedisBroker(  # type: ignore[no-untyped-call]
            client=fleet.redis, maintenance_chance=1_000_000, heartbeat_timeout=1000
        )
        plain.declare_queue(keys.QUEUE)
        for _ in range(3):
            plain.enqueue(actor.message(9))
        await asyncio.sleep(1.0)
        go.set()
        await fleet.until(lambda: fleet.left() == 0)
    assert sorted(begun) == [*range(8), 9, 9, 9]
