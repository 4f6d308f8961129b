"""What nobody foresaw in the keys that watching reads: it hides nothing else, and somebody is told all the same."""

import time
from typing import Any

import pytest
import redis

from testbed.services import Services
from tests.integration.programs import Programs, wait_until
from worker.base import keys
from worker.base.redis_client import connect
from worker.base.settings import Secret, load_settings
from worker.operating.dashboard import Fleet
from worker.watching.points import read_points
from worker.watching.status import read_status

#: They run beside the others, with services of their own (make watching).
pytestmark = pytest.mark.watching
RUBBISH = ("", "rubbish", "3", "null", "[]", "[[]]", "{}", '{"name": 3}', "[" * 100_000, "\xff")
HOST = (
    '{"name": "mail1", "at": 1, "version": "v", "booted_at": 1.5, "ram_mb": 1, "available_mb": null, "load": 0,'
    ' "cores": 1, "disk_mb": 1, "disk_free_mb": 1, "clock_kept": null, "reboot_needed": false, "programs": 1,'
    ' "running": 1, "restarts": 0, "of_a_later_release": 1}'
)


def test_rubbish_hides_no_number_and_no_trouble(
    programs: Programs, services: Services, queue: redis.Redis, environment: dict[str, str]
) -> None:
    now_ms = int(time.time() * 1000)
    for number, rubbish in enumerate(RUBBISH):
        for key in (keys.HOSTS, keys.HOST_TROUBLES, keys.PROCESSES, keys.TROUBLES, keys.DURATIONS, keys.BROKERS):
            queue.hset(key, f"rubbish-{number}", rubbish)
        queue.hset(keys.PROCESSES, f"seen-{number}", f'{{"seen_at": {time.time() + 600 + number}}}')
        for key in (keys.POINTS, keys.EVENTS, keys.TOLD):
            queue.lpush(key, rubbish)
    queue.hset(keys.HOSTS, "of-another-type", HOST.replace('"load": 0', '"load": "0"'))
    queue.hset(keys.HOSTS, "mail1", HOST)
    queue.hset(keys.HOST_TROUBLES, "mail1", f'[{now_ms}, "[[\\"disk:mail1\\", \\"mail1 is full.\\", true]]"]')
    recorder = programs.start("record", module="tests.integration.quick_watcher", HOST_NAME="mail2", PYTHONPATH=".")
    wait_until(lambda: queue.hexists(keys.TROUBLES, "disk:mail1"))
    wait_until(lambda: bool(read_points(queue)))
    assert queue.llen(keys.EVENTS) == 0
    assert "unexpected error" not in recorder.text()
    found = read_status(queue, "smtp:a@b", (), "")
    assert [host.name for host in found.hosts] == ["mail1", "mail2"]
    assert [process.name for process in found.processes] == [recorder_name(queue)]
    page = Fleet(connect(Secret(services.redis_url)), load_settings(environment)).look(0)
    assert all(len(told) == 3 for told in page["told"])
    code, shown = programs.run("status")
    assert (code, "TROUBLE    mail1 is full." in shown) == (0, True)


def recorder_name(queue: redis.Redis) -> str:
    """That of the one process of ours."""
    names: Any = queue.hkeys(keys.PROCESSES)
    return next(str(name.decode()) for name in names if name.startswith(b"mail2/"))
