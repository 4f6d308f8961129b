"""Which worker and recorder processes are alive: each writes a line about itself into Redis, a worker with each beat of
its queue (message_queue.py), a recorder once a minute (worker/watching/watcher.py)."""

import contextlib
import json
import os
import sys
import time
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import redis
import redis.asyncio

from worker import __version__
from worker.base import keys
from worker.base.usage import cpu_seconds, resident_mb

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Told = TypeVar("Told", bound="DataclassInstance")

#: An idle worker speaks every 110 s.
SILENT_AFTER_SECONDS = 150.0
STARTED_AT = round(time.time(), 1)


@dataclass(frozen=True, slots=True)
class Process:
    """What a process tells about itself. `seen_at` and `started_at` are in seconds since 1970, by its own clock; `sent`
    counts the mails that it has sent since its start. An older release tells nothing of the last three."""

    name: str
    version: str
    pid: int
    concurrency: int
    seen_at: float
    sent: int = 0
    started_at: float = 0.0
    memory_mb: int = 0
    cpu_seconds: float = 0.0

    @classmethod
    def of_this(cls, name: str, concurrency: int, sent: int = 0) -> "Process":
        """The one that asks."""
        return cls(
            name,
            running_version(),
            os.getpid(),
            concurrency,
            round(time.time(), 1),
            sent,
            STARTED_AT,
            resident_mb(),
            cpu_seconds(),
        )

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


async def forget(client: "redis.asyncio.Redis", name: str) -> None:
    """Takes a process that ends off the list."""
    with contextlib.suppress(redis.RedisError):  # It falls silent anyway, and readers leave it out.
        await client.hdel(keys.PROCESSES, name)


def alive(client: "redis.Redis") -> list[Process]:
    """The processes that were heard of lately, by name.

    Raises:
        redis.RedisError: Redis is away.
    """
    found = map(read_line, client.hvals(keys.PROCESSES))
    now = time.time()
    return sorted(
        (process for process in found if process is not None and now - process.seen_at < SILENT_AFTER_SECONDS),
        key=lambda process: process.name,
    )


def read_line(line: bytes | str) -> Process | None:
    """What a process has told about itself (`as_json`); None if it's nothing of ours, which hides no other process."""
    return read_told(Process, line)


def read_told(kind: type[Told], line: bytes | str) -> Told | None:
    """A dataclass of texts and numbers as JSON. Another release may tell more; None if it's less than is needed, or
    another type than its field's."""
    try:
        told = json.loads(line)
        found = kind(**{name: told[name] for name in (field.name for field in fields(kind)) if name in told})
    except (ValueError, TypeError, RecursionError):
        return None
    return found if all(_fits(getattr(found, field.name), field.type) for field in fields(kind)) else None


def _fits(value: Any, kind: Any) -> bool:
    # JSON has no float that is whole.
    return isinstance(value, int | float if kind is float else kind)
