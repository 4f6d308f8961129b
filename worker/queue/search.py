"""Finds a recipient's jobs in both queues, wherever they stand."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from worker.base import keys
from worker.base.redis_client import script
from worker.queue.bullmq import mail_identity

LOOK_AT_ONCE = 500
#: Of jobs in one step, so that Redis serves others in between.
LOOK_BYTES = 1_000_000
#: Where messages stand, and what that is called.
MESSAGES = (
    (keys.MESSAGES, "waiting"),
    (keys.DELAYED_MESSAGES, "delayed"),
    (keys.DEAD_LETTER_MESSAGES, "dead"),
    (keys.HELD_MESSAGES, "held"),
)
#: BullMQ's states in the order in which jobs go on.
_STATES = ("delayed", "prioritized", "wait", "paused", "active", "failed", "completed")


@dataclass(frozen=True, slots=True)
class FoundJob:
    """A job that holds one of the words. `place` is waiting, delayed, dead, held, active, failed or completed."""

    id: str
    #: By which the ledger knows it outside any campaign.
    identity: str
    place: str
    #: Whether it stands in the app's BullMQ queue.
    in_bullmq: bool
    job: Any
    #: Tries so far that counted, and the last one's reply; when it's due, in seconds since 1970.
    attempts: int
    words: str
    due_at: float | None


def search(client: "redis.Redis", bullmq: str, words: Sequence[str]) -> Iterator[FoundJob]:
    """All jobs that hold one of `words`, as JSON has them. What moves on meanwhile may be found twice.

    Args:
        bullmq: BullMQ's queue, `PREFIX:QUEUE`; empty without one.

    Raises:
        redis.RedisError: Redis is away.
    """
    look = client.register_script(script("search"))
    wanted = json.dumps([json.dumps(word)[1:-1] for word in words] + list(words), ensure_ascii=False)
    for key, place in MESSAGES:
        for identity, data in _steps(look, key, "", wanted):
            yield from _message(client, identity.decode(errors="replace"), place, data)
    for state in _STATES if bullmq else ():
        for identity, data in _steps(look, f"{bullmq}:{state}", f"{bullmq}:", wanted):
            yield from _bullmq_job(client, bullmq, identity.decode(errors="replace"), state, data)


def _steps(look: Any, key: str, prefix: str, wanted: str) -> Iterator[tuple[bytes, bytes]]:
    position: Any = 0
    at_once = LOOK_AT_ONCE if prefix else 1
    while True:
        position, looked_bytes, *found = look(keys=[key], args=[position, at_once, LOOK_BYTES, prefix, wanted])
        yield from zip(found[::2], found[1::2], strict=True)
        if int(position) == 0:
            return
        if not prefix:
            at_once = next_at_once(at_once, looked_bytes)


def next_at_once(at_once: int, looked_bytes: int) -> int:
    """How many messages the next step looks at: how many are some of their bytes is known only from those that were
    seen."""
    fitting = at_once * LOOK_BYTES // max(looked_bytes, 1)
    return max(min(fitting, 2 * at_once, LOOK_AT_ONCE), 1)


def _message(client: "redis.Redis", identity: str, place: str, data: bytes) -> Iterator[FoundJob]:
    message = _decoded(data)
    if not isinstance(message, dict) or not isinstance(message.get("args"), list) or not message["args"]:
        return
    options = message.get("options")
    options = options if isinstance(options, dict) else {}
    due_ms: Any = client.zscore(keys.DUE, identity) if place == "delayed" else None
    if place == "dead":
        reason: Any = client.get(keys.dead_letter_reason(identity))
        words = reason.decode(errors="replace") if reason else ""
    else:
        words = str(options.get("last_reply", ""))
    attempts = options.get("attempts", 0)
    yield FoundJob(
        identity,
        str(message.get("message_id", identity)),
        place,
        in_bullmq=False,
        job=message["args"][0],
        attempts=attempts if isinstance(attempts, int) else 0,
        words=words,
        due_at=due_ms / 1000 if due_ms else None,
    )


def _bullmq_job(client: "redis.Redis", bullmq: str, identity: str, state: str, data: bytes) -> Iterator[FoundJob]:
    values: Any = client.hmget(f"{bullmq}:{identity}", ["atm", "attemptsMade", "failedReason", "timestamp"])
    made, made_before, reason, timestamp = values
    due: Any = client.zscore(f"{bullmq}:delayed", identity) if state == "delayed" else None
    number = made or made_before or b"0"
    yield FoundJob(
        identity,
        mail_identity(bullmq, identity, (timestamp or b"").decode(errors="replace")),
        {"wait": "waiting", "paused": "waiting", "prioritized": "waiting"}.get(state, state),
        in_bullmq=True,
        job=_decoded(data),
        attempts=int(number) if number.isdigit() else 0,
        words=reason.decode(errors="replace") if reason else "",
        # BullMQ keeps the time in ms times 4096, and a job's number within it.
        due_at=due / 4096 / 1000 if due else None,
    )


def _decoded(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
