"""What happened once and is told once: a campaign's end, a process that grew over its share."""

import json
from typing import Any

#: Nobody may be there who tells them.
KEPT_EVENTS = 200


def happened(kind: str, sentence: str, at: float, *, urgent: bool = False) -> str:
    """One line for the list `mail:events`, at whose left end it belongs."""
    line: dict[str, Any] = {"kind": kind, "sentence": sentence, "at": at, "urgent": urgent}
    return json.dumps(line)
