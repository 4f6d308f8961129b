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

from worker.base.redis_client import encodable, explain
from worker.queue.bullmq import BullJob, BullQueue, JobSettlement
from worker.queue.gate import Gate
from worker.queue.message_queue import SORT_EVERY_SECONDS, MessageQueue, Settlement
from worker.queue.processes import Process

REDIS_AGAIN_SECONDS = 1.0
CANCEL_AGAIN_SECONDS = 1.0
_REMIND_AFTER_SECONDS = 300.0

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
class Rhythm:
    """When a process is taken for dead, in seconds of silence; it beats twice in that time."""

    dead_after_seconds: float

    @property
    def beat_seconds(self) -> float:
        return self.dead_after_seconds / 2


@dataclass(frozen=True, slots=True)
class Jobs:
    """BullMQ's queue, and what is done with one of its jobs: None means that the mail's result has finished it."""

    queue: BullQueue
    work: Callable[[BullJob], Awaitable[JobSettlement | None]]


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
        jobs: Jobs | None = None,
    ) -> None:
        """
        Args:
            gate: no message is fetched while it's closed.
            concurrency: messages at once; as many again are fetched in advance.
            describe: what the process tells about itself with each beat.
            jobs: BullMQ's queue, if there's one.
        """
        super().__init__(broker, worker_threads=concurrency)
        broker.add_middleware(_DelayedHere(self))
        self._queue = queue
        self._gate = gate
        self._rhythm = rhythm
        self._describe = describe
        self._jobs = jobs
        self._backlog: asyncio.Queue[MessageProxy | BullJob] = asyncio.Queue()
        self._in_hand: set[str] = set()
        self._jobs_in_hand: set[str] = set()
        self._unfinished = 0  # Of those in hand; the others are only being settled.
        self._room = asyncio.Event()
        self._unsorted = 0
        self._wait: asyncio.Task[bool] | None = None
        self._listens = False
        self._listening: asyncio.Task[None] | None = None
        self._settling: set[asyncio.Task[None]] = set()
        self._trouble = ""
        self._troubled_at = 0.0
        self._due_at: float | None = None
        self._due_changed = asyncio.Event()
        self._last_beat = 0.0
        self._first_mail_is_told = False
        self._beating_since: float | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def heard_of_delay(self, seconds: float) -> None:
        """This process has queued a message that is due in so many seconds; from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._next_due, seconds)

    async def run(self, stopping: asyncio.Event, stop_timeout_seconds: float) -> None:
        """Works until `stopping` is set; then finishes what it has begun within `stop_timeout_seconds`, and gives the
        rest back.

        Raises:
            Exception: something that nobody foresaw ended it; supervisord starts it again.
        """
        self._loop = asyncio.get_running_loop()
        self.broker.emit_before("worker_boot", self)
        self.broker.emit_after("worker_boot", self)
        beating = asyncio.create_task(self._beat_on())
        consuming = asyncio.create_task(self._consume(stopping))
        working = [asyncio.create_task(self._work(stopping)) for _ in range(self.worker_threads)]
        told = asyncio.create_task(stopping.wait())
        await asyncio.wait([told, consuming, beating], return_when=asyncio.FIRST_COMPLETED)
        failure = next((task.exception() for task in (consuming, beating) if task.done()), None)
        stopping.set()
        self.broker.emit_before("worker_shutdown", self)
        await cancel(told, consuming, *filter(None, [self._listening]))
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

    async def _consume(self, stopping: asyncio.Event) -> None:
        wanted = 2 * self.worker_threads
        lost = True
        while not stopping.is_set() and await self._gate.passed():
            # While the account lets nothing out, one job at a time asks: a job in hand is locked, and its app can't
            # remove it.
            probing = self._gate.probing
            if self._unfinished > wanted - max(1, self.worker_threads // 2) or (probing and self._jobs_in_hand):
                self._room.clear()
                await self._until_room()
                continue
            try:
                if lost:
                    # The answer to a fetch may have been lost together with the connection.
                    await self._queue.give_back_all_but(self._in_hand)
                    if self._jobs is not None:
                        await self._jobs.queue.give_back_all_but(self._jobs_in_hand)
                    lost = False
                fetched = await self._queue.fetch(wanted - self._unfinished, 1 if probing else wanted)
                self._unsorted = fetched.unsorted
                self._next_due(fetched.due_seconds)
                if fetched.alone:
                    await self._until_all_is_finished()
                for identity, data in fetched.messages:
                    self._accept(identity, data)
                for job in fetched.jobs:
                    self._jobs_in_hand.add(job.id)
                    self._unfinished += 1
                    self._backlog.put_nowait(job)
                if fetched.alone:
                    await self._until_all_is_finished()
                self._well()
                self._listen(fetched.listens)
                if not fetched.messages and not fetched.jobs and not fetched.unsorted:
                    await self._wait_for_work()
            except redis.RedisError as error:
                lost = True
                self._report(error)
                await asyncio.sleep(REDIS_AGAIN_SECONDS)

    async def _until_all_is_finished(self) -> None:
        while self._unfinished:
            self._room.clear()
            await self._room.wait()

    async def _until_room(self) -> None:
        while not self._room.is_set():
            try:
                async with asyncio.timeout(SORT_EVERY_SECONDS if self._unsorted else None):
                    await self._room.wait()
            except TimeoutError:
                try:
                    self._unsorted = await self._queue.sort()
                except redis.RedisError as error:
                    self._report(error)
                    return

    async def _wait_for_work(self) -> None:
        woken = False
        try:
            while not woken:  # What changes without a message is the beat's matter.
                self._wait = asyncio.create_task(self._queue.wait())
                self._due_changed.set()
                woken = await self._wait
        except asyncio.CancelledError:
            if self._wait is not None and not self._wait.cancelled():
                await cancel(self._wait)
                raise
            # The beat found that Redis doesn't answer on its own connection.
        finally:
            self._wait = None

    def _listen(self, listens: bool) -> None:
        self._listens = listens
        if listens and self._jobs is not None and (self._listening is None or self._listening.done()):
            self._listening = asyncio.create_task(self._listen_on(self._jobs.queue))

    async def _listen_on(self, queue: BullQueue) -> None:
        # For as long as it's this process's turn, busy or not: what it hears wakes whoever is idle.
        try:
            while self._listens:
                if (news := await queue.listen()) and news.due_at is not None:
                    self._next_due(news.due_at - time.time())
        except redis.RedisError as error:
            self._report(error)

    async def _beat_on(self) -> None:
        pause = 0.0
        while True:
            await self._until_next_beat(time.monotonic() + pause)
            try:
                await self._beat()
                pause = self._rhythm.beat_seconds
            except redis.RedisError as error:
                self._report(error)
                if isinstance(error, redis.TimeoutError) and self._wait is not None:
                    # The blocking pop's socket may have stalled as well, and would wait on.
                    self._wait.cancel()
                pause = REDIS_AGAIN_SECONDS

    async def _until_next_beat(self, at: float) -> None:
        # An idle process beats early when a delayed message is due: that brings it back. A busy one fetches anyway.
        while True:
            self._due_changed.clear()
            if not self._first_mail_is_told and self._describe().sent:
                # A deploy waits for this word.
                self._first_mail_is_told = True
                return
            early = self._due_at if self._wait is not None and self._due_at is not None else at
            seconds = min(early, at) - time.monotonic()
            try:
                async with asyncio.timeout(max(seconds, 0.0)):
                    await self._due_changed.wait()
            except TimeoutError:
                return

    async def _beat(self) -> None:
        now = time.monotonic()
        in_hand = self._in_hand or self._jobs_in_hand
        idle = self._wait is not None and not in_hand and self._gate.seconds == 0
        beat = await self._queue.beat(self._describe(), self._dead_after_ms(now), idle=idle)
        if self._beating_since is None or not beat.steady:
            self._beating_since = now
        self._last_beat = now
        self._next_due(beat.due_seconds)
        self._listen(beat.listens)
        self._well()
        if beat.dead:
            logger.warning("%d processes died; their mails are worked on again.", beat.dead)

    def _dead_after_ms(self, now: float) -> int | None:
        # After Redis was away everybody looks dead. Who judges must have beaten all the while that the others didn't.
        if self._beating_since is not None and now - self._last_beat > self._rhythm.dead_after_seconds:
            self._beating_since = None
        if self._beating_since is None or now - self._beating_since < self._rhythm.dead_after_seconds:
            return None
        return int(self._rhythm.dead_after_seconds * 1000)

    def _accept(self, identity: str, data: bytes) -> None:
        self._in_hand.add(identity)
        self._unfinished += 1
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
        self._unfinished -= 1
        self._room.set()
        if settlement is None:
            self._end_job(job)
            return
        if settlement.action == "delay":
            self._next_due(settlement.delay_seconds)
        task = asyncio.create_task(self._settle_job_surely(self._jobs.queue, job, settlement))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _settle_job_surely(self, queue: BullQueue, job: BullJob, settlement: JobSettlement) -> None:
        while True:
            try:
                await queue.settle(settlement)
                break
            except redis.RedisError as error:
                self._report(error)
                await asyncio.sleep(REDIS_AGAIN_SECONDS)
        self._end_job(job)

    def _end_job(self, job: BullJob) -> None:
        self._jobs_in_hand.discard(job.id)
        self._room.set()
        if not self._first_mail_is_told:
            self._due_changed.set()

    async def _process(self, message: MessageProxy) -> None:
        """One message through the actor and the middleware, in the order of Dramatiq's worker threads."""
        identity = message.options["redis_message_id"]
        settlement = Settlement("ack", identity)
        try:
            self.broker.emit_before("process_message", message)
            actor = self.broker.get_actor(message.actor_name)
            await _coroutine(actor)(*message.args, **message.kwargs)
            self.broker.emit_after("process_message", message, result=None)
        except Postpone as postponed:
            if isinstance(postponed.__cause__, redis.RedisError):
                self._report(postponed.__cause__)
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
        self._next_due(postponed.delay_ms / 1000)
        return Settlement(
            "postpone", message.options["redis_message_id"], (identity, again.encode(), postponed.delay_ms)
        )

    def _settle(self, settlement: Settlement, message: MessageProxy | None = None) -> None:
        """Settles in the background: the next mail doesn't wait for it."""
        self._unfinished -= 1
        self._room.set()
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
                self._report(error)
                await asyncio.sleep(REDIS_AGAIN_SECONDS)
        if message is not None and signal:
            self.broker.emit_after(signal, message)
        self._in_hand.discard(settlement.redis_message_id)
        if not self._first_mail_is_told:
            self._due_changed.set()

    def _next_due(self, seconds: float | None) -> None:
        # An earlier time that lies ahead stays: Redis doesn't know yet what this process has just postponed.
        now = time.monotonic()
        if self._due_at is not None and self._due_at <= now:
            self._due_at = None
        if seconds is not None and (self._due_at is None or now + seconds < self._due_at):
            self._due_at = now + seconds
            self._due_changed.set()

    def _report(self, error: redis.RedisError) -> None:
        sentence, now = explain(error), time.monotonic()
        if sentence != self._trouble or now - self._troubled_at > _REMIND_AFTER_SECONDS:
            logger.error("%s Nothing is lost; trying again.", sentence)
            self._trouble, self._troubled_at = sentence, now

    def _well(self) -> None:
        if self._trouble:
            logger.info("Redis answers again.")
            self._trouble = ""


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


async def cancel(*tasks: "asyncio.Task[Any]") -> None:
    """Cancels the tasks and waits for their ends, whatever these are. A task is told more than once: in Python 3.11,
    `asyncio.wait_for`, which redis-py and aiosmtplib use, loses a cancellation that comes as its future ends
    (https://github.com/python/cpython/issues/86296)."""
    unfinished = {task for task in tasks if not task.done()}
    while unfinished:
        for task in unfinished:
            task.cancel()
        _, unfinished = await asyncio.wait(unfinished, timeout=CANCEL_AGAIN_SECONDS)
    await asyncio.gather(*tasks, return_exceptions=True)
