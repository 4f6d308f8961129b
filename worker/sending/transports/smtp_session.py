"""The SMTP dialogue of one mail on an open connection, pipelined where the server offers it (RFC 5321, RFC 2920).

aiosmtplib connects, negotiates TLS and logs in. It waits for each reply before the next command, and normalises each
mail's line ends once more: with mails that are right already, that was a third of a worker's time."""

import asyncio
import re
from collections import deque
from dataclasses import dataclass
from typing import cast

MAX_REPLY_BYTES = 65_536

_DOT_AT_LINE_START = re.compile(rb"(?m)^\.")


class ConnectionLost(Exception):
    """The connection is gone, or speaks something else than SMTP."""


@dataclass(frozen=True, slots=True)
class SmtpReply:
    """A reply; `text` is on one line."""

    code: int
    text: str

    def __str__(self) -> str:
        return f"{self.code} {self.text}"


class SmtpSession(asyncio.Protocol):
    """Takes over a transport on which somebody is logged in."""

    def __init__(self, transport: asyncio.BaseTransport, *, pipelining: bool, smtputf8: bool) -> None:
        self.pipelining = pipelining
        self.smtputf8 = smtputf8
        self._transport = cast(asyncio.Transport, transport)
        self._buffer = bytearray()
        self._lines: list[bytes] = []
        self._replies: deque[SmtpReply] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._lost = ""
        transport.set_protocol(self)

    @property
    def usable(self) -> bool:
        """Whether the next mail may go out on it. What the server says unasked is a farewell: 421, mostly."""
        return not self._lost and not self._replies and not self._transport.is_closing()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end]).rstrip(b"\r")
            del self._buffer[: end + 1]
            self._take_line(line)
        if len(self._buffer) + sum(map(len, self._lines)) > MAX_REPLY_BYTES:
            self._lose("it sends an endless reply")

    def eof_received(self) -> bool:
        self._lose("the server ended the connection")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(str(exc) if exc else "the server ended the connection")

    def write(self, data: bytes) -> None:
        if self._lost or self._transport.is_closing():
            raise ConnectionLost(self._lost or "the connection was closed")
        self._transport.write(data)

    async def reply(self) -> SmtpReply:
        """The next reply.

        Raises:
            ConnectionLost: there won't be one.
        """
        while not self._replies:
            if self._lost:
                raise ConnectionLost(self._lost)
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._replies.popleft()

    async def command(self, line: bytes) -> SmtpReply:
        """Sends one command and returns its reply."""
        self.write(line + b"\r\n")
        return await self.reply()

    async def content(self, data: bytes) -> SmtpReply:
        """Sends a mail's content after a 354, and returns the server's verdict."""
        if data.startswith(b".") or b"\n." in data:
            data = _DOT_AT_LINE_START.sub(b"..", data)
        self.write(data + (b".\r\n" if data.endswith(b"\r\n") else b"\r\n.\r\n"))
        return await self.reply()

    async def abandon_data(self) -> None:
        """Answers a 354 that came although the recipient was refused: an empty mail, which has no recipient."""
        self.write(b".\r\n")
        await self.reply()

    def close(self) -> None:
        self._transport.close()

    def _take_line(self, line: bytes) -> None:
        if not re.match(rb"[2-5]\d\d([ -]|$)", line):
            self._lose(f"it says {line[:80].decode(errors='replace')!r}, which isn't SMTP")
            return
        self._lines.append(line)
        if line[3:4] == b"-":
            return
        text = " ".join(part[4:].decode(errors="replace").strip() for part in self._lines)
        self._replies.append(SmtpReply(int(line[:3]), " ".join(text.split())))
        self._lines = []
        self._wake()

    def _lose(self, why: str) -> None:
        if not self._lost:
            self._lost = why
            self._transport.close()
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
