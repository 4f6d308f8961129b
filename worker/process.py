"""A worker process (`mail-worker run`): puts the parts together, and takes them apart in the right order."""

import asyncio
import logging

import dramatiq
import redis
import uvloop
from dramatiq.asyncio import async_to_sync

from worker import __version__
from worker.actors import declare_actors
from worker.broker import MailBroker
from worker.delivery import Delivery
from worker.ledger import RedisLedger
from worker.processes import Heartbeat, process_name
from worker.redis_client import connect, connect_async, explain
from worker.settings import Settings
from worker.stopping import Stop
from worker.transports.smtp import SmtpTransport

REDIS_AGAIN_SECONDS = 2.0
#: How often an idle consumer asks Redis at the least.
POLL_MS = 1000

logger = logging.getLogger(__name__)


def run_worker(settings: Settings, stop: Stop) -> None:
    """Sends mails until told to stop, then finishes those that it has begun and gives the others back."""
    client = connect(settings.redis_url)
    if not wait_for_redis(client, stop):
        return
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    transport = smtp_transport(settings)
    ledger_client = connect_async(settings.redis_url, max_connections=settings.concurrency)
    stopping = asyncio.Event()
    delivery = Delivery(transport, RedisLedger(ledger_client), max_attempts=settings.max_attempts, stopping=stopping)

    async def set_stopping() -> None:
        stopping.set()

    async def close() -> None:
        await transport.close()
        await ledger_client.aclose()

    class Closing(dramatiq.Middleware):
        def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
            async_to_sync(close)()

    broker = MailBroker(client)
    # After AsyncIO in the list, and so before it in the shutdown: the event loop is still there.
    broker.add_middleware(Closing())
    declare_actors(broker, async_to_sync(delivery.deliver), async_to_sync(delivery.fail), settings.mail_from)
    worker = dramatiq.Worker(broker, worker_threads=settings.concurrency, worker_timeout=POLL_MS)
    name = process_name(settings.host_name, "worker")
    heartbeat = Heartbeat(client, name, settings.concurrency)
    worker.start()
    heartbeat.start()
    logger.info(
        "%s %s sends by %s:%d, %d mails at once.",
        name,
        __version__,
        settings.smtp_host,
        settings.smtp_port,
        settings.concurrency,
    )
    stop.wait()
    logger.info("Stopping: mails being sent have %d s to finish.", settings.stop_timeout_seconds)
    async_to_sync(set_stopping)()
    worker.stop(timeout=settings.stop_timeout_seconds * 1000)
    heartbeat.stop()
    logger.info("Stopped.")


def smtp_transport(settings: Settings) -> SmtpTransport:
    """The transport that the settings describe."""
    return SmtpTransport(
        host=settings.smtp_host,
        port=settings.smtp_port,
        user=settings.smtp_user,
        password=settings.smtp_password,
        implicit_tls=settings.smtp_implicit_tls,
        local_hostname=settings.host_name,
    )


def wait_for_redis(client: "redis.Redis", stop: Stop) -> bool:
    """Waits until Redis answers; False when it's time to stop instead."""
    while not stop.is_set():
        try:
            client.ping()
            return True
        except redis.RedisError as error:
            logger.error("%s Trying again.", explain(error))
        stop.wait(REDIS_AGAIN_SECONDS)
    return False
