"""A sending account: provider credentials with one quota, shared by all processes on all hosts."""

import logging
import time

import redis
import redis.asyncio

from worker.base import keys
from worker.base.redis_client import script
from worker.errors import AccountRefused

#: A refused account is tried again after this time, then after twice as long each time.
LONGEST_PAUSE_SECONDS = 1800.0

logger = logging.getLogger(__name__)


def _keys(name: str) -> list[str]:
    return [keys.account(name), keys.connections(name), keys.HEARTBEATS, keys.wanting(name)]


def resume_account(client: "redis.Redis", name: str) -> None:
    """What `Account.resume` does, for a command."""
    client.register_script(script("account"))(keys=_keys(name), args=["resume"])


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
    ) -> None:
        """
        Args:
            max_connections: of all processes together; 0 is no limit.
            first_pause_seconds: after the provider's first refusal of the account.
        """
        self._process = process
        self._max_connections = max_connections
        self._first_pause_seconds = first_pause_seconds
        self._keys = _keys(name)
        self._reported, self._reported_at = "", 0.0
        self._script = client.register_script(script("account"))

    async def slow_down(self, after_ms: int) -> None:
        """The provider wants less speed, and says nothing or when to come back."""
        await self._say("slow", after_ms)

    async def refused(self, error: AccountRefused) -> int:
        """Pauses the account on all hosts; returns the milliseconds until the next try."""
        longest_ms = int(max(LONGEST_PAUSE_SECONDS, self._first_pause_seconds) * 1000)
        wait_ms = await self._say("stop", str(error), int(self._first_pause_seconds * 1000), longest_ms, error.kind)
        now = time.monotonic()
        if str(error) != self._reported or now - self._reported_at > self._first_pause_seconds:
            logger.error("%s The account is paused on all hosts for %.0f s; no recipient fails.", error, wait_ms / 1000)
            self._reported, self._reported_at = str(error), now
        return wait_ms

    async def resume(self) -> None:
        """Forgets pauses and slow-downs: the next mail tries at once."""
        await self._say("resume")

    async def may_connect(self, open_connections: int) -> int:
        """Milliseconds to wait before one more connection may be opened; 0 now, -1 now and tell whether it worked, -2
        when there's a place among the fleet's: ask again in a second."""
        return await self._say("connect", self._process, open_connections, self._max_connections)

    async def count_connections(self, open_connections: int) -> None:
        """Tells the fleet how many connections this process has."""
        if self._max_connections:
            await self._say("count", self._process, open_connections)

    async def _say(self, *words: str | int) -> int:
        answer: int = await self._script(keys=self._keys, args=list(words))
        return answer
