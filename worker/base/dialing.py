"""TCP connections to a host with several addresses, the next one tried while the first one is still silent (RFC 8305).
uvloop, aiosmtplib and redis-py try them one by one, each until its time-out; httpx does it by itself."""

import asyncio
import contextlib
import errno
import itertools
import os
import selectors
import socket
import time
from asyncio.staggered import staggered_race
from collections.abc import Iterable
from functools import partial
from typing import Any

#: RFC 8305, 5 and 8: the recommended Connection Attempt Delay.
ATTEMPT_DELAY_SECONDS = 0.25

_AddressInfo = tuple[Any, Any, int, str, Any]


async def dial(host: str, port: int, seconds: float) -> socket.socket:
    """A connected socket that doesn't block.

    Raises:
        OSError: no address answered so; TimeoutError, which is one, if none answered within `seconds`.
    """
    async with asyncio.timeout(seconds):
        infos = _literal(host, port) or await asyncio.to_thread(_addresses, host, port)
        connected: socket.socket | None
        connected, _, errors = await staggered_race([partial(_connect, info) for info in infos], ATTEMPT_DELAY_SECONDS)
    if connected is None:
        raise next((error for error in errors if isinstance(error, OSError)), OSError(f"{host} has no address"))
    return connected


async def _connect(info: _AddressInfo) -> socket.socket:
    loop, writable = asyncio.get_running_loop(), asyncio.Event()
    connecting = socket.socket(*info[:3])
    try:
        connecting.setblocking(False)
        # Not by the loop: uvloop's sock_connect looks the address up once more, for which it starts four threads.
        if (code := connecting.connect_ex(info[4])) == errno.EINPROGRESS:
            loop.add_writer(connecting, writable.set)
            try:
                await writable.wait()
            finally:
                loop.remove_writer(connecting)
            code = connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
    except BaseException:
        connecting.close()
        raise
    return connecting


def dial_blocking(host: str, port: int, seconds: float) -> socket.socket:
    """As `dial`, for programs without an event loop; the socket blocks."""
    infos = iter(_addresses(host, port))
    deadline = time.monotonic() + seconds
    problem: OSError = TimeoutError("timed out")
    untried = True
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as sockets:
        while (left := deadline - time.monotonic()) > 0 and (untried or selector.get_map()):
            if info := next(infos, None):
                connecting = sockets.enter_context(socket.socket(*info[:3]))
                connecting.setblocking(False)
                if (code := connecting.connect_ex(info[4])) not in (0, errno.EINPROGRESS):
                    problem = OSError(code, os.strerror(code))
                    continue
                selector.register(connecting, selectors.EVENT_WRITE)
            else:
                untried = False
            for key, _ in selector.select(min(left, ATTEMPT_DELAY_SECONDS) if untried else left):
                connected: Any = key.fileobj
                selector.unregister(connected)
                if code := connected.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    problem = OSError(code, os.strerror(code))
                    continue
                connected.setblocking(True)
                return socket.socket(fileno=connected.detach())
    raise problem


def _literal(host: str, port: int) -> list[_AddressInfo]:
    """An address needs no resolver, nor a thread for it, of which a process keeps each: 50 kB."""
    try:
        return socket.getaddrinfo(_name(host), port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return []


def _name(host: str) -> bytes | str:
    """As bytes a host needs no codec, which with its tables takes 300 kB of each process."""
    return host.encode() if host.isascii() else host


def _addresses(host: str, port: int) -> list[_AddressInfo]:
    try:
        return _interleaved(socket.getaddrinfo(_name(host), port, type=socket.SOCK_STREAM))
    except UnicodeError as error:
        # A label that is too long, or has letters that no name may have.
        raise OSError(str(error)) from None


def _interleaved(infos: Iterable[_AddressInfo]) -> list[_AddressInfo]:
    """The families in turn, beginning with the resolver's first choice (RFC 8305, 4)."""
    families: dict[Any, list[_AddressInfo]] = {}
    for info in infos:
        families.setdefault(info[0], []).append(info)
    rounds = itertools.zip_longest(*families.values())
    return [info for one_round in rounds for info in one_round if info is not None]
