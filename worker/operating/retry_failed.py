"""Gives recipients that failed another try (`mail-worker retry-failed`)."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import redis

from worker.base import keys
from worker.base.redis_client import script
from worker.ledger.ledger import LEDGER_SECONDS
from worker.ledger.uncertain import UncertainMails
from worker.mail.outcomes import is_hard_bounce
from worker.mail.shape import recipient_key
from worker.queue.producer import enqueue, jobs_of

AT_ONCE = 100
LOOK_AT_ONCE = 500


@dataclass(slots=True)
class Failed:
    """A campaign's failed recipients: those that were asked for, and those that are left out for a reason."""

    chosen: set[str] = field(default_factory=set)
    #: There's no such mailbox.
    bounced: set[str] = field(default_factory=set)
    #: An earlier try may have been accepted.
    uncertain: set[str] = field(default_factory=set)


class FailedMails:
    """Every method raises redis.RedisError while Redis is away."""

    def __init__(self, client: "redis.Redis", campaign_id: str, bullmq: str) -> None:
        """
        Args:
            bullmq: BullMQ's queue, `PREFIX:QUEUE`; empty without one.
        """
        self._client = client
        self._campaign_id = campaign_id
        self._bullmq = bullmq
        self._reopen = client.register_script(script("clock", "states", "bullmq", "reopen"))

    @property
    def is_cancelled(self) -> bool:
        """Whether its mails would be dropped."""
        state: Any = self._client.hget(keys.CONTROL, self._campaign_id)
        return state is not None and state.startswith(b"cancelled")

    def find(self, reason: str, before: datetime | None) -> Failed:
        """Those who failed before a time.

        Args:
            reason: a part of the server's words, in whatever case; hard bounces are chosen only if it names them.
        """
        failed = Failed()
        uncertain = {mail.entry.subscriber_id for mail in UncertainMails(self._client).all(self._campaign_id)}
        states: Any = self._client.hscan_iter(keys.ledger(self._campaign_id), count=LOOK_AT_ONCE)
        for subscriber, state in states:
            kind, at_ms, words = state.decode(errors="replace").split(":", 2)
            late = before is not None and int(at_ms) >= before.timestamp() * 1000
            if kind != "f" or late or reason.lower() not in words.lower():
                continue
            subscriber_id = subscriber.decode()
            if subscriber_id in uncertain:
                failed.uncertain.add(subscriber_id)
            elif not reason and is_hard_bounce(words):
                failed.bounced.add(subscriber_id)
            else:
                failed.chosen.add(subscriber_id)
        return failed

    def retry(self, subscribers: set[str], jobs: Path | None) -> int:
        """Takes their results back and queues their jobs: those that are failed in BullMQ's queue, or those of a file
        as for `mail-worker enqueue`. Returns how many; the others have no job, and stay failed."""
        left = set(subscribers)
        for page in _pages(self._failed_jobs(left)):
            left -= self._reopen_all(page)
        if jobs is not None:
            for batch in _pages(jobs_of(jobs, self._campaign_id, left)):
                by_subscriber = dict(batch)
                reopened = self._reopen_all([(subscriber, "") for subscriber in by_subscriber])
                for _ in enqueue(self._client, (by_subscriber[subscriber] for subscriber in reopened)):
                    pass
                left -= reopened
        return len(subscribers) - len(left)

    def _reopen_all(self, items: list[tuple[str, str]]) -> set[str]:
        places: Any = self._reopen(
            keys=[*keys.bullmq_keys(self._bullmq), keys.OPEN_CAMPAIGNS],
            args=[self._campaign_id, LEDGER_SECONDS, json.dumps(items)],
        )
        return {items[place][0] for place in places}

    def _failed_jobs(self, subscribers: set[str]) -> Iterator[tuple[str, str]]:
        if not self._bullmq:
            return
        # From a list that is read before anything moves, in steps that miss nothing that stays.
        scores: Any = self._client.zscan_iter(f"{self._bullmq}:failed", count=LOOK_AT_ONCE)
        for page in _pages(iter(dict(scores))):
            with self._client.pipeline(transaction=False) as pipeline:
                for identity in page:
                    pipeline.hget(f"{self._bullmq}:{identity.decode()}", "data")
                bodies = pipeline.execute()
            for identity, data in zip(page, bodies, strict=True):
                recipient = _recipient(data)
                if recipient and recipient[0] == self._campaign_id and recipient[1] in subscribers:
                    yield recipient[1], identity.decode()


def _pages(items: Iterator[Any]) -> Iterator[list[Any]]:
    while page := list(islice(items, AT_ONCE)):
        yield page


def _recipient(data: bytes | None) -> tuple[str, str] | None:
    try:
        return recipient_key(json.loads(data or b""))
    except (ValueError, RecursionError):
        return None
