"""Dramatiq's worker with one event loop instead of a thread for each message.

What stays Dramatiq's: the message format, the keys in Redis, actors, middleware and its signals, retries, delays, dead
letters. What is different: actors are coroutines, each message is a task, and messages are fetched and settled in
batches by message_queue.py. docs/architecture.md says why, tests/integration/test_dramatiq.py proves it."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import dramatiq
import redis
from dramatiq.broker import MessageProxy
from dramatiq.errors import ActorNotFound, DecodeError
from dramatiq.middleware import SkipMessage

from worker.base.redis_client import encodable
from worker.base.tasks import cancel
from worker.ledger.ledger import SINGLE_SECONDS
from worker.queue.beater import Beater, Rhythm
from worker.queue.bullmq import BullJob, BullQueue, JobSettlement
from worker.queue.consumer import Consumer
from worker.queue.gate import Gate
from worker.queue.hand import Hand
from worker.queue.message_queue import MessageQueue, Settlement
from worker.queue.processes import Process
from worker.queue.redis_trouble import RedisTrouble
from worker.queue.rehearsal import Build, Rehearsal

REDIS_AGAIN_SECONDS = 1.0

logger = logging.getLogger(__name__)


class Postpone(Exception):
    """Raised by an actor: bring the message back after `delay_ms`, with these options changed. Not a failure: nothing
    of Dramatiq's retries is spent, and in Redis the new message replaces the old one in one step. Raised from an error
    of Redis's, that is reported."""

    def __init__(self, delay_ms: int, options: dict[str, Any]) -> None:
        super().__init__(delay_ms)
        self.delay_ms = delay_ms
        self.options = options


class GiveBack(Exception):
    """Raised by an actor: the message goes back to the waiting ones, unchanged."""


class Park(Exception):
    """Raised by an actor: the message waits until this campaign, which is paused, is resumed."""

    def __init__(self, campaign_id: str) -> None:
        super().__init__(campaign_id)
        self.campaign_id = campaign_id


class Hold(Exception):
    """Raised by an actor: the message waits for an operator, under this name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass(frozen=True, slots=True)
class Jobs:
    """BullMQ's queue, and what is done with one of its jobs: None means that the mail's result has finished it. `build`
    builds its mail and throws it away."""

    queue: BullQueue
    work: Callable[[BullJob], Awaitable[JobSettlement | None]]
    build: Build


class MailWorker(dramatiq.Worker):
    """Consumes the queue until told to stop; `run` takes the place of `start`, `stop` and `join`."""

    def __init__(
        self,
        broker: dramatiq.Broker,
        queue: MessageQueue,
        gate: Gate,
        *,
        concurrency: int,
        rhythm: Rhythm,
        describe: Callable[[], Process],
        build: Build,
        jobs: Jobs | None = None,
    ) -> None:
        """
        Args:
            gate: no message is fetched while it's closed.
            concurrency: messages at once; as many again are fetched in advance.
            describe: what the process tells about itself with each beat.
            build: builds a message's mail and throws it away.
            jobs: BullMQ's queue, if there's one.
        """
        super().__init__(broker, worker_threads=concurrency)
        broker.add_middleware(_DelayedHere(self))
        self._queue = queue
        self._jobs = jobs
        self._backlog: asyncio.Queue[MessageProxy | BullJob] = asyncio.Queue()
        self._settling: set[asyncio.Task[None]] = set()
        self._hand = Hand()
        self._trouble = RedisTrouble()
        bull_queue = None if jobs is None else jobs.queue
        rehearsal = Rehearsal(queue, build, build if jobs is None else jobs.build)
        accept_job = self._backlog.put_nowait
        self._consumer = Consumer(
            queue, bull_queue, rehearsal, self._hand, gate, self._trouble, concurrency, self._accept, accept_job
        )
        self._beater = Beater(queue, self._hand, gate, self._trouble, rhythm, describe, self._listen)
        self._loop: asyncio.AbstractEventLoop | None = None

    def heard_of_delay(self, seconds: float) -> None:
        """This process has queued a message that is due in so many seconds; from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._beater.next_due, seconds)

    async def run(self, stopping: asyncio.Event, stop_timeout_seconds: float) -> None:
        """Works until `stopping` is set; then finishes what it has begun within `stop_timeout_seconds`, and gives the
        rest back.

        Raises:
            Exception: something that nobody foresaw ended it; supervisord starts it again.
        """
        self._loop = asyncio.get_running_loop()
        self.broker.emit_before("worker_boot", self)
        self.broker.emit_after("worker_boot", self)
        beating = asyncio.create_task(self._beater.run())
        consuming = asyncio.create_task(self._consumer.run(stopping, self._beater))
        working = [asyncio.create_task(self._work(stopping)) for _ in range(self.worker_threads)]
        told = asyncio.create_task(stopping.wait())
        await asyncio.wait([told, consuming, beating], return_when=asyncio.FIRST_COMPLETED)
        failure = next((task.exception() for task in (consuming, beating) if task.done()), None)
        stopping.set()
        self.broker.emit_before("worker_shutdown", self)
        await cancel(told, consuming)
        await self._consumer.stop()
        for _ in working:
            self._backlog.put_nowait(_END)
        _, unfinished = await asyncio.wait(working, timeout=stop_timeout_seconds)
        if unfinished:
            logger.warning("%d mails weren't finished in time and may be sent again.", len(unfinished))
        await cancel(*unfinished)
        await self._leave()
        await cancel(beating)
        self.broker.emit_after("worker_shutdown", self)
        if failure is not None:
            raise failure

    def _listen(self, listens: bool) -> None:
        self._consumer.listen(listens, self._beater)

    async def _leave(self) -> None:
        try:
            if self._settling:
                await asyncio.wait(self._settling, timeout=REDIS_AGAIN_SECONDS * 5)
            async with asyncio.timeout(REDIS_AGAIN_SECONDS * 5):
                if self._jobs is not None:
                    await self._jobs.queue.leave()
                await self._queue.leave()
        except (redis.RedisError, TimeoutError):
            logger.warning("Redis is away: what this process held comes back when it's taken for dead.")

    def _accept(self, identity: str, data: bytes) -> None:
        try:
            message = MessageProxy(dramatiq.Message.decode(data))
        except DecodeError as error:
            reason = encodable(f"not a message: {error.__cause__}")
            logger.error("A queued message is %s. It went to the dead letters.", reason)
            self._settle(Settlement("nack", identity, (reason,)))
            return
        # A doubled id in the options is the producer's matter; Redis's own is the one to settle.
        message.options["redis_message_id"] = identity
        if message.options.pop("eta", None) is not None:
            message = MessageProxy(message.copy(queue_name=message.queue_name.removesuffix(".DQ")))
        self._backlog.put_nowait(message)

    async def _work(self, stopping: asyncio.Event) -> None:
        while True:
            message = await self._backlog.get()
            if message is _END or stopping.is_set():
                return
            if isinstance(message, BullJob):
                await self._process_job(message)
            else:
                await self._process(message)

    async def _process_job(self, job: BullJob) -> None:
        if self._jobs is None:
            raise RuntimeError("a job without a queue")
        settlement = await self._jobs.work(job)
        self._hand.finished_job(job.id)
        if settlement is None:
            self._end_job(job)
            return
        if settlement.action == "delay":
            self._beater.next_due(settlement.delay_seconds)
        task = asyncio.create_task(self._settle_job_surely(self._jobs.queue, job, settlement))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _settle_job_surely(self, queue: BullQueue, job: BullJob, settlement: JobSettlement) -> None:
        while True:
            try:
                await queue.settle(settlement)
                break
            except redis.RedisError as error:
                self._trouble.report(error)
                await asyncio.sleep(REDIS_AGAIN_SECONDS)
        self._end_job(job)

    def _end_job(self, job: BullJob) -> None:
        self._hand.jobs.discard(job.id)
        self._hand.room.set()
        self._beater.settled()

    async def _process(self, message: MessageProxy) -> None:
        """One message through the actor and the middleware, in the order of Dramatiq's worker threads. An actor returns
        the key of a ledger that may end soon after the message, or None."""
        identity = message.options["redis_message_id"]
        settlement = Settlement("ack", identity)
        try:
            self.broker.emit_before("process_message", message)
            actor = self.broker.get_actor(message.actor_name)
            if single := await _coroutine(actor)(*message.args, **message.kwargs):
                settlement = Settlement("ack", identity, (single, SINGLE_SECONDS))
            self.broker.emit_after("process_message", message, result=None)
        except Postpone as postponed:
            if isinstance(postponed.__cause__, redis.RedisError):
                self._trouble.report(postponed.__cause__)
            settlement = self._postponement(message, postponed)
            self.broker.emit_after("process_message", message, result=None)
        except GiveBack:
            settlement = Settlement("requeue", identity)
            self.broker.emit_after("process_message", message, result=None)
        except Park as parked:
            settlement = Settlement("park", identity, (parked.campaign_id,))
            self.broker.emit_after("process_message", message, result=None)
        except Hold as held:
            settlement = Settlement("hold", identity, (held.name,))
            self.broker.emit_after("process_message", message, result=None)
        except SkipMessage:
            self.broker.emit_after("skip_message", message)
        except asyncio.CancelledError:
            # Out of time: the message stays fetched, and comes back when this process leaves.
            raise
        except ActorNotFound:
            known = ", ".join(sorted(self.broker.get_declared_actors()))
            settlement = self._dead(message, f"its actor_name is {message.actor_name!r}, but only {known} is known")
        except Exception as error:
            settlement = await self._failed(message, error)
        self._settle(settlement, message)

    async def _failed(self, message: MessageProxy, error: Exception) -> Settlement:
        message.stuff_exception(error)
        actor = self.broker.get_actor(message.actor_name)
        if not isinstance(error, actor.options.get("throws") or ()):
            # The message itself stays out of the log: it holds an address and a mail.
            logger.error("message %s: unexpected error", message.message_id, exc_info=error)
        # Dramatiq's retries write to Redis, and wait until it's there.
        await asyncio.to_thread(self.broker.emit_after, "process_message", message, exception=error)
        message.clear_exception()
        if message.failed:
            expected = isinstance(error, actor.options.get("throws") or ())
            return self._dead(message, str(error) if expected else f"unexpected error: {error!r}")
        return Settlement("ack", message.options["redis_message_id"])

    def _dead(self, message: MessageProxy, reason: str) -> Settlement:
        reason = encodable(reason)
        message.fail()
        logger.error("message %s went to the dead letters: %s", message.message_id, reason)
        return Settlement("nack", message.options["redis_message_id"], (reason,))

    def _postponement(self, message: MessageProxy, postponed: Postpone) -> Settlement:
        identity = str(uuid4())
        due_ms = int(time.time() * 1000) + postponed.delay_ms
        options = {**message.options, **postponed.options, "redis_message_id": identity, "eta": due_ms}
        again = message.copy(queue_name=f"{message.queue_name}.DQ", options=options)
        self._beater.next_due(postponed.delay_ms / 1000)
        return Settlement(
            "postpone", message.options["redis_message_id"], (identity, again.encode(), postponed.delay_ms)
        )

    def _settle(self, settlement: Settlement, message: MessageProxy | None = None) -> None:
        """Settles in the background: the next mail doesn't wait for it."""
        self._hand.finished_message(settlement.redis_message_id)
        task = asyncio.create_task(self._settle_surely(settlement, message))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _settle_surely(self, settlement: Settlement, message: MessageProxy | None) -> None:
        signal = {"ack": "ack", "nack": "nack"}.get(settlement.action)
        if message is not None and signal:
            self.broker.emit_before(signal, message)
        while True:
            try:
                await self._queue.settle(settlement)
                break
            except redis.RedisError as error:
                self._trouble.report(error)
                await asyncio.sleep(REDIS_AGAIN_SECONDS)
        if message is not None and signal:
            self.broker.emit_after(signal, message)
        self._hand.messages.discard(settlement.redis_message_id)
        self._beater.settled()


class _DelayedHere(dramatiq.Middleware):
    """Dramatiq's retries delay messages: the process that did it knows when to look, without asking Redis."""

    def __init__(self, worker: MailWorker) -> None:
        self._worker = worker

    def after_enqueue(self, broker: dramatiq.Broker, message: dramatiq.Message[Any], delay: int | None) -> None:
        if delay is not None:
            self._worker.heard_of_delay(delay / 1000)


_END: Any = object()


def _coroutine(actor: "dramatiq.Actor[Any, Any]") -> Callable[..., Awaitable[Any]]:
    # Dramatiq wraps a coroutine function, to run it from a thread.
    coroutine: Callable[..., Awaitable[Any]] = actor.fn.__wrapped__  # type: ignore[attr-defined]
    return coroutine
