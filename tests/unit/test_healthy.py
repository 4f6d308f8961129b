"""The verdict of a container's health check."""

import pytest

from worker.operating.healthy import judge
from worker.queue.processes import Process

NOW = 1_000_000.0
LIVING = [
    Process("3f2a/worker-1", "0.1.0", 1, 5, NOW - 7),
    Process("mail1/mail-recorder", "0.1.0", 1, 0, NOW),
    Process("mail1/mail-worker_00", "0.1.0", 1, 5, NOW),
]


@pytest.fixture(autouse=True)
def no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUPERVISOR_PROCESS_NAME", raising=False)


def test_a_container_is_known_by_its_host_name() -> None:
    assert judge(LIVING, "3f2a", NOW) == (True, "3f2a/worker-1: heard of 7 s ago")
    # Another one's name may begin like it.
    assert judge(LIVING, "3f2", NOW) == (False, "3f2/ isn't heard of in Redis: its log says why.")


def test_several_on_a_host_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERVISOR_PROCESS_NAME", "mail-worker_00")
    assert judge(LIVING, "mail1", NOW)[0]
    monkeypatch.setenv("SUPERVISOR_PROCESS_NAME", "mail-worker_01")
    assert judge(LIVING, "mail1", NOW) == (False, "mail1/mail-worker_01 isn't heard of in Redis: its log says why.")
