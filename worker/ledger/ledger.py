"""The ledger: what has become of each recipient's mail. It decides that a mail is sent once; the database is its
projection. A claim also asks the campaign's state and the account's limits, and recording a result also puts it into
the outbox, each in one atomic step (lua/claim.lua, lua/record.lua)."""

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import redis
import redis.asyncio

from worker.base import keys
from worker.base.coalesce import Coalescer
from worker.base.fence import Fence
from worker.base.redis_client import encodable, explain, script
from worker.mail.outcomes import Failed, Retry, Sent, Slow, Uncertain
from worker.mail.pacing import Limit

#: Longer than any try lasts, so that no result comes after it: two connections that end before the content, and a third
#: one with each step in RFC 5321's time, are 55 minutes. A dead process's claim ends when it's taken for dead.
CLAIM_SECONDS = 3600
#: A dead process's mails keep their places in the account's limits for so long.
FLIGHT_SECONDS = 180
LEDGER_SECONDS = 30 * 86_400
#: A mail outside any campaign is remembered for so long once its message is gone, and only its producer could queue it
#: again.
SINGLE_SECONDS = 86_400
#: The same while BullMQ keeps its job, which somebody may retry by hand.
KEPT_JOB_SECONDS = 7 * 86_400
#: The ledger keeps this much of a server's reply, for memory's sake.
REASON_CHARACTERS = 200
#: A job keeps this much of the reply to an accepted mail: a server may send 64 kB, and a hundred results go together.
REPLY_CHARACTERS = 1000
#: A campaign isn't paused for its first few failures.
PAUSE_FROM_FAILURES = 20

RECORD_AGAIN_SECONDS = 1.0

_RECORD_KEYS = (
    keys.OUTBOX,
    keys.OPEN_CAMPAIGNS,
    keys.UNCERTAIN,
    keys.CONTROL,
    keys.LANES,
    keys.HELD_MESSAGES,
    keys.TOTALS,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SentElsewhere:
    """Another worker sent the mail, and the database has it: nothing is to be written there."""

    reply: str


@dataclass(frozen=True, slots=True)
class GivenUp:
    """The last try is uncertain: the mail may have arrived, and isn't tried again."""

    reason: str


Result = Sent | SentElsewhere | Failed | GivenUp | Uncertain | Retry | Slow


class Verdict(StrEnum):
    """What a claim found; see lua/claim.lua."""

    CLAIMED = "claimed"
    UNCERTAIN = "uncertain"
    HELD = "held"
    DONE = "done"
    BUSY = "busy"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """The BullMQ job of a mail: a result finishes it in the same step, so that nothing can die between "sent" and
    "completed"."""

    id: str
    #: As the app has written it: another job may get the id after an `obliterate`.
    timestamp: str
    message_id: str
    #: It failed for good before, and somebody wants it tried again.
    wanted_again: bool = False
    #: Another worker took it and never finished.
    may_have_been_sent: bool = False
    #: How many are kept, of what age; see lua/bullmq.lua.
    keep_completed: Sequence[float] = ()
    keep_failed: Sequence[float] = ()

    def returnvalue(self, reply: str) -> str:
        """As nodemailer's, which the app's own worker would have returned."""
        value = {"messageId": self.message_id, "response": encodable(reply[:REPLY_CHARACTERS])}
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    def end(self, reply: str) -> list[object]:
        """What lua/record.lua wants to know."""
        return [self.id, self.timestamp, self.returnvalue(reply), self.keep_completed, self.keep_failed]


@dataclass(frozen=True, slots=True)
class Entry:
    """Whose mail it is. Without a campaign, `identity` (the message's id) alone tells mails apart."""

    campaign_id: str | None
    subscriber_id: str | None
    identity: str
    job: QueuedJob | None = None

    @property
    def key(self) -> str:
        """The ledger that it's in."""
        return keys.single(self.identity) if self.campaign_id is None else keys.ledger(self.campaign_id)

    @property
    def field(self) -> str:
        """Its place there."""
        return self.subscriber_id or "-"

    @property
    def name(self) -> str:
        """The mail's field in `mail:uncertain`: one for a recipient, however many messages of it there are."""
        identity = self.identity if self.campaign_id is None else ""
        return json.dumps([self.campaign_id, self.subscriber_id, identity], ensure_ascii=False)

    def for_script(self) -> list[str]:
        """See lua/states.lua."""
        return [self.campaign_id or "", self.subscriber_id or "", self.identity, self.name]


@dataclass(frozen=True, slots=True)
class LedgerOptions:
    """What the scripts go by."""

    limits: tuple[Limit, ...] = ()
    hold_uncertain: bool = False
    #: How long the provider drops second copies by itself.
    idempotent_seconds: int = 0
    #: A campaign pauses when more of its mails fail; 100 is never.
    pause_above_percent: int = 100
    #: BullMQ's queue, `PREFIX:QUEUE`; empty without one.
    bullmq: str = ""


class Ledger(Protocol):
    """What delivery needs of it. `claim` raises redis.RedisError while Redis is away; `record` waits."""

    async def claim(self, entry: Entry, claimant: str) -> tuple[Verdict, int]: ...
    async def record(self, entry: Entry, claimant: str, result: Result) -> None: ...


class RedisLedger:
    """The ledger in Redis, as one process and its account see it."""

    def __init__(
        self,
        client: "redis.asyncio.Redis",
        process: str,
        account: str,
        options: LedgerOptions,
        fence: Fence | None = None,
    ) -> None:
        """
        Args:
            fence: shared with the process's queue.
        """
        self._fence = fence or Fence(client, process)
        self._claim_lost = False
        limits = [[limit.mails, limit.window_ms] for limit in options.limits]
        windows = [keys.window(account, limit.window_ms) for limit in options.limits]
        self._claim_keys = [
            keys.CONTROL,
            keys.ALIVE,
            keys.UNCERTAIN,
            keys.account(account),
            keys.in_flight(account),
            *windows,
        ]
        self._claim_config = {
            "process": process,
            "claim_ms": CLAIM_SECONDS * 1000,
            "flight_ms": FLIGHT_SECONDS * 1000,
            "ledger_seconds": LEDGER_SECONDS,
            "hold": options.hold_uncertain,
            "idempotent_ms": options.idempotent_seconds * 1000,
            "limits": limits,
            "taken": f"{keys.bullmq_own(options.bullmq)}:taken:{process}",
        }
        self._record_keys = [
            *_RECORD_KEYS,
            keys.account(account),
            keys.in_flight(account),
            *windows,
        ]
        self._record_config = json.dumps(
            {
                "ledger_seconds": LEDGER_SECONDS,
                "single_seconds": SINGLE_SECONDS,
                "kept_job_seconds": KEPT_JOB_SECONDS,
                "hold": options.hold_uncertain,
                "pause_percent": options.pause_above_percent,
                "pause_from": PAUSE_FROM_FAILURES,
                "limits": limits,
                "process": process,
                "queue": options.bullmq,
                "own": keys.bullmq_own(options.bullmq),
                "alive": keys.ALIVE,
            }
        )
        self._held = 0  # Results that wait for Redis.
        self._claim_script = client.register_script(script("clock", "states", "claim"))
        self._record_script = client.register_script(script("clock", "states", "bullmq", "record"))
        self._claims: Coalescer[list[object], tuple[Verdict, int]] = Coalescer(
            self._claim_all, alone_after=redis.ResponseError
        )
        self._records: Coalescer[list[object], None] = Coalescer(self._record_all, alone_after=redis.ResponseError)

    async def claim(self, entry: Entry, claimant: str) -> tuple[Verdict, int]:
        """Claims the mail for `claimant` (`PROCESS:NUMBER`). With `Verdict.BUSY` and `Verdict.WAIT` come the
        milliseconds to wait."""
        job = entry.job
        asked = [job.id, job.wanted_again, job.may_have_been_sent] if job else ["", False, False]
        try:
            return await self._claims([entry.for_script(), claimant, *asked])
        except redis.RedisError:
            self._claim_lost = True
            raise

    async def record(self, entry: Entry, claimant: str, result: Result) -> None:
        """Makes the result final (`Uncertain` apart), finishes the job and queues the database update, or gives the
        claim back (`Retry`, `Slow`); a second time changes nothing. Waits for as long as Redis is away."""
        reply = ""
        match result:
            case Sent(reply=reply):
                # A sent mail's reply is in the log; the ledger of a big campaign must stay small.
                letter, words = "s", ""
            case SentElsewhere(reply=reply):
                letter, words = "w", ""
            case Failed(reason=words):
                letter = "f"
            case GivenUp(reason=words):
                letter = "g"
            case Uncertain(reason=words):
                letter = "u"
            case Slow(maybe_accepted=True):
                letter, words = "k", ""
            case Retry() | Slow():
                letter, words = "r", ""
        arguments: list[object] = [
            entry.for_script(),
            claimant,
            letter,
            encodable(words[:REASON_CHARACTERS]),
            entry.job.end(reply) if entry.job else False,
        ]
        held = False
        while True:
            try:
                if self._claim_lost:
                    # The claim may arrive after what takes it back.
                    await self._fence.up()
                    self._claim_lost = False
                await self._records(arguments)
                break
            except redis.RedisError as error:
                # A result that gets lost here is a mail sent twice: hold on to it for as long as the process lives.
                if not held:
                    held = True
                    self._held += 1
                    if self._held == 1:
                        logger.error("%s Holding on to results.", explain(error))
                await asyncio.sleep(RECORD_AGAIN_SECONDS)
        if held:
            self._held -= 1
            if self._held == 0:
                logger.info("Redis answers again. No result is held any more.")

    async def _claim_all(self, mails: list[list[object]]) -> list[tuple[Verdict, int]]:
        answers: list[Any] = []
        while not answers:
            number = self._fence.number
            config = json.dumps({**self._claim_config, "fence": number})
            answers = await self._claim_script(keys=self._claim_keys, args=[config, json.dumps(mails)])
            if not answers and number == self._fence.number:
                # It was raised in Redis alone, when that answer got lost.
                await self._fence.up()
        verdicts = (Verdict(verdict.decode()) for verdict in answers[::2])
        return list(zip(verdicts, answers[1::2], strict=True))

    async def _record_all(self, results: list[list[object]]) -> list[None]:
        paused = await self._record_script(keys=self._record_keys, args=[self._record_config, json.dumps(results)])
        for campaign_id in paused:
            logger.error(
                "campaign %s is paused, because too many of its mails fail: see mail-worker status, then"
                " mail-worker resume.",
                campaign_id.decode(),
            )
        return [None] * len(results)


def mark_sent(client: "redis.Redis", entry: Entry) -> None:
    """Records what an operator knows, without a claim or an account.

    Raises:
        redis.RedisError: Redis is away.
    """
    config = {
        "ledger_seconds": LEDGER_SECONDS,
        "hold": False,
        "pause_percent": 100,
        "pause_from": 0,
        "limits": [],
        "queue": "",
        "own": "",
        "alive": keys.ALIVE,
    }
    client.register_script(script("clock", "states", "bullmq", "record"))(
        keys=[*_RECORD_KEYS, keys.account(""), keys.in_flight("")],
        args=[json.dumps(config), json.dumps([[entry.for_script(), "", "s", "", False]])],
    )
