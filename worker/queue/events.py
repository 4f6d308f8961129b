"""What happened once and is told once: a campaign's end, a process that grew over its share."""

import json
import time
from typing import Any

from worker.base import keys

#: Nobody may be there who tells them.
KEPT_EVENTS = 200


def add_event(pipeline: Any, kind: str, sentence: str) -> None:
    """Queues into a pipeline, of either client's, that something has happened now."""
    pipeline.lpush(keys.EVENTS, happened(kind, sentence, time.time()))
    pipeline.ltrim(keys.EVENTS, 0, KEPT_EVENTS - 1)


def happened(kind: str, sentence: str, at: float, *, urgent: bool = False) -> str:
    """One line for the list `mail:events`, at whose left end it belongs."""
    line: dict[str, Any] = {"kind": kind, "sentence": sentence, "at": at, "urgent": urgent}
    return json.dumps(line)
