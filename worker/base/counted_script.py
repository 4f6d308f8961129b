"""Scripts that tell how many commands they ran: who bills by the command may bill those, too."""

import zlib
from typing import Any, Protocol

from redis.commands.core import AsyncScript, Script

_COUNTING = """local inside, server = 0, redis
local redis = setmetatable({ call = function(...)
  inside = inside + 1
  return server.call(...)
end }, { __index = server })
local function script()
"""
_COUNTED = """
end
local answer = script()
return { inside, answer }
"""


class Counts(Protocol):
    """Who is told."""

    commands_inside: int


class _Packed:
    """A script whose text is packed, to a quarter: it's needed again only where Redis has lost it, and a worker's
    scripts have 180 kB."""

    _packed: bytes

    @property
    def script(self) -> bytes:
        """What Redis is sent."""
        return zlib.decompress(self._packed)

    @script.setter
    def script(self, text: str) -> None:
        # With little memory, which a process would keep: a window of 8 kB, and 16 kB more.
        packer = zlib.compressobj(wbits=13, memLevel=5)
        self._packed = packer.compress(text.encode()) + packer.flush()


class CountedScript(_Packed, Script):  # type: ignore[misc]  # redis-py's is an attribute
    """A script of a blocking client's."""

    def __init__(self, client: Any, text: str | bytes) -> None:
        super().__init__(client, _counting(text))
        self._counts: Counts = client

    def __call__(self, keys: Any = None, args: Any = None, client: Any = None) -> Any:
        return _answer(self._counts, super().__call__(keys, args, client))


class CountedAsyncScript(_Packed, AsyncScript):  # type: ignore[misc]
    """The same on an event loop."""

    def __init__(self, client: Any, text: str | bytes) -> None:
        super().__init__(client, _counting(text))
        self._counts: Counts = client

    async def __call__(self, keys: Any = None, args: Any = None, client: Any = None) -> Any:
        return _answer(self._counts, await super().__call__(keys, args, client))


def _counting(text: str | bytes) -> str:
    return _COUNTING + (text if isinstance(text, str) else text.decode()) + _COUNTED


def _answer(counts: Counts, answer: Any) -> Any:
    counts.commands_inside += answer[0]
    if len(answer) < 2:
        return None
    if isinstance(answer[1], Exception):
        raise answer[1]
    return answer[1]
