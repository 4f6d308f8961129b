"""The end of tasks."""

import asyncio
from typing import Any

CANCEL_AGAIN_SECONDS = 1.0


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
