"""Logs: no mail and no address, and an outage is a line a minute."""

import json
import logging
import time
from typing import Any

import pytest
import redis
from dramatiq import Message

from worker.base.logs import KNOWN_WARNINGS, JsonLines, Seldom, WithoutContent, hashed_address


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


def json_line(plain: bool, facts: dict[str, Any]) -> dict[str, Any]:
    shown = record(logging.WARNING, "failed %s: %s", "<1@x>", "550 <zoe@example.com> is unknown")
    shown.facts = facts
    found: dict[str, Any] = json.loads(JsonLines("smtp:x", plain_addresses=plain).format(shown))
    return found


def test_a_line_of_json_says_what_it_is_about_and_hides_addresses() -> None:
    facts = {
        "event": "failed",
        "campaign": "c-1",
        "subscriber": None,
        "to": ("zoe@example.com",),
        "reply": "550 <zoe@example.com> is unknown",
    }
    line = json_line(False, facts)
    assert next(iter(line)) == "time"
    assert (line["level"], line["event"], line["campaign"], line["account"]) == ("WARNING", "failed", "c-1", "smtp:x")
    assert "subscriber" not in line
    hashed = hashed_address("Zoe@example.com")
    assert line["to"] == [hashed]
    assert line["reply"] == f"550 <{hashed}> is unknown"
    assert "zoe" not in json.dumps(line)
    assert json_line(True, facts)["to"] == ["zoe@example.com"]


def test_a_line_of_json_without_facts_and_with_an_error() -> None:
    try:
        raise ValueError("a\nb")
    except ValueError as error:
        shown = record(logging.ERROR, "it broke", error=error)
    line = JsonLines("", plain_addresses=False).format(shown)
    assert "\n" not in line
    assert "ValueError" in json.loads(line)["message"]
