"""A peer for the benchmarks: what a Python developer writes with dramatiq and aiosmtplib and no further thought.

A thread for each message, the standard library's MIME, a connection and a Supabase update for each mail."""

import os
import ssl
import threading
from email.message import EmailMessage
from email.utils import make_msgid
from signal import SIGTERM, signal
from typing import Any

import aiosmtplib
import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import AsyncIO
from supabase import create_client


def main() -> None:
    """Works until SIGTERM."""
    environment = os.environ
    client = redis.Redis.from_url(environment["REDIS_URL"])
    broker = RedisBroker(client=client)
    broker.add_middleware(AsyncIO())
    supabase = create_client(environment["SUPABASE_URL"], environment["SUPABASE_SECRET_KEY"])
    tls = ssl.create_default_context()

    async def send_mail(job: dict[str, Any]) -> None:
        message = EmailMessage()
        message["From"], message["Subject"] = job["from"], job["subject"]
        message["To"] = job["to"]["address"]
        message["Message-ID"] = make_msgid()
        message.set_content("see the HTML part")
        message.add_alternative(job["html"], subtype="html")
        await aiosmtplib.send(
            message,
            hostname=environment["SMTP_HOST"],
            port=int(environment["SMTP_PORT"]),
            use_tls=True,
            tls_context=tls,
            username=environment["SMTP_USER"],
            password=environment["SMTP_PASS"],
        )
        query = supabase.table("campaign_subscribers").update({"sent": True})
        query.eq("campaign_id", job["campaignId"]).eq("subscriber_id", job["subscriberId"]).execute()

    dramatiq.actor(queue_name="mail", broker=broker)(send_mail)
    stop = threading.Event()
    signal(SIGTERM, lambda *_: stop.set())
    worker = dramatiq.Worker(broker, worker_threads=int(environment["WORKER_CONCURRENCY"]))
    worker.start()
    print("ready", flush=True)
    stop.wait()
    worker.stop()


if __name__ == "__main__":
    main()
