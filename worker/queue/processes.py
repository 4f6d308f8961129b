"""Which worker and recorder processes are alive: each writes a line about itself into Redis, a worker with each beat of
its queue (message_queue.py), a recorder every two minutes, nearly."""

import contextlib
import json
import logging
import os
import sys
import threading
import time
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

import redis
import redis.asyncio

from worker import __version__
from worker.base import keys
from worker.base.redis_client import CountingBlockingRedis, explain

HEARTBEAT_SECONDS = 110.0
#: A heartbeat and some.
SILENT_AFTER_SECONDS = 150.0
#: To tell how many commands were sent is one more.
REPORTED_COMMANDS = 20

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Process:
    """What a process tells about itself. `seen_at` is in seconds since 1970, by its own clock; `sent` counts the mails
    that it has sent since its start."""

    name: str
    version: str
    pid: int
    concurrency: int
    seen_at: float
    sent: int = 0

    def as_json(self) -> str:
        """One line for Redis."""
        return json.dumps(asdict(self))


def this_month() -> str:
    """As the commands of a month are filed: 2026-11."""
    return datetime.now(UTC).strftime("%Y-%m")


def running_version() -> str:
    """The release that this process runs from (`/opt/mail-worker/releases/RELEASE/venv`), or else the version."""
    release = Path(sys.prefix).resolve().parent
    return release.name if release.parent.name == "releases" else __version__


def process_name(host_name: str, kind: str) -> str:
    """`HOST/PROGRAM`, the program as supervisord names it."""
    return f"{host_name}/{os.environ.get('SUPERVISOR_PROCESS_NAME') or f'{kind}-{os.getpid()}'}"


class Heartbeat:
    """Reports this process from a thread of its own until it's stopped."""

    def __init__(self, client: CountingBlockingRedis, name: str, concurrency: int) -> None:
        self._client = client
        self._name = name
        self._concurrency = concurrency
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="heartbeat")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the reports and takes the process off the list."""
        self._stopping.set()
        self._thread.join(timeout=5)
        with contextlib.suppress(redis.RedisError):  # It falls silent anyway, and readers leave it out.
            self._client.hdel(keys.PROCESSES, self._name)

    def _run(self) -> None:
        reported = reported_inside = 0
        while True:
            commands, inside = self._client.commands, self._client.commands_inside
            process = Process(self._name, running_version(), os.getpid(), self._concurrency, time.time())
            try:
                self._client.hset(keys.PROCESSES, self._name, process.as_json())
                if commands - reported >= REPORTED_COMMANDS:
                    self._client.hincrby(keys.COMMANDS, this_month(), commands - reported)
                    reported = commands
                    if inside > reported_inside:
                        self._client.hincrby(keys.COMMANDS, f"{this_month()}:inside", inside - reported_inside)
                        reported_inside = inside
            except redis.RedisError as error:
                logger.error("%s", explain(error))
            if self._stopping.wait(HEARTBEAT_SECONDS):
                return


async def forget(client: "redis.asyncio.Redis", name: str) -> None:
    """Takes a process that ends off the list."""
    with contextlib.suppress(redis.RedisError):  # It falls silent anyway, and readers leave it out.
        await client.hdel(keys.PROCESSES, name)


def alive(client: "redis.Redis") -> list[Process]:
    """The processes that were heard of lately, by name.

    Raises:
        redis.RedisError: Redis is away.
    """
    processes = [read_line(value) for value in client.hvals(keys.PROCESSES)]
    now = time.time()
    return sorted(
        (process for process in processes if now - process.seen_at < SILENT_AFTER_SECONDS),
        key=lambda process: process.name,
    )


def read_line(line: bytes | str) -> Process:
    """What a process has told about itself (`as_json`)."""
    # Another release's processes may tell more.
    known = {field.name for field in fields(Process)}
    return Process(**{name: value for name, value in json.loads(line).items() if name in known})
