"""The path of one mail, from a checked job to a recorded result."""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import redis

from worker.base.durations import Durations
from worker.errors import AccountRefused, NoConnectionYet, TransportUnavailable
from worker.ledger.ledger import Entry, GivenUp, Ledger, QueuedJob, SentElsewhere, Verdict
from worker.mail.jobs import Job
from worker.mail.message import Mail, build_mail
from worker.mail.outcomes import (
    CampaignRefused,
    Doubtful,
    Failed,
    Hindered,
    NotClaimed,
    Outcome,
    Retry,
    SenderRefused,
    Sent,
    Slow,
    Uncertain,
    is_of_one_mail,
    is_overload,
)
from worker.mail.retry import retry_delay_ms, tries_within
from worker.queue.control import Fault
from worker.queue.gate import Cause, Gate
from worker.sending.account import Account
from worker.sending.outage import Outage
from worker.sending.transports.base import NOTHING_LEFT, Transport

#: A mail whose turn is further away goes back to the queue, where others see it.
LONGEST_HELD_SECONDS = 30.0
#: A BullMQ job is locked while it waits here, and its app can't remove it.
LONGEST_LOCKED_SECONDS = 2.0
#: A mail that is told to slow down, or under which the connection ends, this often while others are accepted is refused
#: in the ordinary way: by its mailbox, or for something in it.
MAX_SLOW_DOWNS = 10
#: Before it fails, a mail that is refused in doubtful words is tried once more after this time.
DOUBT_MS = 60_000
OTHERS_SECONDS = 60.0
#: A mail that is hindered comes back so soon: what others do in the meantime tells whose matter it is. It counts for so
#: many slow-downs that the second time is the last that is free: a campaign may be over in seconds, and then there are
#: no others. Once is no proof, since it happens to all that are under way when an outage begins.
HINDERED_DELAY_SECONDS = 1.0
HINDERED_WEIGHT = 5
#: If nobody else sends any more after the first time, it comes back after so long: that an outage begins just then and
#: takes longer, though the server greets and lets in, is less likely than that it's the mail.
HINDERED_ALONE_SECONDS = 600.0
#: So many hindered mails are remembered, those of late.
MAX_REMEMBERED = 1_000

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Done:
    """The mail is dealt with: its message can go."""


@dataclass(frozen=True, slots=True)
class Back:
    """The mail waits in the queue: its campaign is paused, its turn is far away, or the process is stopping."""


@dataclass(frozen=True, slots=True)
class Parked:
    """The mail waits until its campaign, which is paused, is resumed."""

    campaign_id: str


@dataclass(frozen=True, slots=True)
class Before:
    """The mail had its result before, or its campaign is cancelled: its message can go."""


@dataclass(frozen=True, slots=True)
class Held:
    """The mail may have been accepted: its message waits for an operator, under this name."""

    name: str
    reason: str = "an earlier try may have been accepted"


@dataclass(frozen=True, slots=True)
class Later:
    """Bring the message back after `delay_ms`, with `attempts`, `slow_downs` and `losses` so far."""

    delay_ms: int
    attempts: int
    slow_downs: int
    reason: str = ""
    losses: int = 0


Disposition = Done | Before | Back | Parked | Held | Later


@dataclass(frozen=True, slots=True)
class Queued:
    """What the queue knows of a mail."""

    #: The same for each try.
    identity: str
    #: Tries that this mail's recipient has cost so far, and those that cost nothing although others got through.
    attempts: int = 0
    slow_downs: int = 0
    #: How often the server's reply to it was lost.
    losses: int = 0
    #: Its BullMQ job, if it's one, with the app's own rules for another try.
    job: QueuedJob | None = None
    max_attempts: int | None = None
    delay_ms: Callable[[int], int] = retry_delay_ms
    #: When it was queued, in ms since 1970 by its app's clock; 0 where nobody knows.
    queued_at_ms: int = 0


class Campaigns(Protocol):
    """What is needed of worker/queue/control.py."""

    async def pause(self, campaign_id: str, reason: str) -> None: ...
    async def fault(self, campaign_id: str, subscriber_id: str, reason: str, hint: str) -> Fault: ...


@dataclass(frozen=True, slots=True)
class Options:
    """What delivery goes by."""

    #: For so long a mail that is refused for now is tried again, unless its BullMQ job says how often.
    retry_hours: int
    #: A mail is given up when the reply to it was lost so often: each may be a copy.
    max_attempts: int
    hold_uncertain: bool = False
    #: See `Mail`.
    makes_text: bool = True


@dataclass(frozen=True, slots=True)
class _Hindrance:
    """When a mail was hindered last, on the loop's clock, and whether others ever got through meanwhile."""

    at: float
    among_others: bool


class Delivery:
    """Delivers jobs by one transport and account. Its waits end early once the process is stopping. `sent` and
    `durations` count."""

    def __init__(
        self,
        transport: Transport,
        ledger: Ledger,
        account: Account,
        gate: Gate,
        campaigns: Campaigns,
        process: str,
        options: Options,
    ) -> None:
        self._transport = transport
        self._ledger = ledger
        self._account = account
        self._gate = gate
        self._campaigns = campaigns
        self._options = options
        self._outage = Outage(gate)
        self._accepted_at = -OTHERS_SECONDS
        self._hindered: dict[str, _Hindrance] = {}
        self.sent = 0
        self.durations = Durations()
        self._claimants = (f"{process}:{number}" for number in itertools.count())

    async def deliver(self, job: Job, queued: Queued) -> Disposition:
        """Makes one try at a mail and records what came of it.

        While the account or the network lets no mail out, the mail waits here for a while, and then in the queue. No
        attempt is spent.

        Raises:
            redis.RedisError: the mail wasn't claimed; the message must come back.
        """
        entry = Entry(job.campaign_id, job.subscriber_id, queued.identity, queued.job)
        mail = self._mail(job, queued.identity)
        longest = LONGEST_HELD_SECONDS if queued.job is None else LONGEST_LOCKED_SECONDS
        held_until = asyncio.get_running_loop().time() + longest
        while True:
            if asyncio.get_running_loop().time() + self._gate.seconds > held_until or not await self._gate.passed():
                return Back()
            attempt = _Attempt(entry, self._claimant(mail), self._ledger)
            try:
                outcome = await self._try(mail, attempt)
            except NoConnectionYet as error:
                # It was claimed on a connection that ended.
                await attempt.release(str(error))
                if not error.wait_ms:
                    return Back()
                self._gate.close(Cause.CONNECTIONS, error.wait_ms)
            except TransportUnavailable as error:
                await attempt.release(str(error))
                self._outage.began(str(error))
            except AccountRefused as error:
                if error.kind == "sending" and self._is_to_blame(queued, seconds=0.0):
                    return await self._settle(attempt, mail, Hindered(str(error)), queued)
                await attempt.release(str(error))
                self._gate.close(Cause.PAUSE, await self._account.refused(error))
            except redis.RedisError:
                # Redis may have the claim although its answer was lost.
                await attempt.release("Redis was away")
                raise
            except asyncio.CancelledError as error:
                # Out of time. What has left is uncertain as soon as this process is gone.
                if NOTHING_LEFT in error.args:
                    await attempt.release("the process stops")
                raise
            except Exception as error:
                # Nobody foresaw it, so nobody knows how far the mail came.
                if not attempt.claimed:
                    raise
                logger.exception("%s: unexpected error", mail.message_id)
                return await self._settle(attempt, mail, Uncertain(f"unexpected {type(error).__name__}"), queued)
            else:
                if isinstance(outcome, Hindered):
                    if not self._is_to_blame(queued, seconds=HINDERED_DELAY_SECONDS):
                        await attempt.release(outcome.reason)
                        if self._hindered[queued.identity].among_others:
                            slow_downs = queued.slow_downs + HINDERED_WEIGHT
                            return Later(
                                int(HINDERED_ALONE_SECONDS * 1000), queued.attempts, slow_downs, outcome.reason
                            )
                        self._outage.began(outcome.reason)
                        continue
                elif not isinstance(outcome, NotClaimed):
                    self._outage.over()
                if attempt.verdict is Verdict.WAIT:
                    self._gate.close(Cause.RATE, attempt.wait_ms)
                    continue
                self._gate.turn()
                if isinstance(outcome, NotClaimed):
                    disposition = self._not_claimed(attempt, mail, queued)
                else:
                    disposition = await self._settle(attempt, mail, outcome, queued)
                if isinstance(disposition, Later):
                    losses = queued.losses + isinstance(outcome, Uncertain)
                    return replace(disposition, losses=losses)
                return disposition

    def _claimant(self, mail: Mail) -> str:
        # With its places in the account's limits (lua/claim.lua).
        places = len(mail.recipients)
        return next(self._claimants) + (f"*{places}" if places > 1 else "")

    def rehearse(self, job: Job) -> None:
        """Builds its mail, whole, and throws it away."""
        mail = self._mail(job, "rehearsal")
        _ = mail.text, mail.data

    def _mail(self, job: Job, identity: str) -> Mail:
        return build_mail(job, identity, makes_text=self._options.makes_text)

    async def _try(self, mail: Mail, attempt: "_Attempt") -> Outcome:
        outcome = await self._transport.send(mail, attempt.claim)
        if not isinstance(outcome, Failed) or is_of_one_mail(outcome.reason):
            return outcome
        # No table knows all words for a used-up quota: others' replies tell whether it's this recipient's matter.
        judgement = await self._account.judge(
            outcome.reason, mail.recipients[0], attempt.entry.campaign_id, others_accepted=self._others_get_through()
        )
        match judgement.verdict:
            case "account":
                raise AccountRefused(f"The account's matter, by all signs: {judgement.sentence}.", "sending")
            case "campaign":
                return CampaignRefused(f"its mails are refused, and others aren't: {judgement.sentence}")
            case "again":
                return Doubtful(outcome.reason)
            case "fail":
                return outcome

    def _others_get_through(self) -> bool:
        # If not, it's an outage, which no mail is to blame for.
        return asyncio.get_running_loop().time() - self._accepted_at < OTHERS_SECONDS

    def _is_to_blame(self, queued: Queued, seconds: float) -> bool:
        """Whether a mail that was hindered is to blame itself: others got through since it was hindered before, or in
        so many seconds before the first time. An account that is used up refuses right after it accepted others."""
        now = asyncio.get_running_loop().time()
        before = self._hindered.pop(queued.identity, _Hindrance(now - seconds, among_others=False))
        others = self._accepted_at > before.at
        self._hindered[queued.identity] = _Hindrance(now, among_others=others or before.among_others)
        if len(self._hindered) > MAX_REMEMBERED:
            del self._hindered[next(iter(self._hindered))]
        # Once this was seen often enough, it proves nothing that nobody else sends.
        return others or queued.slow_downs >= MAX_SLOW_DOWNS

    async def fail(self, entry: Entry, reason: str) -> None:
        """Records that a recipient's job can't become a mail."""
        await self._ledger.record(entry, "", Failed(reason))

    async def sent_elsewhere(self, entry: Entry) -> None:
        """Records that another worker sent the mail, as the database says."""
        await self._ledger.record(entry, "", SentElsewhere("sent before by another worker, as its row says"))

    def _not_claimed(self, attempt: "_Attempt", mail: Mail, queued: Queued) -> Disposition:
        match attempt.verdict:
            case Verdict.BUSY:
                return Later(attempt.wait_ms, queued.attempts, queued.slow_downs)
            case Verdict.PAUSED if attempt.entry.campaign_id is not None:
                return Parked(attempt.entry.campaign_id)
            case Verdict.HELD:
                logger.warning(
                    "uncertain %s: held, see mail-worker uncertain",
                    mail.message_id,
                    extra=_facts(
                        "held", attempt.entry, mail, queued.attempts + 1, "an earlier try may have been accepted"
                    ),
                )
                return Held(attempt.entry.name)
            case _:
                return Before()

    async def _settle(self, attempt: "_Attempt", mail: Mail, outcome: Outcome, queued: Queued) -> Disposition:
        attempts, slow_downs = queued.attempts, queued.slow_downs
        last = attempts + 1 >= (queued.max_attempts or tries_within(self._options.retry_hours))
        if isinstance(outcome, Uncertain):
            last = queued.losses + 1 >= min(
                self._options.max_attempts, queued.max_attempts or self._options.max_attempts
            )
        match outcome:
            case Sent(reply=reply):
                self._accepted_at = asyncio.get_running_loop().time()
                self.durations.see("sending", self._accepted_at - attempt.claimed_at)
                if queued.queued_at_ms:
                    self.durations.see("waiting", time.time() - queued.queued_at_ms / 1000)
                await attempt.record(outcome)
                self.sent += 1
                logger.info(
                    "sent %s: %s",
                    mail.message_id,
                    reply,
                    extra=_facts("sent", attempt.entry, mail, attempts + 1, reply),
                )
                return Done()
            case Failed(reason=reason):
                await attempt.record(outcome)
                logger.warning(
                    "failed %s: %s",
                    mail.message_id,
                    reason,
                    extra=_facts("failed", attempt.entry, mail, attempts + 1, reason),
                )
                return Done()
            case Doubtful(reason=reason):
                await attempt.release(reason)
                logger.info(
                    "refused, and tried once more in %d s %s: %s",
                    DOUBT_MS // 1000,
                    mail.message_id,
                    reason,
                    extra=_facts("refused in doubtful words", attempt.entry, mail, attempts + 1, reason),
                )
                return Later(DOUBT_MS, attempts, slow_downs, reason)
            case SenderRefused(reason=reason):
                return await self._settle_sender(attempt, mail, reason, queued)
            case CampaignRefused(reason=reason):
                await attempt.release(reason)
                if attempt.entry.campaign_id is None:
                    raise RuntimeError("a campaign that isn't one was refused")
                await self._campaigns.pause(attempt.entry.campaign_id, reason)
                return Parked(attempt.entry.campaign_id)
            case Slow(reason=reason, after_ms=after_ms) if (
                slow_downs < MAX_SLOW_DOWNS or not self._others_get_through()
            ):
                await attempt.record(outcome)
                await self._account.slow_down(after_ms, reason)
                logger.warning(
                    "told to slow down %s: %s",
                    mail.message_id,
                    reason,
                    extra=_facts("slowed", attempt.entry, mail, attempts + 1, reason),
                )
                return Later(max(after_ms, 1000), attempts, slow_downs + self._others_get_through(), reason)
            case Hindered(reason=reason) if slow_downs < MAX_SLOW_DOWNS:
                await attempt.release(reason)
                logger.warning(
                    "hindered, while others get through, %s: %s",
                    mail.message_id,
                    reason,
                    extra=_facts("hindered", attempt.entry, mail, attempts + 1, reason),
                )
                return Later(int(HINDERED_DELAY_SECONDS * 1000), attempts, slow_downs + HINDERED_WEIGHT, reason)
            case Uncertain(reason=reason):
                if not last or self._options.hold_uncertain:
                    await attempt.record(outcome)
                logger.warning(
                    "uncertain %s: %s",
                    mail.message_id,
                    reason,
                    extra=_facts("uncertain", attempt.entry, mail, attempts + 1, reason),
                )
                if self._options.hold_uncertain:
                    return Held(attempt.entry.name, reason)
            case Retry(reason=reason) | Slow(reason=reason) | Hindered(reason=reason):
                if not last and isinstance(outcome, Slow):
                    await attempt.record(outcome)
                elif not last:
                    await attempt.release(reason)
                if is_overload(reason):
                    await self._account.strained(reason)
                logger.info(
                    "refused for now %s (attempt %d): %s",
                    mail.message_id,
                    attempts + 1,
                    reason,
                    extra=_facts("refused for now", attempt.entry, mail, attempts + 1, reason),
                )
        if last:
            words = f"given up after {attempts + 1} attempts"
            if isinstance(outcome, Uncertain) or (isinstance(outcome, Slow) and outcome.maybe_accepted):
                await attempt.record(GivenUp(f"{words}, but it may have arrived: {reason}"))
            else:
                await attempt.record(Failed(f"{words}: {reason}"))
            return Done()
        return Later(queued.delay_ms(attempts + 1), attempts + 1, slow_downs, reason)

    async def _settle_sender(self, attempt: "_Attempt", mail: Mail, reason: str, queued: Queued) -> Disposition:
        campaign_id, subscriber_id = attempt.entry.campaign_id, attempt.entry.subscriber_id
        if campaign_id is not None and subscriber_id is not None:
            hint = f"then: mail-worker resume {campaign_id}"
            fault = await self._campaigns.fault(campaign_id, subscriber_id, reason, hint)
            if fault.paused or fault.wait_ms:
                await attempt.release(reason)
                if fault.paused:
                    return Parked(campaign_id)
                return Later(fault.wait_ms, queued.attempts, queued.slow_downs, reason)
        await attempt.record(Failed(reason))
        logger.warning(
            "failed %s: %s",
            mail.message_id,
            reason,
            extra=_facts("failed", attempt.entry, mail, queued.attempts + 1, reason),
        )
        return Done()


class _Attempt:
    """One try's claim and result."""

    def __init__(self, entry: Entry, claimant: str, ledger: Ledger) -> None:
        self.entry = entry
        self.verdict: Verdict | None = None
        self.wait_ms = 0
        #: On the loop's clock.
        self.claimed_at = 0.0
        self._asked = False
        self._claimant = claimant
        self._ledger = ledger

    async def claim(self) -> bool:
        """Whether the mail may leave now."""
        if self.claimed:
            return True  # A second connection for the same try.
        self._asked = True
        self.verdict, self.wait_ms = await self._ledger.claim(self.entry, self._claimant)
        self.claimed_at = asyncio.get_running_loop().time()
        if self.verdict is Verdict.UNCERTAIN:
            logger.warning("a mail of %s may have been accepted before; it's sent again", self.entry.name)
        return self.claimed

    @property
    def claimed(self) -> bool:
        return self.verdict in (Verdict.CLAIMED, Verdict.UNCERTAIN)

    async def release(self, reason: str) -> None:
        """Gives the claim back, if there may be one: nothing was accepted."""
        if self._asked:
            await self._ledger.record(self.entry, self._claimant, Retry(reason))

    async def record(self, result: Sent | Failed | GivenUp | Uncertain | Slow) -> None:
        await self._ledger.record(self.entry, self._claimant, result)


def _facts(event: str, entry: Entry, mail: Mail, attempt: int, reply: str) -> dict[str, object]:
    """What a line in the log is about, for `JsonLines`."""
    return {
        "facts": {
            "event": event,
            "campaign": entry.campaign_id,
            "subscriber": entry.subscriber_id,
            "mail": mail.message_id,
            "attempt": attempt,
            "to": mail.recipients,
            "reply": reply,
        }
    }
