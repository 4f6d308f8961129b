"""`mail-worker campaign` without an id: the campaigns of late, those that are complete among them."""

import json
import time
from argparse import Namespace
from dataclasses import asdict, dataclass

import redis

from worker.base import keys
from worker.base.redis_client import connect
from worker.base.settings import Settings
from worker.errors import OperatorMistake
from worker.ledger.ledger import LEDGER_SECONDS
from worker.mail.words import shown_line
from worker.operating.printing import print_lines
from worker.operating.status import duration, left_words
from worker.queue.control import state_words

SHOWN = 50


@dataclass(frozen=True, slots=True)
class Summary:
    """A campaign that is open, or was within the last week."""

    campaign: str
    state: str
    sent: int
    failed: int
    given_up: int
    #: 0 before the recorder has counted them.
    recipients: int
    #: When it was complete, in seconds since 1970; None until then.
    ended_at: float | None

    @property
    def to_go(self) -> int:
        """Recipients whose mail is still to go."""
        return max(self.recipients - self.sent - self.failed - self.given_up, 0) if self.ended_at is None else 0

    def line(self, now: float) -> str:
        """For people."""
        given_up = f", {self.given_up:,} given up" if self.given_up else ""
        counts = f"{self.sent:,} sent, {self.failed:,} failed{given_up}"
        if self.ended_at is not None:
            return shown_line(f"{self.campaign}: complete since {duration(max(now - self.ended_at, 0))}; {counts}")
        left = f", {self.to_go:,} {left_words(self.state)}" if self.to_go else ""
        return shown_line(f"{self.campaign}: {self.state}; {counts}{left}")


def campaigns(settings: Settings, options: Namespace) -> int:
    """`mail-worker campaign [--json]`"""
    if options.csv:
        raise OperatorMistake("--csv writes who failed of one campaign: mail-worker campaign CAMPAIGN --csv FILE")
    found = summaries(connect(settings.redis_url))
    if options.json:
        rows = [{**asdict(one), "to_go": one.to_go} for one in found]
        print(json.dumps({"format": 1, "campaigns": rows}, ensure_ascii=False))
        return 0
    now = time.time()
    print_lines(one.line(now) for one in found[:SHOWN])
    if len(found) > SHOWN:
        print(f"and {len(found) - SHOWN:,} more: --json has them all")
    if not found:
        print("No campaign is open, and none was within the last week.")
    return 0


def summaries(client: "redis.Redis") -> list[Summary]:
    """Those that Redis knows of, the one with the latest result first."""
    with client.pipeline(transaction=False) as pipeline:
        pipeline.smembers(keys.OPEN_CAMPAIGNS)
        pipeline.hkeys(keys.PARKED_CAMPAIGNS)
        pipeline.hgetall(keys.CONTROL)
        pipeline.zrange(keys.LEDGERS, 0, -1)
        opened, parked, control, ledgers = pipeline.execute()
    # One may pause before its first result.
    waiting = {name for name, why in control.items() if why.startswith(b"paused")}
    names = sorted({*opened, *parked, *ledgers, *waiting})
    with client.pipeline(transaction=False) as pipeline:
        for name in names:
            key = keys.counts("").encode() + name
            pipeline.hmget(key, ["sent", "failed", "given_up", "recipients"])
            pipeline.pttl(key)
        answers = iter(pipeline.execute())
    found = [
        (left_ms, name, *map(number_of, numbers))
        for name, numbers, left_ms in zip(names, answers, answers, strict=True)
        if left_ms > 0 or name in waiting
    ]
    # Each result, and the end, has the counts kept anew.
    return [
        Summary(
            name.decode(errors="replace"),
            _state(name, opened, parked, control),
            sent,
            failed,
            given_up,
            recipients,
            None if name in opened or name in parked or name in control else _kept_since(left_ms),
        )
        for left_ms, name, sent, failed, given_up, recipients in sorted(found, reverse=True)
    ]


def number_of(count: bytes | None) -> int:
    """One of a campaign's counts; 0 where there's none, or nothing of ours."""
    return int(count) if count and count.isdigit() else 0


def _kept_since(left_ms: int) -> float:
    return time.time() - LEDGER_SECONDS + left_ms / 1000


def _state(name: bytes, opened: set[bytes], parked: list[bytes], control: dict[bytes, bytes]) -> str:
    if name in control:
        return state_words(control[name].decode(errors="replace"))
    if name in parked:
        return "put aside"
    return "sending" if name in opened else "complete"
