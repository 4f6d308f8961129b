"""How the worker ends its tasks."""

import asyncio

import pytest

from worker.base import tasks


async def test_a_cancellation_that_gets_lost_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "CANCEL_AGAIN_SECONDS", 0.01)
    lost = 0

    async def deaf() -> None:
        nonlocal lost
        while lost < 2:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                lost += 1
        await asyncio.sleep(60)

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    await asyncio.wait_for(tasks.cancel(task), 10)
    assert (task.cancelled(), lost) == (True, 2)


async def test_how_a_task_ends_is_its_own_matter() -> None:
    async def failing() -> None:
        raise ValueError

    async def ending() -> None:
        pass

    await tasks.cancel(asyncio.create_task(failing()), asyncio.create_task(ending()))
    await tasks.cancel()
