"""Logging to standard output, where supervisord picks it up and rotates it."""

import hashlib
import json
import logging
import os
import sys
import time
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Any

import redis

from worker.base.redis_client import explain
from worker.base.settings import Settings

_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"
REPEAT_AFTER_SECONDS = 60.0
#: So many different warnings are known at a time; a thousand others later one is logged again.
KNOWN_WARNINGS = 1000


def set_up_logging(settings: Settings) -> None:
    """Logs to standard output; third parties from WARNING on, and never a message's content."""
    handler = logging.StreamHandler(sys.stdout)
    if settings.log_format == "json":
        handler.setFormatter(JsonLines(settings.account_name, plain_addresses=settings.log_addresses == "plain"))
    else:
        handler.setFormatter(logging.Formatter(_FORMAT))
    handler.addFilter(WithoutContent())
    handler.addFilter(Seldom(REPEAT_AFTER_SECONDS))
    # What no line shows costs a third of it: see "Optimization" in the documentation of `logging`.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(level="WARNING", handlers=[handler], force=True)
    logging.getLogger("worker").setLevel(settings.log_level)


class JsonLines(logging.Formatter):
    """One object a line. `time` comes first, by which `mail-worker logs` goes; what a line is about stands in its
    record's `facts`."""

    def __init__(self, account: str, *, plain_addresses: bool) -> None:
        super().__init__()
        self._always = {"process": os.environ.get("SUPERVISOR_PROCESS_NAME", ""), "account": account}
        self._plain = plain_addresses

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        facts = dict(getattr(record, "facts", {}))
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        line = {
            "time": f"{at}.{int(record.msecs):03}Z",
            "level": record.levelname,
            **self._always,
            "message": message,
            **{name: value for name, value in facts.items() if value is not None},
        }
        addresses = facts.get("to", ())
        if addresses and not self._plain:
            line["to"] = [hashed_address(address) for address in addresses]
            # A server repeats the address that it refuses.
            for address in addresses:
                line["message"] = line["message"].replace(address, hashed_address(address))
                line["reply"] = line["reply"].replace(address, hashed_address(address))
        return json.dumps(line, ensure_ascii=False)


def hashed_address(address: str) -> str:
    """Tells one recipient's lines from others' without saying whose they are."""
    return f"address-{hashlib.sha256(address.lower().encode('utf-8', 'replace')).hexdigest()[:16]}"


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
