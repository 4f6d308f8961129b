"""Mails that may have been accepted although nobody heard the server's reply (`mail-worker uncertain`)."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import redis

from worker.base import keys
from worker.base.redis_client import script
from worker.ledger.ledger import Entry, mark_sent

#: What is held of a job of BullMQ's begins so (lua/jobs.lua), and no message does.
_JOB = b'{"bullmq":'
AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class UncertainMail:
    """`held` mails wait for an operator; the others are `resent`, or `given up` after the last try. `at` is in seconds
    since 1970."""

    entry: Entry
    at: float
    why: str
    resolution: str

    @property
    def held(self) -> bool:
        return self.resolution == "held"


class UncertainMails:
    """Every method raises redis.RedisError while Redis is away."""

    def __init__(self, client: "redis.Redis") -> None:
        self._client = client
        self._resend = client.register_script(script("clock", "ids", "lanes", "bullmq", "uncertain"))

    def all(self, campaign_id: str | None = None, subscriber_id: str | None = None) -> Iterator[UncertainMail]:
        """Those of a campaign, of one of its subscribers, or all; the oldest first."""
        stored: Any = self._client.hscan_iter(keys.UNCERTAIN, count=AT_ONCE)
        mails = [_read(name, value) for name, value in dict(stored).items()]
        for mail in sorted(mails, key=lambda mail: mail.at):
            if campaign_id in (None, mail.entry.campaign_id) and subscriber_id in (None, mail.entry.subscriber_id):
                yield mail

    def forget_resent(self, older_than_seconds: float) -> None:
        """Takes mails that were sent again or given up so long ago off the list; those that are held stay."""
        old = [mail.entry.name for mail in self.all() if not mail.held and time.time() - mail.at > older_than_seconds]
        for start in range(0, len(old), AT_ONCE):
            self._client.hdel(keys.UNCERTAIN, *old[start : start + AT_ONCE])

    def resend(self, mail: UncertainMail) -> bool:
        """Queues a held mail again; its Message-ID stays the same. False if it isn't held any more."""
        entry = mail.entry
        queue_keys = [*keys.QUEUE_KEYS, keys.UNCERTAIN, keys.HELD_MESSAGES, entry.key]
        return bool(self._resend(keys=queue_keys, args=[entry.name, entry.field, str(uuid4())]))

    def mark_sent(self, mail: UncertainMail) -> None:
        """Records a held mail as sent, because its recipient or the provider's log says so. A job of BullMQ's comes
        back, and is completed by whoever takes it."""
        held: Any = self._client.hget(keys.HELD_MESSAGES, mail.entry.name)
        mark_sent(self._client, mail.entry)
        if held is not None and held.startswith(_JOB):
            self._client.hset(keys.HELD_MESSAGES, mail.entry.name, held)
            if not self.resend(mail):  # Its app has cleared it away.
                self._client.hdel(keys.HELD_MESSAGES, mail.entry.name)


def _read(name: bytes, value: bytes) -> UncertainMail:
    campaign_id, subscriber_id, identity = json.loads(name)
    at_ms, why, resolution = json.loads(value)
    return UncertainMail(Entry(campaign_id, subscriber_id, identity), at_ms / 1000, why, resolution)
