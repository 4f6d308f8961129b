"""What a process waits at before it takes more from the queue."""

import asyncio

#: A process asks Redis again after this time, however long it is to wait: an operator may have ended the pause.
LONGEST_CLOSED_MS = 15_000


class Gate:
    """Closed while the account may not send: no mail of this process asks Redis in the meantime."""

    def __init__(self, stopping: asyncio.Event) -> None:
        self._stopping = stopping
        self._open_at = 0.0
        self._misses = 0

    @property
    def seconds(self) -> float:
        """Until it opens."""
        return max(0.0, self._open_at - asyncio.get_running_loop().time())

    @property
    def probing(self) -> bool:
        """Whether the last mails that asked for a turn got none: one more is enough to find out."""
        return self._misses > 0

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

    def close(self, milliseconds: int) -> None:
        """Closes it for so long, at most `LONGEST_CLOSED_MS`; longer each time if it never gets a turn, since others
        use up the account's rate."""
        now = asyncio.get_running_loop().time()
        if now >= self._open_at:  # Of mails that miss their turn together, one counts.
            milliseconds = max(milliseconds, 50 * 2 ** min(self._misses, 8))
            self._misses += 1
        self._open_at = max(self._open_at, now + min(milliseconds, LONGEST_CLOSED_MS) / 1000)

    def turn(self) -> None:
        """A mail got its turn."""
        self._misses = 0
