"""What stands in the web app's BullMQ queue, for those who look at it."""

import contextlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import redis

from worker.base import keys
from worker.base.redis_client import script
from worker.queue.bullmq import worker_client_name

#: Jobs that are due in so many years are parked: as lua/bullmq.lua has it, which takes twice as many.
_PARKED_FROM_MS = 5 * 365 * 86_400_000
#: So many jobs at the head are looked at, and so many completed ones are weighed.
HEAD_JOBS = 100
WEIGHED_JOBS = 20
#: The search for other queues ends after so many keys, about.
SEARCHED_KEYS = 20_000


@dataclass(frozen=True, slots=True)
class BullView:
    """Jobs by state. `waiting` holds those with a priority, and those of a queue that its app has paused; `parked`
    those of paused campaigns, which the app sees as delayed."""

    name: str
    #: As the queue was opened last, such as `bullmq:5.81.5`; empty if there's no such queue.
    version: str
    paused: bool
    waiting: int
    active: int
    delayed: int
    parked: int
    completed: int
    failed: int
    #: Jobs of a scheduler, or with a parent, that stood at the head when a fetch looked.
    foreign: int
    #: Until the last delayed job is due, in seconds.
    last_due_seconds: float
    #: Since the job whose turn is next was queued; None without one.
    oldest_seconds: float | None

    @property
    def may_leave(self) -> int:
        """Jobs that wait for nothing but a worker."""
        return 0 if self.paused else max(self.waiting - self.foreign, 0)


def look(client: "redis.Redis", bullmq: str) -> BullView:
    """Counts, by one command.

    Args:
        bullmq: `PREFIX:QUEUE`.

    Raises:
        redis.RedisError: Redis is away.
    """
    counted: Any = client.register_script(script("clock", "bullmq_view"))(
        keys=[keys.bullmq_own(bullmq), bullmq], args=[_PARKED_FROM_MS]
    )
    known, version, paused, waiting, active, delayed, parked, completed, failed, foreign, last_due_ms, oldest_ms = (
        counted
    )
    return BullView(
        name=bullmq,
        version=(version or b"bullmq").decode(errors="replace") if known else "",
        paused=bool(paused),
        waiting=waiting,
        active=active,
        delayed=delayed,
        parked=parked,
        completed=completed,
        failed=failed,
        foreign=foreign,
        last_due_seconds=last_due_ms / 1000,
        oldest_seconds=None if oldest_ms < 0 else oldest_ms / 1000,
    )


def foreign_jobs(client: "redis.Redis", bullmq: str) -> int:
    """How many of the first `HEAD_JOBS` waiting jobs are a scheduler's, or have a parent."""
    waiting: Any = client.lrange(f"{bullmq}:wait", -HEAD_JOBS, -1)
    prioritized: Any = client.zrange(f"{bullmq}:prioritized", 0, HEAD_JOBS - 1)
    with client.pipeline(transaction=False) as pipeline:
        for identity in [*waiting, *prioritized]:
            pipeline.hmget(bullmq.encode() + b":" + identity, "rjk", "parentKey")
        return sum(any(fields) for fields in pipeline.execute())


def completed_bytes(client: "redis.Redis", view: BullView) -> int:
    """What the completed jobs take of Redis's memory, by a sample."""
    newest: Any = client.zrange(f"{view.name}:completed", 0, WEIGHED_JOBS - 1, desc=True)
    if not newest:
        return 0
    with client.pipeline(transaction=False) as pipeline:
        for identity in newest:
            pipeline.hstrlen(view.name.encode() + b":" + identity, "data")
        sizes: Any = pipeline.execute()
    return int(sum(sizes) / len(sizes) * view.completed)


def other_workers(client: "redis.Redis", bullmq: str, ours: Collection[str]) -> int | None:
    """Workers on the queue that aren't among `ours`, by their connections' names; None if Redis doesn't tell."""
    try:
        clients: Any = client.client_list()
    except redis.ResponseError:
        return None
    base = worker_client_name(bullmq, "").removesuffix(":w:")
    names = [str(one.get("name", "")) for one in clients]
    return sum(
        name == base or (name.startswith(f"{base}:w:") and name.removeprefix(f"{base}:w:") not in ours)
        for name in names
    )


def other_queues(client: "redis.Redis") -> list[str]:
    """Names of BullMQ queues in this Redis, for one who looks for the wrong one. Bounded, so not all of a big Redis."""
    found: set[str] = set()
    cursor, looked = 0, 0
    with contextlib.suppress(redis.ResponseError):
        while looked < SEARCHED_KEYS:
            answer: Any = client.scan(cursor, match="*:meta", count=1000, _type="hash")
            cursor, names = answer
            looked += 1000
            found.update(name.decode(errors="replace").removesuffix(":meta") for name in names)
            if not cursor:
                break
    return sorted(found)
