"""What may have killed a process is tried before it's worked on again (lua/suspects.lua)."""

import contextlib
import json
from collections.abc import Callable

from worker.queue.message_queue import MessageQueue

#: Builds the mail of a job as it was queued, and throws it away.
Build = Callable[[object], None]


class Rehearsal:
    """One process's. Nothing else happens in it while a mail is built, and little between that and what Redis is told,
    so two deaths running are most likely that mail's doing."""

    def __init__(self, queue: MessageQueue, build: Build, build_job: Build) -> None:
        """
        Args:
            build: for what comes in a message, `build_job` for BullMQ's jobs.
        """
        self._queue = queue
        self._build = build
        self._build_job = build_job

    async def of_message(self, identity: str, data: bytes) -> None:
        """Tries a message.

        Raises:
            redis.RedisError: Redis is away, and it wasn't tried, or nobody knows of it.
        """
        await self._queue.rehearsal_begins(identity)
        with contextlib.suppress(Exception):  # What is wrong with it is said when it's worked on.
            self._build(json.loads(data)["args"][0])
        await self._queue.rehearsal_ends(identity)

    async def of_job(self, key: str, data: bytes) -> None:
        """Tries a job. Raises the same."""
        await self._queue.rehearsal_begins(key)
        with contextlib.suppress(Exception):
            self._build_job(json.loads(data))
        await self._queue.rehearsal_ends(key)
