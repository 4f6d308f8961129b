"""The path of one mail, from a checked job to a recorded result."""

import asyncio
import logging
from dataclasses import dataclass
from secrets import token_hex

from worker.errors import TransportUnavailable
from worker.jobs import Job
from worker.ledger import Entry, Ledger, Verdict
from worker.message import build_mail
from worker.outage import Outage
from worker.outcomes import AlreadyDone, Failed, Outcome, Retry, Sent, Uncertain
from worker.retry import retry_delay_ms
from worker.transports.base import Transport

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Done:
    """The mail is dealt with: its message can go."""


@dataclass(frozen=True, slots=True)
class TryAgain:
    """Bring the message back after `delay_ms`, with `attempts` spent so far."""

    delay_ms: int
    attempts: int


class Delivery:
    """Delivers jobs by one transport. Its waits end early once `stopping` is set."""

    def __init__(self, transport: Transport, ledger: Ledger, *, max_attempts: int, stopping: asyncio.Event) -> None:
        self._transport = transport
        self._ledger = ledger
        self._max_attempts = max_attempts
        self._outage = Outage(stopping)

    async def deliver(self, job: Job, identity: str, attempts: int) -> Done | TryAgain:
        """Makes one try at a mail and records what came of it.

        While the transport is unavailable the mail waits here, in the process: no attempt is spent, and the queue
        stays where it can be counted.

        Args:
            identity: the message's id, the same for each try.
            attempts: tries that this mail's recipient has cost so far.

        Raises:
            redis.RedisError: the result isn't recorded; the message must come back.
        """
        entry = Entry(job.campaign_id, job.subscriber_id, identity)
        mail = build_mail(job, identity)
        claimant = token_hex(8)
        busy_ms = 0

        async def claim() -> bool:
            nonlocal busy_ms
            verdict, busy_ms = await self._ledger.claim(entry, claimant)
            if verdict is Verdict.UNCERTAIN:
                logger.warning(
                    "%s may have been accepted before; it is sent again with the same Message-ID", mail.message_id
                )
            return verdict in (Verdict.CLAIMED, Verdict.UNCERTAIN)

        while True:
            try:
                outcome = await self._transport.send(mail, claim)
            except TransportUnavailable as error:
                if await self._outage.wait(error):
                    continue
                return TryAgain(delay_ms=0, attempts=attempts)
            self._outage.over()
            break
        if busy_ms:
            return TryAgain(delay_ms=busy_ms, attempts=attempts)
        return await self._settle(entry, claimant, mail.message_id, outcome, attempts + 1)

    async def fail(self, entry: Entry, reason: str) -> None:
        """Records that a recipient's job can't become a mail."""
        await self._ledger.record(entry, Failed(reason))

    async def _settle(
        self, entry: Entry, claimant: str, message_id: str, outcome: Outcome, attempts: int
    ) -> Done | TryAgain:
        match outcome:
            case AlreadyDone():
                return Done()
            case Sent(reply=reply):
                await self._ledger.record(entry, outcome)
                logger.info("sent %s: %s", message_id, reply)
                return Done()
            case Failed(reason=reason):
                await self._ledger.record(entry, outcome)
                logger.warning("failed %s: %s", message_id, reason)
                return Done()
            case Uncertain(reason=reason):
                await self._ledger.record(entry, outcome)
                logger.warning("uncertain %s: %s", message_id, reason)
            case Retry(reason=reason):
                if attempts < self._max_attempts:
                    await self._ledger.release(entry, claimant)
                logger.info("refused for now %s (attempt %d): %s", message_id, attempts, reason)
        if attempts >= self._max_attempts:
            await self._ledger.record(entry, Failed(f"given up after {attempts} attempts: {reason}"))
            return Done()
        return TryAgain(retry_delay_ms(attempts), attempts)
