"""Compares what the database, the ledger, the queue and the dead letters know of a campaign, and repairs what can be
repaired (`mail-worker reconcile`)."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import redis

from worker.base import keys
from worker.base.redis_client import script
from worker.ledger.outbox import record_again
from worker.ledger.uncertain import UncertainMails
from worker.mail.shape import read_recipient
from worker.queue.producer import enqueue, jobs_of
from worker.queue.search import LOOK_AT_ONCE, LOOK_BYTES, next_at_once
from worker.recording.database import Recipient

FIRST_LOOK = 1
#: Of BullMQ's jobs, in the order in which they go on.
_STATES = ("delayed", "prioritized", "wait", "paused", "active")


class Recipients(Protocol):
    """What is needed of the database."""

    def recipients(self, campaign_id: str) -> Iterator[Recipient]: ...


@dataclass(slots=True)
class Report:
    """Subscribers of one campaign by what has become of them. Each is in one of the sets, except that those in
    `unrecorded` and `without_row` have been sent."""

    sent: set[str] = field(default_factory=set)
    #: Sent, but the database doesn't say so although nothing is on its way to it.
    unrecorded: set[str] = field(default_factory=set)
    #: Sent or failed, but the database has no such recipient.
    without_row: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    #: Their last try is uncertain.
    given_up: set[str] = field(default_factory=set)
    waiting: set[str] = field(default_factory=set)
    held: set[str] = field(default_factory=set)
    dead: set[str] = field(default_factory=set)
    #: Failed in BullMQ's queue without a result of ours.
    ended: set[str] = field(default_factory=set)
    #: Neither sent nor failed, and no message is left that could change that.
    missing: set[str] = field(default_factory=set)


class Reconciliation:
    """Every method raises redis.RedisError or DatabaseUnavailable while one of the two is away."""

    def __init__(self, client: "redis.Redis", database: Recipients, campaign_id: str, bullmq: str) -> None:
        """
        Args:
            bullmq: BullMQ's queue, `PREFIX:QUEUE`; empty without one.
        """
        self._client = client
        self._bullmq = bullmq
        self._database = database
        self._campaign_id = campaign_id
        self._recipients = client.register_script(script("ids", "recipients"))
        self._job_recipients = client.register_script(script("ids", "bullmq_recipients"))

    def report(self) -> Report:
        """Looks. A campaign that is being sent changes meanwhile: what it finds missing may just have moved."""
        report = Report()
        rows = {row.subscriber_id: row.sent for row in self._database.recipients(self._campaign_id)}
        # Messages come before the ledger: who leaves the queue in the meantime is in the ledger then.
        waiting = self._in(keys.MESSAGES) | self._in(keys.DELAYED_MESSAGES) | self._in(keys.MESSAGES)
        waiting |= self._jobs_in("waiting-children", *_STATES, *_STATES[:3])
        dead, ended = self._in(keys.DEAD_LETTER_MESSAGES), self._jobs_in("failed")
        held = self._held()
        states = {**dict.fromkeys(self._parked(), "s"), **self._states()}
        on_their_way = self._outbox()
        for subscriber_id in rows.keys() | states.keys():
            state = states.get(subscriber_id, "")
            if subscriber_id not in rows:
                report.without_row.add(subscriber_id)
            elif rows[subscriber_id] or state == "s":
                report.sent.add(subscriber_id)
                if not rows[subscriber_id] and subscriber_id not in on_their_way:
                    report.unrecorded.add(subscriber_id)
            elif state == "f":
                report.failed.add(subscriber_id)
            elif state == "g":
                report.given_up.add(subscriber_id)
            elif subscriber_id in waiting:
                report.waiting.add(subscriber_id)
            elif subscriber_id in held:
                report.held.add(subscriber_id)
            elif subscriber_id in dead:
                report.dead.add(subscriber_id)
            elif subscriber_id in ended:
                report.ended.add(subscriber_id)
            else:
                report.missing.add(subscriber_id)
        return report

    def repair(self, report: Report, jobs: Path | None) -> int:
        """Puts unrecorded results into the outbox again, has the campaign looked at, and queues the jobs of missing
        recipients.

        Args:
            jobs: a file as for `mail-worker enqueue`; jobs of all others in it are left alone.

        Returns:
            The number of jobs that were queued.
        """
        self._record_again(report.unrecorded)
        self._client.sadd(keys.OPEN_CAMPAIGNS, self._campaign_id)
        if jobs is None or not report.missing:
            return 0
        queued = 0
        missing = jobs_of(jobs, self._campaign_id, report.missing)
        for so_far in enqueue(self._client, (job for _, job in missing)):
            queued = so_far
        return queued

    def _in(self, key: str) -> set[str]:
        found: set[str] = set()
        cursor: Any = 0
        at_once = FIRST_LOOK
        while True:
            cursor, looked_bytes, *subscribers = self._recipients(keys=[key], args=[self._campaign_id, cursor, at_once])
            found.update(_read(subscribers))
            if int(cursor) == 0:
                return found
            at_once = next_at_once(at_once, looked_bytes)

    def _jobs_in(self, *states: str) -> set[str]:
        """BullMQ's jobs. What moves on while its state is read is found in the next one."""
        found: set[str] = set()
        for state in states if self._bullmq else ():
            start = 0
            while True:
                looked, *subscribers = self._job_recipients(
                    keys=[f"{self._bullmq}:{state}"],
                    args=[self._campaign_id, start, LOOK_AT_ONCE, f"{self._bullmq}:", LOOK_BYTES],
                )
                found.update(_read(subscribers))
                start += int(looked)
                if int(looked) == 0:
                    break
        return found

    def _held(self) -> set[str]:
        uncertain = UncertainMails(self._client).all(self._campaign_id)
        return {mail.entry.subscriber_id for mail in uncertain if mail.held and mail.entry.subscriber_id}

    def _states(self) -> dict[str, str]:
        found: Any = self._client.hscan_iter(keys.ledger(self._campaign_id), count=LOOK_AT_ONCE)
        return {subscriber.decode(): state[:1].decode() for subscriber, state in found}

    def _outbox(self) -> set[str]:
        return {fields[b"subscriber"].decode() for _, fields in self._entries(keys.OUTBOX)}

    def _parked(self) -> dict[str, str]:
        """Subscriber → state of those whose result was put aside."""
        return {
            fields[b"subscriber"].decode(): f"s:{fields[b'at'].decode()}:"
            for _, fields in self._entries(keys.PARKED_RESULTS)
            if fields[b"result"] == b"s"
        }

    def _entries(self, stream: str) -> Iterator[tuple[str, dict[bytes, bytes]]]:
        """The campaign's entries of a stream of results."""
        start = "-"
        while page := self._page(stream, start):
            for identity, fields in page:
                if fields.get(b"campaign", b"").decode() == self._campaign_id:
                    yield identity.decode(), fields
                start = f"({identity.decode()}"

    def _page(self, stream: str, start: str) -> list[Any]:
        page: Any = self._client.xrange(stream, min=start, count=LOOK_AT_ONCE)
        return list(page)

    def _record_again(self, subscribers: set[str]) -> None:
        chosen, parked = sorted(subscribers), self._parked()
        for start in range(0, len(chosen), LOOK_AT_ONCE):
            page = chosen[start : start + LOOK_AT_ONCE]
            states: Any = self._client.hmget(keys.ledger(self._campaign_id), page)
            # A result that was put aside outlives the ledger.
            found = {
                subscriber: state or parked[subscriber].encode() for subscriber, state in zip(page, states, strict=True)
            }
            record_again(self._client, self._campaign_id, found)
        for identity, _ in self._entries(keys.PARKED_RESULTS):
            self._client.xdel(keys.PARKED_RESULTS, identity)


def _read(subscribers: list[bytes]) -> Iterator[str]:
    """As lua/ids.lua returns them."""
    return filter(None, (read_recipient(subscriber.decode()) for subscriber in subscribers))
