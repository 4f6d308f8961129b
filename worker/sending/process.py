"""A worker process (`mail-worker run`): puts the parts together, and takes them apart in the right order."""

import asyncio
import contextlib
import logging
import signal
from uuid import uuid4

import redis
import uvloop

from worker.base.allocator import give_memory_back
from worker.base.fence import Fence
from worker.base.redis_client import CountingRedis, connect, connect_async, explain
from worker.base.settings import Settings
from worker.base.tasks import cancel
from worker.ledger.ledger import LedgerOptions, RedisLedger
from worker.queue.beater import Rhythm
from worker.queue.broker import MailBroker
from worker.queue.bullmq import LISTEN_SECONDS, BullQueue, worker_client_name
from worker.queue.bullmq_options import Keep
from worker.queue.control import AsyncControl
from worker.queue.events import add_event
from worker.queue.gate import Gate
from worker.queue.message_queue import WAIT_SECONDS, MessageQueue
from worker.queue.processes import Process, forget, process_name, running_version
from worker.queue.runner import Jobs, MailWorker
from worker.queue.templates import Templates
from worker.sending.account import Account
from worker.sending.actors import declare_actors
from worker.sending.attachment_files import AttachmentFiles
from worker.sending.bullmq_jobs import BullJobs
from worker.sending.checking import Checker
from worker.sending.delivery import Delivery, Options
from worker.sending.memory import watch_memory
from worker.sending.sent_rows import SupabaseSentRows
from worker.sending.transports.choice import destination, make_account, make_transport

REDIS_AGAIN_SECONDS = 2.0
#: The scripts of queue, ledger and account go side by side; each of them gathers its own calls.
CONNECTIONS = 4

logger = logging.getLogger(__name__)


def run_worker(settings: Settings) -> None:
    """Sends mails until SIGTERM or SIGINT, then finishes those that it has begun and gives the others back."""
    give_memory_back()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(settings))


async def _run(settings: Settings) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        # Further signals change nothing: a nervous operator's second Ctrl-C cuts no mail off.
        loop.add_signal_handler(number, stopping.set)
    client = connect_async(settings.redis_url, CONNECTIONS)
    process, name = uuid4().hex, process_name(settings.host_name, "worker")
    waiting_client = connect_async(
        settings.redis_url,
        1,
        socket_timeout_seconds=WAIT_SECONDS + 10,
        shown_as=worker_client_name(settings.bullmq, name),
    )
    account = make_account(settings, client, process)
    if not await _started(account, stopping):
        return
    gate = Gate(stopping)
    transport = make_transport(settings, account)
    fence = Fence(client, process)
    ledger = RedisLedger(
        client,
        process,
        settings.account_name,
        LedgerOptions(
            limits=settings.mail_rate,
            hold_uncertain=settings.hold_uncertain,
            idempotent_seconds=transport.idempotent_seconds,
            pause_above_percent=settings.pause_above_percent,
            bullmq=settings.bullmq,
        ),
        fence,
    )
    control = AsyncControl(client)
    delivery = Delivery(
        transport,
        ledger,
        account,
        gate,
        control,
        process,
        Options(
            retry_hours=settings.retry_hours,
            max_attempts=settings.max_attempts,
            hold_uncertain=settings.hold_uncertain,
            makes_text=settings.jobs.makes_text,
        ),
    )
    broker = MailBroker(connect(settings.redis_url))
    files = AttachmentFiles()
    checker = Checker(control, settings.jobs.defaults, Templates(client), files)
    declare_actors(broker, checker, delivery.deliver, delivery.fail)
    listening_client = connect_async(settings.redis_url, 1, socket_timeout_seconds=LISTEN_SECONDS + 10)
    bull_queue = BullQueue(client, listening_client, settings.bullmq, process)
    sent_rows = SupabaseSentRows(settings)
    rhythm = Rhythm(settings.dead_after_seconds)
    worker = MailWorker(
        broker,
        MessageQueue(
            client,
            waiting_client,
            process,
            name,
            settings.account_name,
            settings.bullmq,
            fence=fence,
            listening_seconds=2 * rhythm.dead_after_seconds,
            durations=delivery.durations,
        ),
        gate,
        concurrency=settings.concurrency,
        rhythm=rhythm,
        describe=lambda: Process.of_this(name, settings.concurrency, delivery.sent),
        build=lambda raw: delivery.rehearse(checker.read(raw)),
        jobs=_jobs(settings, bull_queue, delivery, checker, sent_rows) if settings.bullmq else None,
    )
    logger.info(
        "%s %s sends by %s, %d mails at once%s.",
        name,
        running_version(),
        destination(settings),
        settings.concurrency,
        f", and takes jobs of {settings.bullmq}" if settings.bullmq else "",
    )
    if settings.sandbox is not None:
        logger.warning("SANDBOX: %s (MAIL_SANDBOX).", settings.sandbox)
    stopped = asyncio.create_task(_announce(stopping, settings))
    memory = asyncio.create_task(watch_memory(stopping, settings.max_memory_mb, lambda mb: _tell_of(client, name, mb)))
    await worker.run(stopping, settings.stop_timeout_seconds)
    await cancel(memory)
    await stopped
    await transport.close()
    await files.close()
    await sent_rows.close()
    await forget(client, name)
    await client.aclose()
    await waiting_client.aclose()
    await listening_client.aclose()
    logger.info("Stopped.")


def _jobs(
    settings: Settings, queue: BullQueue, delivery: Delivery, checker: Checker, sent_rows: SupabaseSentRows
) -> Jobs:
    keep_completed, keep_failed = Keep(settings.bullmq_keep_completed), Keep(settings.bullmq_keep_failed)
    work = BullJobs(delivery, settings.bullmq, checker, sent_rows, keep_completed, keep_failed)
    return Jobs(queue, work, lambda raw: delivery.rehearse(checker.read(raw)))


async def _tell_of(client: CountingRedis, name: str, used_mb: int) -> None:
    sentence = (
        f"{name} had grown to {used_mb} MB, more than worker_max_rss_mb, and was started anew: if that comes again and"
        " again, lower worker_concurrency or take a bigger host (docs/scale.md)."
    )
    with contextlib.suppress(redis.RedisError):  # Its log says so, too.
        async with client.pipeline(transaction=True) as pipeline:
            add_event(pipeline, "grown", sentence)
            await pipeline.execute()


async def _announce(stopping: asyncio.Event, settings: Settings) -> None:
    await stopping.wait()
    logger.info("Stopping: mails being sent have %d s to finish.", settings.stop_timeout_seconds)


async def _started(account: Account, stopping: asyncio.Event) -> bool:
    """Waits until Redis answers; False when it's time to stop instead."""
    while not stopping.is_set():
        try:
            await account.begin()
            return True
        except redis.RedisError as error:
            logger.error("%s Trying again.", explain(error))
        try:
            async with asyncio.timeout(REDIS_AGAIN_SECONDS):
                await stopping.wait()
        except TimeoutError:
            pass
    return False
