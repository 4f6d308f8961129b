"""What a process has in hand: what it has fetched, and hasn't settled yet."""

import asyncio


class Hand:
    """Messages of Dramatiq's and jobs of BullMQ's, by their ids."""

    def __init__(self) -> None:
        self.messages: set[str] = set()
        self.jobs: set[str] = set()
        #: Bytes of those that aren't finished; the others are only being settled.
        self._unfinished: dict[str, int] = {}
        self.size = 0
        #: Set whenever there may be room for more.
        self.room = asyncio.Event()

    @property
    def is_empty(self) -> bool:
        return not self.messages and not self.jobs

    @property
    def unfinished(self) -> int:
        return len(self._unfinished)

    def take_message(self, identity: str, size: int) -> None:
        self.messages.add(identity)
        self._take(identity, size)

    def take_job(self, identity: str, size: int) -> None:
        self.jobs.add(identity)
        self._take(_of_job(identity), size)

    def finished_message(self, identity: str) -> None:
        """It's worked on, and settled in the background."""
        self._finished(identity)

    def finished_job(self, identity: str) -> None:
        """It's worked on, and settled in the background."""
        self._finished(_of_job(identity))

    def _take(self, name: str, size: int) -> None:
        self._unfinished[name] = size
        self.size += size

    def _finished(self, name: str) -> None:
        self.size -= self._unfinished.pop(name, 0)
        self.room.set()


def _of_job(identity: str) -> str:
    # Messages' ids are UUIDs, as a rule, but a producer may write what it likes.
    return f"job\0{identity}"
