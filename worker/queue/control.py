"""Pausing, resuming and cancelling a campaign, and its priority: `mail-worker pause` and the like, and the worker
itself when a campaign goes wrong."""

import logging
import time
from dataclasses import dataclass
from typing import Any, Literal

import redis
import redis.asyncio

from worker.base import keys
from worker.base.redis_client import encodable, script
from worker.ledger.ledger import LEDGER_SECONDS
from worker.mail.same_words import same_words

DROP_AT_ONCE = 1000
#: Each takes some 20 µs in Redis, which serves nobody else meanwhile.
UNPARK_AT_ONCE = 100
#: Few mails take longer; who waits for them is told which may still arrive.
LAST_MAILS_SECONDS = 200.0
LOOK_EVERY_SECONDS = 0.2

Priority = Literal["high", "normal", "low"]
#: What a campaign was before it was resumed.
Resumed = Literal["paused", "cancelled"]


def _keys(bullmq: str) -> list[str]:
    return [*keys.QUEUE_KEYS, keys.OPEN_CAMPAIGNS, *keys.bullmq_keys(bullmq), keys.IDLE_CAMPAIGNS]


#: The reason of a pause or a cancel that nobody needs to be told of.
BY_HAND = "by an operator"

logger = logging.getLogger(__name__)


def state_words(control: str) -> str:
    """For people: what mail:control says of a campaign, `paused:REASON` or `cancelled:REASON`."""
    return control.replace(":", ": ", 1)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is to be done with a job that is wrong in a way in which its whole campaign may be. Neither paused nor to
    wait: it's at fault alone. `sender` is what an operator has set for the campaign, or empty."""

    paused: bool
    wait_ms: int
    sender: str


class AsyncControl:
    """What a worker process does."""

    def __init__(self, client: "redis.asyncio.Redis") -> None:
        self._script = client.register_script(script("clock", "ids", "lanes", "bullmq", "control"))

    async def pause(self, campaign_id: str, reason: str) -> None:
        """Pauses a campaign because of `reason`, and says so once."""
        if await self._script(keys=_keys(""), args=["pause", campaign_id, reason]):
            logger.error(
                "campaign %s is paused: %s. Mend it, then: mail-worker resume %s", campaign_id, reason, campaign_id
            )

    async def fault(
        self, campaign_id: str, subscriber_id: str, reason: str, hint: str, *, never_alone: bool = False
    ) -> Fault:
        """Tells of a job that can't become a mail, or of a sender that is refused. If it seems to be so in all of the
        campaign's, it's paused, which is said once, with the `hint` what to do.

        Args:
            never_alone: whether no job alone can be wrong in this way.
        """
        kind = same_words(reason) or reason
        words = ("fault", campaign_id, encodable(reason), subscriber_id, LEDGER_SECONDS, encodable(kind), +never_alone)
        wait_ms, news, sender = await self._script(keys=_keys(""), args=list(words))
        if news:
            logger.error(
                "campaign %s is paused: %s. No recipient has failed for that. Mend it, %s", campaign_id, reason, hint
            )
        return Fault(wait_ms == 0, max(wait_ms, 0), sender.decode())


class Control:
    """What an operator does. Every method raises redis.RedisError while Redis is away."""

    def __init__(self, client: "redis.Redis", bullmq: str) -> None:
        """
        Args:
            bullmq: BullMQ's queue, `PREFIX:QUEUE`; empty without one.
        """
        self._client = client
        self._keys = _keys(bullmq)
        self._bullmq = bullmq
        self._script = client.register_script(script("clock", "ids", "lanes", "bullmq", "control"))

    def pause(self, campaign_id: str) -> bool:
        """Stops taking its messages; False if it was paused or cancelled before."""
        return self._say("pause", campaign_id, BY_HAND) == 1

    def resume(self, campaign_id: str, sender: str = "") -> Resumed | None:
        """Goes on, or takes a cancel back, whose dropped messages stay dropped; None if there's nothing to do.

        Args:
            sender: for its jobs whose own can't be read.
        """
        was = self._say("resume", campaign_id, sender, LEDGER_SECONDS)
        self._bring_jobs_back(campaign_id)
        return {1: "paused", 2: "cancelled"}.get(was)  # type: ignore[return-value]

    def knows(self, campaign_id: str) -> bool:
        """Whether a mail of it was sent, has failed or waits. Messages that no process has seen yet don't count."""
        parked = keys.bullmq_parked(self._bullmq, campaign_id)
        found: Any = self._client.exists(
            keys.counts(campaign_id), keys.ledger(campaign_id), keys.lane(campaign_id), parked
        )
        return int(found) > 0

    def cancel(self, campaign_id: str) -> int:
        """Drops the waiting messages, returns how many. Those that are still unsorted, delayed or fetched go when their
        turn comes, and BullMQ's jobs fail: none of them leaves after this."""
        total = 0
        while dropped := self._say("cancel", campaign_id, BY_HAND, DROP_AT_ONCE):
            total += dropped
        self._bring_jobs_back(campaign_id)
        return total

    def _bring_jobs_back(self, campaign_id: str) -> None:
        while self._say("unpark", campaign_id, "", UNPARK_AT_ONCE):
            pass

    def wait_for_mails_in_flight(self) -> bool:
        """Waits until all mails that are on their way now have their result; False if some don't get one."""
        # Looked for once: it's a walk over all keys.
        accounts = list(self._client.scan_iter(match=keys.in_flight("*"), count=1000))
        before = self._in_flight(accounts)
        deadline = time.monotonic() + LAST_MAILS_SECONDS
        while before & self._in_flight(accounts):
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK_EVERY_SECONDS)
        return True

    def _in_flight(self, accounts: list[bytes]) -> set[bytes]:
        found: set[bytes] = set()
        for key in accounts:
            claimants: Any = self._client.zrangebyscore(key, 1, "+inf")
            found.update(claimants)
        return found

    def set_priority(self, campaign_id: str, priority: Priority) -> None:
        """Mails of a higher priority leave before all others; campaigns of the same one take turns."""
        self._say("priority", campaign_id, priority)

    def _say(self, *words: str | int) -> int:
        answer: Any = self._script(keys=self._keys, args=list(words))
        return int(answer)
