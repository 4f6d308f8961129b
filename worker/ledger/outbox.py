"""The outbox: results that the database doesn't hold yet, a stream that all recorders share. lua/record.lua fills it.

A recorder acknowledges an entry only after the database has it. What a recorder held when it died is taken over by
another one after a minute, so that an entry may be applied twice, which changes nothing.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import redis

from worker.base import keys
from worker.mail.fields import shorten
from worker.mail.shape import MAX_ID_CHARACTERS

GROUP = "recorder"
ABANDONED_AFTER_MS = 60_000
#: The year 10000, which no date can have.
_END_OF_TIME_MS = 253_402_300_800_000

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one recipient's mail. `at_ms` is Redis's time of the server's reply, in ms since 1970."""

    entry_id: str
    campaign_id: str
    subscriber_id: str
    sent: bool
    at_ms: int
    #: The server's words, of a mail that failed.
    words: str = ""


class Outbox:
    """One recorder's view of the outbox. Every method raises redis.RedisError while Redis is away."""

    def __init__(self, client: "redis.Redis", consumer: str) -> None:
        self._client = client
        self._consumer = consumer
        self._abandoned_from = "0-0"
        self._own_from = "0"

    def open(self) -> None:
        """Makes the stream and its group if they aren't there; `own` begins anew."""
        self._own_from = "0"
        try:
            self._client.xgroup_create(keys.OUTBOX, GROUP, id="0", mkstream=True)
        except redis.OutOfMemoryError:
            # Redis is full, and doesn't look whether they are.
            groups: Any = self._client.xinfo_groups(keys.OUTBOX)
            if GROUP not in {group["name"].decode() for group in groups}:
                raise
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def own(self, count: int) -> list[Result]:
        """The next of what this recorder took before it was restarted, or the database was away."""
        results = self._read(self._own_from, count, None)
        if results:
            self._own_from = results[-1].entry_id
        return results

    def new(self, count: int, wait_ms: int | None) -> list[Result]:
        """Up to `count` results that nobody has taken; with `wait_ms`, waits so long for the first one."""
        return self._read(">", count, wait_ms)

    def abandoned(self, count: int) -> list[Result]:
        """Takes over what other recorders have held for too long."""
        answer: Any = self._client.xautoclaim(
            keys.OUTBOX, GROUP, self._consumer, ABANDONED_AFTER_MS, self._abandoned_from, count=count
        )
        cursor, entries = answer[:2]
        self._abandoned_from = cursor.decode()
        return self._results(entries)

    def done(self, results: list[Result]) -> None:
        """Removes results that the database holds."""
        ids = [result.entry_id for result in results]
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.xack(keys.OUTBOX, GROUP, *ids)
            pipeline.xdel(keys.OUTBOX, *ids)
            pipeline.execute()

    def park(self, result: Result, reason: str) -> None:
        """Moves a result that the database will never take out of the way, with the reason."""
        fields: dict[str | bytes, str] = {
            "campaign": result.campaign_id,
            "subscriber": result.subscriber_id,
            "result": "s" if result.sent else "f",
            "at": str(result.at_ms),
            "reason": reason,
        }
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.xadd(keys.PARKED_RESULTS, fields)  # type: ignore[arg-type]  # dict is invariant
            pipeline.xack(keys.OUTBOX, GROUP, result.entry_id)
            pipeline.xdel(keys.OUTBOX, result.entry_id)
            pipeline.execute()

    def _read(self, from_id: str, count: int, wait_ms: int | None) -> list[Result]:
        streams: Any = self._client.xreadgroup(
            GROUP, self._consumer, {keys.OUTBOX: from_id}, count=count, block=wait_ms
        )
        return self._results([entry for _, entries in streams or () for entry in entries])

    def _results(self, entries: list[tuple[bytes, dict[bytes, bytes]]]) -> list[Result]:
        results = []
        for entry_id, fields in entries:
            try:
                results.append(_result(entry_id, fields))
            except (KeyError, TypeError, ValueError):
                # Only lua/record.lua writes here, so somebody's hand was in the stream, or deleted the entry.
                logger.error(
                    "entry %s of %s isn't a result: %s. It is dropped.", entry_id.decode(), keys.OUTBOX, shorten(fields)
                )
                self._client.xack(keys.OUTBOX, GROUP, entry_id)
                self._client.xdel(keys.OUTBOX, entry_id)
        return results


def record_again(client: "redis.Redis", campaign_id: str, states: Mapping[str, bytes]) -> None:
    """Queues results that the ledger has and the database lacks, though nothing is on its way to it.

    Args:
        states: of subscribers whose mails were sent, as the ledger has them.

    Raises:
        redis.RedisError: Redis is away.
    """
    with client.pipeline(transaction=False) as pipeline:
        for subscriber_id, state in states.items():
            fields: dict[str, str] = {
                "campaign": campaign_id,
                "subscriber": subscriber_id,
                "result": "s",
                "at": state.split(b":")[1].decode(),
                "words": "",
            }
            pipeline.xadd(keys.OUTBOX, fields)  # type: ignore[arg-type]  # dict is invariant
        pipeline.execute()


def _result(entry_id: bytes, fields: dict[bytes, bytes]) -> Result:
    at_ms = int(fields[b"at"])
    ids = fields[b"campaign"].decode(), fields[b"subscriber"].decode()
    if not 0 <= at_ms < _END_OF_TIME_MS or max(map(len, ids)) > MAX_ID_CHARACTERS:
        raise ValueError(at_ms)
    return Result(
        entry_id=entry_id.decode(),
        campaign_id=ids[0],
        subscriber_id=ids[1],
        sent=fields[b"result"] == b"s",
        at_ms=at_ms,
        words=fields.get(b"words", b"").decode(errors="replace"),
    )
