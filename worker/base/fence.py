"""Calls that arrive after their process has given them up do nothing."""

import redis.asyncio

from worker.base import keys
from worker.base.redis_client import script


class Fence:
    """A process's: a number that it raises whenever the answer to a call got lost. What arrives later with an older
    number, on a connection that was cut or stood still, takes nothing that nobody would know of (lua/fetch.lua)."""

    def __init__(self, client: "redis.asyncio.Redis", process: str) -> None:
        # A script, which a Redis that is full lets pass.
        self._raise = client.register_script(script("fence"))
        self._process = process
        self.number = 0

    async def up(self) -> None:
        """Raises it.

        Raises:
            redis.RedisError: it may be raised in Redis all the same; then each call comes late until it's raised again.
        """
        raised = self.number + 1
        await self._raise(keys=[keys.FENCES], args=[self._process, raised])
        self.number = max(self.number, raised)
