"""`mail-worker status --json`: a look at the fleet for programs, and what it comes to. docs/operate.md has the fields;
new ones may come, but none changes its meaning within a FORMAT."""

import json
import time
from dataclasses import asdict
from typing import Any

from worker.base.sandbox import Sandbox
from worker.watching.status import Status, price

FORMAT = 1


def as_json(status: Status, sandbox: Sandbox | None = None) -> dict[str, Any]:
    """The status as an object of JSON's types. Times are in seconds, since 1970 or long; `*_mb` in 1,000,000 bytes."""
    found: dict[str, Any] = json.loads(json.dumps(asdict(status)))
    for campaign, counts in zip(found["campaigns"], status.campaigns, strict=True):
        campaign["to_go"] = counts.to_go
    limits = found["account"].pop("limits")
    used = found["account"].pop("used")
    found["account"]["limits"] = [
        {"mails": limit["mails"], "seconds": limit["window_ms"] / 1000, "used": number}
        for limit, number in zip(limits, used, strict=True)
    ]
    return {
        "format": FORMAT,
        "at": int(time.time()),
        "well": is_well(status),
        "sandbox": str(sandbox) if sandbox else "",
        "may_leave": status.may_leave,
        "to_send": status.to_send,
        "seconds_left": status.seconds_left,
        "dollars_this_month": round(price(status.commands), 2),
        "versions": sorted({process.version for process in status.processes}),
        **found,
    }


def is_well(status: Status) -> bool:
    """Whether nobody needs to look: workers are there, the account may send, and nothing that is wrong is known."""
    return bool(status.working) and not status.account.stopped and not status.troubles
