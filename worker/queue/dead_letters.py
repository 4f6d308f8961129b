"""Messages that can't be worked on, each with the reason (`mail-worker dead`)."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import redis

from worker.base import keys
from worker.base.redis_client import script
from worker.mail.shape import recipient_key

AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """`at` is in seconds since 1970; `campaign_id` is None when the message doesn't say."""

    identity: str
    at: float
    reason: str
    campaign_id: str | None


class DeadLetters:
    """Every method raises redis.RedisError while Redis is away."""

    def __init__(self, client: "redis.Redis") -> None:
        self._client = client
        self._revive = client.register_script(script("clock", "ids", "lanes", "revive"))

    def all(self) -> Iterator[DeadLetter]:
        """The oldest first."""
        start = 0
        while page := self._page(start):
            yield from page
            start += len(page)

    def message(self, identity: str) -> bytes | None:
        """The message itself, None if there's none."""
        data: Any = self._client.hget(keys.DEAD_LETTER_MESSAGES, identity)
        return bytes(data) if data is not None else None

    def retry(self, identity: str) -> bool:
        """Queues it again; False if there's none."""
        return bool(self._revive(keys=list(keys.QUEUE_KEYS), args=["retry", identity]))

    def drop(self, identity: str) -> bool:
        """Deletes it; False if there's none."""
        return bool(self._revive(keys=list(keys.QUEUE_KEYS), args=["drop", identity]))

    def _page(self, start: int) -> list[DeadLetter]:
        found: Any = self._client.zrange(keys.DEAD_LETTERS, start, start + AT_ONCE - 1, withscores=True)
        letters = []
        for raw, at_ms in found:
            identity = raw.decode(errors="replace")
            reason: Any = self._client.get(keys.dead_letter_reason(identity))
            words = reason.decode(errors="replace") if reason else "unknown"
            letters.append(DeadLetter(identity, at_ms / 1000, words, _campaign(self.message(identity))))
        return letters


def _campaign(data: bytes | None) -> str | None:
    try:
        [job] = json.loads(data or b"")["args"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    recipient = recipient_key(job)
    return recipient[0] if recipient else None
