"""Logs: no mail and no address, and an outage is a line a minute."""

import logging
import time
from typing import Any

import pytest
import redis
from dramatiq import Message

from worker.base.logs import KNOWN_WARNINGS, Seldom, WithoutContent


def record(level: int, text: str, *arguments: Any, error: BaseException | None = None) -> logging.LogRecord:
    exc_info = (type(error), error, None) if error else None
    return logging.LogRecord("dramatiq.x", level, __file__, 1, text, arguments, exc_info)


def test_a_message_shows_its_id_alone() -> None:
    message: Message[None] = Message("mail", "send_mail", ({"to": "zoe@example.com"},), {}, {}, message_id="id-1")
    shown = record(logging.ERROR, "Failed to process message %s.", message)
    assert WithoutContent().filter(shown)
    assert shown.getMessage() == "Failed to process message message id-1."


def test_a_redis_error_is_a_sentence() -> None:
    shown = record(logging.CRITICAL, "Consumer stopped.", error=redis.ConnectionError("refused"))
    WithoutContent().filter(shown)
    assert "Redis can't be reached (refused)" in shown.getMessage()
    assert shown.exc_info is None


def test_a_repeated_error_is_dropped_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    seldom = Seldom(60)
    assert seldom.filter(record(logging.ERROR, "down"))
    assert not seldom.filter(record(logging.ERROR, "down"))
    assert seldom.filter(record(logging.ERROR, "something else"))
    assert seldom.filter(record(logging.INFO, "sent"))
    assert seldom.filter(record(logging.INFO, "sent"))
    now += 61
    assert seldom.filter(record(logging.ERROR, "down"))


def test_each_of_many_different_warnings_costs_the_same() -> None:
    seldom = Seldom(60)
    began = time.process_time()
    assert all(seldom.filter(record(logging.WARNING, f"mail {number}")) for number in range(60_000))
    # A line took 16 ms at the end when each built anew what was known; now all together take less than that times 100.
    assert time.process_time() - began < 1.6
    assert not seldom.filter(record(logging.WARNING, "mail 59999"))
    assert seldom.filter(record(logging.WARNING, "mail 0"))
    assert len(seldom._logged) == KNOWN_WARNINGS
