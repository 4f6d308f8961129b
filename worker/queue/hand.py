"""What a process has in hand: what it has fetched, and hasn't settled yet."""

import asyncio


class Hand:
    """Messages of Dramatiq's and jobs of BullMQ's, by their ids."""

    def __init__(self) -> None:
        self.messages: set[str] = set()
        self.jobs: set[str] = set()
        #: Of all these; the others are only being settled.
        self.unfinished = 0
        #: Set whenever there may be room for more.
        self.room = asyncio.Event()

    @property
    def is_empty(self) -> bool:
        return not self.messages and not self.jobs

    def take_message(self, identity: str) -> None:
        self.messages.add(identity)
        self.unfinished += 1

    def take_job(self, identity: str) -> None:
        self.jobs.add(identity)
        self.unfinished += 1

    def finished(self) -> None:
        """One of them is worked on; it's settled in the background."""
        self.unfinished -= 1
        self.room.set()
