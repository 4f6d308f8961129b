"""What a process waits at before it takes more from the queue."""

import asyncio
from enum import StrEnum

#: A process asks Redis again after this time, however long it is to wait: an operator may have ended the pause.
LONGEST_CLOSED_MS = 15_000


class Cause(StrEnum):
    """Why no mail may leave. Each begins and ends by itself; the process's own stop is none of them."""

    #: The account's rate has no place at present.
    RATE = "rate"
    #: The provider refused the account.
    PAUSE = "pause"
    #: No server is reached.
    OUTAGE = "outage"
    #: The fleet has all the connections that it may have, and this process none of them.
    CONNECTIONS = "connections"


class Gate:
    """Closed while there's a cause: no mail of this process asks Redis in the meantime."""

    def __init__(self, stopping: asyncio.Event) -> None:
        self._stopping = stopping
        self._open_at: dict[Cause, float] = {}
        self._misses = 0

    @property
    def seconds(self) -> float:
        """Until it opens."""
        if not self._open_at:
            return 0.0
        return max(0.0, max(self._open_at.values()) - asyncio.get_running_loop().time())

    @property
    def probing(self) -> bool:
        """Whether the last mails that asked for a turn got none: one more is enough to find out."""
        return self._misses > 0

    def closed_by(self, cause: Cause) -> bool:
        """Whether this is a cause at present, maybe among others."""
        return self._open_at.get(cause, 0.0) > asyncio.get_running_loop().time()

    async def passed(self) -> bool:
        """Waits until it's open; False when the process is stopping instead."""
        while not self._stopping.is_set():
            if not (seconds := self.seconds):
                return True
            try:
                async with asyncio.timeout(seconds):
                    await self._stopping.wait()
            except TimeoutError:
                pass
        return False

    def close(self, cause: Cause, milliseconds: int) -> None:
        """Closes it for so long, at most `LONGEST_CLOSED_MS`; because of the rate longer each time if it never gets a
        turn, since others use it up."""
        now = asyncio.get_running_loop().time()
        if not self.seconds:  # Of mails that miss their turn together, one counts.
            if cause is Cause.RATE:
                milliseconds = max(milliseconds, 50 * 2 ** min(self._misses, 8))
            self._misses += 1
        open_at = now + min(milliseconds, LONGEST_CLOSED_MS) / 1000
        self._open_at[cause] = max(self._open_at.get(cause, 0.0), open_at)

    def end(self, cause: Cause) -> None:
        """It isn't a cause any more."""
        self._open_at.pop(cause, None)

    def turn(self) -> None:
        """A mail got its turn."""
        self._misses = 0
