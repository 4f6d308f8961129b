"""A process that has grown over its share of the memory stops in order."""

import asyncio
import subprocess
import sys
from unittest.mock import AsyncMock

import pytest

from worker.base.usage import resident_mb
from worker.sending import memory


async def test_it_stops_above_its_share_and_not_below(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(memory, "LOOK_EVERY_SECONDS", 0.01)
    stopping, grown = asyncio.Event(), AsyncMock()
    used_mb = resident_mb()
    assert 10 < used_mb < 10_000
    below = asyncio.create_task(memory.watch_memory(stopping, used_mb + 1000, grown))
    await asyncio.sleep(0.1)
    assert not stopping.is_set()
    below.cancel()
    await memory.watch_memory(stopping, used_mb - 5, grown)
    assert stopping.is_set()
    grown.assert_awaited_once()
    assert "worker_max_rss_mb" in caplog.text


async def test_no_limit() -> None:
    stopping = asyncio.Event()
    await memory.watch_memory(stopping, 0, AsyncMock())
    assert not stopping.is_set()


def test_a_worker_holds_nothing_that_its_mails_dont_need() -> None:
    """Each of these is a third of a megabyte or more, in each process of each host."""
    program = (
        "import redis, sys, typing, worker.cli, worker.sending.process\n"
        "print(sorted(sys.modules.keys() & {'supabase', 'httpx', 'html.entities', 'worker.operating'}))\n"
        "print(typing.get_overloads(redis.Redis.get))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n[]\n"


def test_a_worker_loads_nothing_that_commands_need() -> None:
    """Each of these takes from 0.3 to 40 MB of every process."""
    code = "import sys, worker.cli, worker.sending.process; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "redis" in loaded
    assert not {"argparse", "encodings.idna", "httpx", "prometheus_client", "rich", "supabase"} & set(loaded)
