"""A sending account: provider credentials with one quota, shared by all processes on all hosts."""

import hashlib
import logging
import time
from dataclasses import dataclass
from typing import Literal, cast

import redis
import redis.asyncio

from worker.base import keys
from worker.base.redis_client import encodable, script
from worker.errors import AccountRefused
from worker.mail.same_words import same_words

#: A refused account is tried again after this time, then after twice as long each time.
LONGEST_PAUSE_SECONDS = 1800.0
#: So much of what the server said when it asked for less speed is kept.
REPLY_CHARACTERS = 200

logger = logging.getLogger(__name__)


def _keys(name: str) -> list[str]:
    return [keys.account(name), keys.connections(name), keys.ALIVE, keys.wanting(name)]


def resume_account(client: "redis.Redis", name: str) -> None:
    """What `Account.resume` does, for a command."""
    client.register_script(script("clock", "pace", "same_words", "account"))(keys=_keys(name), args=["resume", ""])


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whose matter a refusal is: this mail's (`fail`), nobody's that is known yet (`again`), the account's, or its
    campaign's. Then it says how many got the same reply, within so many seconds in which others were accepted."""

    verdict: Literal["fail", "again", "account", "campaign"]
    recipients: int = 0
    domains: int = 0
    seconds: int = 0
    accepted: int = 0
    reply: bytes = b""

    @property
    def sentence(self) -> str:
        """What is said of the account or the campaign; the same until it's over."""
        return (
            f"{self.recipients} recipients in {self.domains} domains were refused with the same words within"
            f" {self.seconds} s, and {self.accepted} mails accepted ({self.reply.decode(errors='replace')})"
        )


class Account:
    """What the fleet knows about the account. Every method raises redis.RedisError while Redis is away."""

    def __init__(
        self,
        client: "redis.asyncio.Redis",
        name: str,
        process: str,
        *,
        max_connections: int,
        first_pause_seconds: float,
        credentials: str = "",
    ) -> None:
        """
        Args:
            credentials: changes with them, and tells nothing about them.
            max_connections: of all processes together; 0 is no limit.
            first_pause_seconds: after the provider's first refusal of the account.
        """
        self._name = name
        self._process = process
        self._max_connections = max_connections
        self._first_pause_seconds = first_pause_seconds
        self._credentials = credentials
        self._keys = _keys(name)
        self._reported, self._reported_at = "", 0.0
        self._script = client.register_script(script("clock", "pace", "same_words", "account"))

    async def slow_down(self, after_ms: int, reply: str) -> None:
        """The provider wants less speed, and says nothing or when to come back."""
        await self._say("slow", after_ms, encodable(reply[:REPLY_CHARACTERS]))

    async def refused(self, error: AccountRefused) -> int:
        """Pauses the account on all hosts; returns the milliseconds until the next try."""
        wait_ms = await self._say("stop", str(error), *self._pauses_ms(), error.kind)
        now = time.monotonic()
        if str(error) != self._reported or now - self._reported_at > self._first_pause_seconds:
            logger.error("%s The account is paused on all hosts for %.0f s; no recipient fails.", error, wait_ms / 1000)
            self._reported, self._reported_at = str(error), now
        return wait_ms

    async def strained(self, reply: str) -> None:
        """The server had trouble with one recipient. Of many in a short time it's as if it wanted less speed."""
        await self._say("strained", encodable(reply[:REPLY_CHARACTERS]))

    async def judge(self, reply: str, recipient: str, campaign_id: str | None, *, others_accepted: bool) -> Judgement:
        """Whose matter a refusal is, by what others were told of late. If it's the account's, it's paused.

        Args:
            reply: the server's, in words that don't say so themselves.
            others_accepted: whether any mail of this process was of late; for mails outside campaigns.
        """
        words = same_words(reply)
        if not words:
            return Judgement("fail")
        domain = recipient.rpartition("@")[2]
        whose: list[str | int] = [_digest(recipient), _digest(domain), campaign_id or "", int(others_accepted)]
        verdict, *told = await self._script(
            keys=[*self._keys, keys.same_words(self._name, _digest(words))],
            args=["same", encodable(reply), *self._pauses_ms(), *whose, self._credentials],
        )
        return Judgement(cast("Literal['fail', 'again', 'account', 'campaign']", verdict.decode()), *told)

    async def begin(self) -> None:
        """A process starts: with other credentials than those that were refused, the next mail tries at once. With the
        same ones it changes nothing: a process that crashes again and again must not hammer a blocked account."""
        await self._say("begin")

    async def resume(self) -> None:
        """Forgets pauses and slow-downs: the next mail tries at once."""
        await self._say("resume")

    @property
    def limited(self) -> bool:
        """Whether the fleet has a limit of connections."""
        return self._max_connections > 0

    async def may_connect(self, open_connections: int) -> int:
        """Milliseconds to wait before one more connection may be opened; 0 now, -1 now and tell whether it worked, -2
        when there's a place among the fleet's: ask again in half a second."""
        return await self._say("connect", self._process, open_connections, self._max_connections)

    async def count_connections(self, open_connections: int) -> None:
        """Tells the fleet how many connections this process has."""
        if self._max_connections:
            await self._say("count", self._process, open_connections)

    def _pauses_ms(self) -> tuple[int, int]:
        longest = max(LONGEST_PAUSE_SECONDS, self._first_pause_seconds)
        return int(self._first_pause_seconds * 1000), int(longest * 1000)

    async def _say(self, *words: str | int) -> int:
        answer: int = await self._script(keys=self._keys, args=[*words, self._credentials])
        return answer


def _digest(text: str) -> str:
    # No addresses are kept.
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()
