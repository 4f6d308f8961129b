"""The ledger: what has become of each recipient's mail. It decides that a mail is sent once; the database is its
projection. Recording a result also puts it into the outbox, in one atomic step (lua/record.lua)."""

import asyncio
import logging
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import redis
import redis.asyncio

from worker import keys
from worker.outcomes import Failed, Sent, Uncertain
from worker.redis_client import explain, script

#: Longer than any try lasts, so that a claim this old belongs to a process that died.
CLAIM_SECONDS = 90
LEDGER_SECONDS = 30 * 86_400
#: The ledger keeps this much of a server's reply, for memory's sake.
REASON_CHARACTERS = 200

RECORD_AGAIN_SECONDS = 1.0

_SINGLE_FIELD = "-"

logger = logging.getLogger(__name__)


class Verdict(StrEnum):
    """What a claim found; see lua/claim.lua."""

    CLAIMED = "claimed"
    UNCERTAIN = "uncertain"
    DONE = "done"
    BUSY = "busy"


@dataclass(frozen=True, slots=True)
class Entry:
    """Whose mail it is. Without a campaign, `identity` (the message's id) alone tells mails apart."""

    campaign_id: str | None
    subscriber_id: str | None
    identity: str

    @property
    def key(self) -> str:
        return keys.single(self.identity) if self.campaign_id is None else keys.ledger(self.campaign_id)

    @property
    def field(self) -> str:
        return self.subscriber_id or _SINGLE_FIELD


class Ledger(Protocol):
    """What delivery needs of it. `claim` and `release` raise redis.RedisError while Redis is away."""

    async def claim(self, entry: Entry, claimant: str) -> tuple[Verdict, int]: ...
    async def release(self, entry: Entry, claimant: str) -> None: ...
    async def record(self, entry: Entry, result: Sent | Failed | Uncertain) -> None: ...


class RedisLedger:
    """The ledger in Redis."""

    def __init__(self, client: "redis.asyncio.Redis") -> None:
        self._claim = client.register_script(script("claim"))
        self._release = client.register_script(script("release"))
        self._record = client.register_script(script("record"))

    async def claim(self, entry: Entry, claimant: str) -> tuple[Verdict, int]:
        """Claims the mail for `claimant`; with `Verdict.BUSY` come the milliseconds to wait."""
        verdict, wait_ms = await self._claim(
            keys=[entry.key], args=[entry.field, claimant, CLAIM_SECONDS, LEDGER_SECONDS]
        )
        return Verdict(verdict.decode()), wait_ms

    async def release(self, entry: Entry, claimant: str) -> None:
        """Gives the claim back: the server refused the mail for now."""
        await self._release(keys=[entry.key], args=[entry.field, claimant])

    async def record(self, entry: Entry, result: Sent | Failed | Uncertain) -> None:
        """Makes the result final (`Uncertain` apart) and queues the database update; a second time changes nothing.
        Waits for as long as Redis is away."""
        match result:
            case Sent():
                # A sent mail's reply is in the log; the ledger of a big campaign must stay small.
                letter, words = "s", ""
            case Failed(reason=words):
                letter = "f"
            case Uncertain(reason=words):
                letter = "u"
        campaign_id = entry.campaign_id or ""
        names = [entry.key, keys.counts(campaign_id), keys.OUTBOX, keys.OPEN_CAMPAIGNS]
        values: list[str | int] = [campaign_id, entry.field, letter, words[:REASON_CHARACTERS], LEDGER_SECONDS]
        reported = False
        while True:
            try:
                await self._record(keys=names, args=values)
                return
            except redis.RedisError as error:
                # A result that gets lost here is a mail sent twice: hold on to it for as long as the process lives.
                if not reported:
                    logger.error("%s Holding on to results.", explain(error))
                    reported = True
                await asyncio.sleep(RECORD_AGAIN_SECONDS)
