"""Turns many small calls into few big ones."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Coalescer(Generic[Item, Answer]):
    """While one call is under way, further items gather for the next one: alone, an item waits for nothing; among two
    hundred, each costs a fraction of a round trip, and on a Redis that bills by the command a fraction of its price."""

    def __init__(
        self,
        call: Callable[[list[Item]], Awaitable[Sequence[Answer]]],
        *,
        alone_after: type[Exception],
        at_most: int = 100,
        size: Callable[[Item], int] = lambda _: 0,
        at_most_size: int = 0,
        linger_seconds: float = 0.0,
    ) -> None:
        """
        Args:
            call: takes items, returns as many answers in the same order.
            alone_after: an error that one item may cause; each item of such a call gets a call of its own.
            at_most: items of one call.
            size: of an item, in bytes; 0 where items are small by nature.
            at_most_size: of all items of a call; a bigger one goes alone.
            linger_seconds: how long the first item waits for others, for calls that nobody waits for.
        """
        self._call = call
        self._alone_after = alone_after
        self._at_most = at_most
        self._size = size
        self._at_most_size = at_most_size
        self._linger_seconds = linger_seconds
        self._waiting: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._runner: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Answer:
        """Returns the item's answer, or raises what its call raised."""
        return await self.put(item)

    def put(self, item: Item) -> "asyncio.Future[Answer]":
        """The same without waiting."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        return future

    async def flush(self) -> None:
        """Waits until every item has its answer."""
        while self._runner is not None:
            await asyncio.wait([self._runner])

    async def _run(self) -> None:
        try:
            # The other tasks that are ready now may have items too.
            await asyncio.sleep(self._linger_seconds)
            while self._waiting:
                number = self._fitting()
                batch, self._waiting = self._waiting[:number], self._waiting[number:]
                if await self._settle(batch):
                    continue
                for alone in batch:
                    await self._settle([alone])
        finally:
            self._runner = None

    def _fitting(self) -> int:
        """How many of those that wait go in one call."""
        size = 0
        for number, (item, _) in enumerate(self._waiting[: self._at_most]):
            size += self._size(item)
            if number and size > self._at_most_size:
                return number
        return self._at_most

    async def _settle(self, batch: "list[tuple[Item, asyncio.Future[Answer]]]") -> bool:
        """Makes one call; False if its items are to be tried one by one."""
        try:
            answers = await self._call([item for item, _ in batch])
        except Exception as error:
            if isinstance(error, self._alone_after) and len(batch) > 1:
                return False
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
        return True
