"""Logging to standard output, where supervisord picks it up and rotates it."""

import logging
import sys
import time
from collections import OrderedDict
from typing import Any

import redis

from worker.base.redis_client import explain

_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"
REPEAT_AFTER_SECONDS = 60.0
#: So many different warnings are known at a time; a thousand others later one is logged again.
KNOWN_WARNINGS = 1000


def set_up_logging(level: str) -> None:
    """Logs to standard output; third parties from WARNING on, and never a message's content."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter(_FORMAT))
    handler.addFilter(WithoutContent())
    handler.addFilter(Seldom(REPEAT_AFTER_SECONDS))
    logging.basicConfig(level="WARNING", handlers=[handler], force=True)
    logging.getLogger("worker").setLevel(level)


class WithoutContent(logging.Filter):
    """Dramatiq logs whole messages, with their addresses and mails: show their ids instead."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(_shown(argument) for argument in record.args)
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if isinstance(error, redis.RedisError):
            record.msg, record.args = f"{record.getMessage()} {explain(error)}", ()
            record.exc_info = record.exc_text = None
        return True


class Seldom(logging.Filter):
    """Drops a warning or an error that was logged less than so many seconds ago: an outage is one line a minute."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._logged: OrderedDict[str, float] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        text, now = record.getMessage(), time.monotonic()
        # The oldest come first, so that a line costs the same however many are known.
        while self._logged and now - next(iter(self._logged.values())) >= self._seconds:
            self._logged.popitem(last=False)
        if text in self._logged:
            return False
        self._logged[text] = now
        if len(self._logged) > KNOWN_WARNINGS:
            self._logged.popitem(last=False)
        return True


def _shown(argument: Any) -> Any:
    identity = getattr(argument, "message_id", None)
    return argument if identity is None else f"message {identity}"
