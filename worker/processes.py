"""Which worker and recorder processes are alive: each writes a line about itself into Redis once a minute."""

import contextlib
import json
import logging
import os
import threading
import time
from dataclasses import asdict, dataclass

import redis

from worker import __version__, keys
from worker.redis_client import explain

HEARTBEAT_SECONDS = 60.0
#: Two missed heartbeats and some.
SILENT_AFTER_SECONDS = 150.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Process:
    """What a process tells about itself. `seen_at` is in seconds since 1970, by its own clock."""

    name: str
    version: str
    pid: int
    concurrency: int
    seen_at: float


def process_name(host_name: str, kind: str) -> str:
    """`HOST/PROGRAM`, the program as supervisord names it."""
    return f"{host_name}/{os.environ.get('SUPERVISOR_PROCESS_NAME') or f'{kind}-{os.getpid()}'}"


class Heartbeat:
    """Reports this process from a thread of its own until it's stopped."""

    def __init__(self, client: "redis.Redis", name: str, concurrency: int) -> None:
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
        while True:
            process = Process(self._name, __version__, os.getpid(), self._concurrency, time.time())
            try:
                self._client.hset(keys.PROCESSES, self._name, json.dumps(asdict(process)))
            except redis.RedisError as error:
                logger.error("%s", explain(error))
            if self._stopping.wait(HEARTBEAT_SECONDS):
                return


def alive(client: "redis.Redis") -> list[Process]:
    """The processes that were heard of lately, by name.

    Raises:
        redis.RedisError: Redis is away.
    """
    processes = [Process(**json.loads(value)) for value in client.hvals(keys.PROCESSES)]
    now = time.time()
    return sorted(
        (process for process in processes if now - process.seen_at < SILENT_AFTER_SECONDS),
        key=lambda process: process.name,
    )
