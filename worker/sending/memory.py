"""A process that has grown over its share of the host's memory ends in order, and is started anew."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from worker.base.usage import resident_mb

LOOK_EVERY_SECONDS = 30.0

logger = logging.getLogger(__name__)


async def watch_memory(stopping: asyncio.Event, most_mb: int, grown: Callable[[int], Awaitable[None]]) -> None:
    """Sets `stopping` once the process has more than `most_mb` MB in memory, and tells `grown` how many; 0 is no limit.

    Not before the first look: one that has too much from the start on would be started anew without end."""
    while most_mb:
        await asyncio.sleep(LOOK_EVERY_SECONDS)
        if (used_mb := resident_mb()) > most_mb:
            logger.warning(
                "This process has %d MB in memory, more than the %d MB of WORKER_MAX_MEMORY_MB (worker_max_rss_mb): it"
                " finishes what it sends, gives the rest back, and is started anew.",
                used_mb,
                most_mb,
            )
            await grown(used_mb)
            stopping.set()
            return
