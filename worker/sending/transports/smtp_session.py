"""The SMTP dialogue of one mail on an open connection, pipelined where the server offers it (RFC 5321, RFC 2920).

aiosmtplib connects, negotiates TLS and logs in. It waits for each reply before the next command, and normalises each
mail's line ends once more: with mails that are right already, that was a third of a worker's time."""

import asyncio
import math
import re
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import cast

from worker.mail.outcomes import Reply, Stage, classify_smtp
from worker.mail.words import shown_line

MAX_REPLY_BYTES = 65_536
#: Content is given in such blocks, so that it shows whether it leaves; most mails are one.
BLOCK_BYTES = 65_536
#: What the kernel still holds when the last block has left this process, takes a slow line this time besides.
SLOWEST_BYTES_PER_SECOND = 10_000
#: For what is left to say on a connection after a refusal; without an answer it's given up.
CLEAR_SECONDS = 5.0
#: The server says with it that it ends the connection, whatever it answers (RFC 5321, 3.8).
FAREWELL = 421

_DOT_AT_LINE_START = re.compile(rb"(?m)^\.")
_REPLY_LINE = re.compile(rb"[2-5]\d\d([ -]|$)")


@dataclass(frozen=True, slots=True)
class StepSeconds:
    """How long a server may take for each step (RFC 5321, 4.5.3.2)."""

    mail: float = 300.0
    recipient: float = 300.0
    data: float = 120.0
    #: For each block of the content to leave.
    block: float = 180.0
    #: After the whole content. Who hangs up sooner gets a mail delivered twice.
    verdict: float = 600.0


RFC_5321 = StepSeconds()


@dataclass(frozen=True, slots=True)
class SmtpReply:
    """A reply; `text` is on one line."""

    code: int
    text: str

    def __str__(self) -> str:
        return f"{self.code} {self.text}"


@dataclass(frozen=True, slots=True)
class Accepted:
    """The server has the mail, for all recipients but those whom it refused by number."""

    reply: SmtpReply
    refused: tuple[tuple[int, SmtpReply], ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """The server said no at this stage, whatever became of the connection then."""

    stage: Stage
    reply: SmtpReply


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection ended, fell silent or spoke something else than SMTP where the reply to `stage` was due."""

    stage: Stage
    why: str


@dataclass(frozen=True, slots=True)
class Unclaimed:
    """The mail mustn't leave."""


Ending = Accepted | Refused | Lost | Unclaimed


class SmtpSession(asyncio.Protocol):
    """Takes over a transport on which somebody is logged in."""

    def __init__(
        self,
        transport: asyncio.BaseTransport,
        *,
        pipelining: bool,
        smtputf8: bool,
        helo_name: str,
        seconds: StepSeconds,
    ) -> None:
        self.smtputf8 = smtputf8
        #: What EHLO said.
        self.helo_name = helo_name
        self._pipelining = pipelining
        self._seconds = seconds
        self._transport = cast(asyncio.Transport, transport)
        self._buffer = bytearray()
        self._lines: list[bytes] = []
        self._reply_bytes = 0
        self._replies: deque[SmtpReply] = deque()
        self._waiter: asyncio.Future[bool] | None = None
        #: Set while nothing that was said waits in this process, and by whatever makes waiting for that pointless.
        self._may_write = asyncio.Event()
        self._may_write.set()
        #: Whether the mail at hand may have been accepted.
        self.content_began = False
        #: Whether all that was said has been answered, so that the next mail finds the server listening.
        self._clear = True
        self._lost = ""
        transport.set_protocol(self)
        self._transport.set_write_buffer_limits(high=1, low=0)

    @property
    def usable(self) -> bool:
        """Whether the next mail may go out on it. What the server says unasked is a farewell: 421, mostly."""
        return self.listening and self._silent

    @property
    def listening(self) -> bool:
        """Whether the server would take another command, as far as anybody knows."""
        return self._clear and not self._lost and not self._transport.is_closing()

    async def converse(
        self,
        mail_from: bytes,
        rcpt_to: Sequence[bytes],
        content: bytes,
        claim: Callable[[], Awaitable[bool]],
        first_seconds: float = math.inf,
    ) -> Ending:
        """Gives the server one mail. Each reply is judged as it comes: what follows it, a hang-up for one, takes no
        refusal back. Of several recipients those who are refused for good are left out; any other refusal, for now or
        of the account, ends it for all, so that nobody gets it twice.

        Args:
            claim: asked just before the mail's commands if they go out together, otherwise just before DATA.
            first_seconds: for the reply to MAIL FROM, if that is less.
        """
        self.content_began = False
        steps = (
            (Stage.MAIL, mail_from, min(first_seconds, self._seconds.mail)),
            *((Stage.RCPT, command, self._seconds.recipient) for command in rcpt_to),
            (Stage.DATA, b"DATA\r\n", self._seconds.data),
        )
        # Behind DATA nobody can be left out any more.
        pipelining = self._pipelining and len(rcpt_to) == 1
        refused: list[tuple[int, SmtpReply]] = []
        if pipelining:
            # The claim can't wait for the 354: behind that there's no way back.
            if not await claim():
                return Unclaimed()
            self._say(mail_from + rcpt_to[0] + b"DATA\r\n")
        for number, (stage, command, seconds) in enumerate(steps):
            if not pipelining:
                if stage is Stage.DATA and not await claim():
                    await self._clear_after(None, ())
                    return Unclaimed()
                self._say(command)
            reply = await self._reply(seconds)
            if reply is None:
                return Lost(stage, self._lost)
            if reply.code >= 400:
                others = stage is Stage.RCPT and len(refused) < len(rcpt_to) - 1
                if others and classify_smtp(reply.code, reply.text, stage) is Reply.HARD:
                    refused.append((number - 1, reply))
                    continue
                refusal = Refused(stage, reply)
                later = [stage for stage, _, _ in steps[number + 1 :]] if pipelining else ()
                await self._clear_after(refusal, later)
                return refusal
            if (reply.code == 354) is not (stage is Stage.DATA):
                return self._astray(stage, reply)
        if not self._silent:
            self._lose("it answers what it wasn't asked")
        if self._lost:
            return Lost(Stage.DATA, self._lost)
        ending = await self._give(content)
        return Accepted(ending.reply, tuple(refused)) if refused and isinstance(ending, Accepted) else ending

    async def quit(self, seconds: float) -> None:
        """Says goodbye, and waits so long for the answer."""
        self._say(b"QUIT\r\n")
        await self._reply(seconds)
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end]).rstrip()
            del self._buffer[: end + 1]
            self._reply_bytes += end + 1
            # Some servers and proxies send an empty line before a reply.
            if line:
                self._take_line(line)
        if len(self._buffer) + self._reply_bytes > MAX_REPLY_BYTES:
            self._lose("it sends an endless reply")

    def eof_received(self) -> bool:
        self._lose("the server ended the connection")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(str(exc) if exc else "the server ended the connection")

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    @property
    def _silent(self) -> bool:
        return not (self._replies or self._lines or self._buffer)

    def _say(self, data: bytes) -> None:
        # On a connection that is lost the reply tells it, or one that came before the end does.
        self._clear = False
        if not self._lost and not self._transport.is_closing():
            self._transport.write(data)

    async def _heard(self, seconds: float) -> bool:
        """Waits for a reply or the connection's end; False if neither came."""
        if self._replies or self._lost:
            return True
        # A timer of its own: asyncio.timeout costs a tenth of a mail's time, four times a mail.
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_later(seconds, self._wake, False)
        try:
            return await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    async def _reply(self, seconds: float) -> SmtpReply | None:
        """The next reply; None if there won't be one, and `_lost` says why."""
        if not self._replies and not await self._heard(seconds):
            self._lose(f"no reply within {seconds:g} s")
        return self._replies.popleft() if self._replies else None

    async def _give(self, content: bytes) -> Ending:
        if content.startswith(b".") or b"\n." in content:
            content = _DOT_AT_LINE_START.sub(b"..", content)
        end = b".\r\n" if content.endswith(b"\r\n") else b"\r\n.\r\n"
        last = 0
        if len(content) > BLOCK_BYTES:
            last = (len(content) - 1) // BLOCK_BYTES * BLOCK_BYTES
            for start in range(0, last, BLOCK_BYTES):
                self._say(content[start : start + BLOCK_BYTES])
                if not await self._has_left():
                    return self._cut_off()
        self.content_began = True
        self._say(content[last:] + end)
        # How much of it the kernel still holds isn't told.
        slow = len(content) / SLOWEST_BYTES_PER_SECOND if last else 0.0
        reply = await self._reply(self._seconds.verdict + slow)
        if reply is None:
            return Lost(Stage.CONTENT, self._lost)
        if reply.code // 100 == 3:
            return self._astray(Stage.CONTENT, reply)
        self._clear = reply.code != FAREWELL
        return Accepted(reply) if reply.code < 300 else Refused(Stage.CONTENT, reply)

    async def _has_left(self) -> bool:
        """Waits until all that was said has left this process. False if it doesn't, or the server has said or done
        something before."""
        try:
            async with asyncio.timeout(self._seconds.block):
                await self._may_write.wait()
        except TimeoutError:
            self._lose(f"nothing of it left within {self._seconds.block:g} s")
        return not (self._replies or self._lost)

    def _cut_off(self) -> Ending:
        """The mail's end in the middle of its content: without the dot nothing was accepted."""
        if not self._replies:
            return Lost(Stage.DATA, self._lost)
        reply = self._replies.popleft()
        if reply.code < 400:
            return self._astray(Stage.DATA, reply)
        self._lose("it refused the mail in the middle of its content")
        return Refused(Stage.CONTENT, reply)

    def _astray(self, stage: Stage, reply: SmtpReply) -> Lost:
        self._lose(f"it answers {str(reply)[:80]!r} to {stage}, which is neither yes nor no")
        return Lost(stage, self._lost)

    async def _clear_after(self, refusal: Refused | None, unanswered: Sequence[Stage]) -> None:
        """Brings the connection back to where a mail can begin. If the server doesn't play along it isn't usable any
        more.

        Args:
            refusal: what the mail ended with, if it wasn't taken back.
            unanswered: the stages whose replies are still to come.
        """
        if refusal is not None and refusal.reply.code == FAREWELL:
            return
        for stage in unanswered:
            reply = await self._reply(CLEAR_SECONDS)
            if reply is None or reply.code == FAREWELL:
                return
            if stage is Stage.RCPT and reply.code < 400:
                return  # It takes a recipient without a sender: nothing may follow that it could take for a mail.
            if reply.code == 354:
                # RFC 2920, 3.1: it may say so although it took no recipient. An empty mail for nobody answers it.
                self._say(b".\r\n")
                if await self._reply(CLEAR_SECONDS) is None:
                    return
        self._say(b"RSET\r\n")
        reply = await self._reply(CLEAR_SECONDS)
        self._clear = reply is not None and reply.code // 100 == 2

    def _take_line(self, line: bytes) -> None:
        if not _REPLY_LINE.match(line):
            self._lose(f"it says {line[:80].decode(errors='replace')!r}, which isn't SMTP")
            return
        self._lines.append(line)
        if line[3:4] == b"-":
            return
        text = " ".join(part[4:].decode(errors="replace").strip() for part in self._lines)
        self._replies.append(SmtpReply(int(line[:3]), shown_line(text)))
        self._lines = []
        self._reply_bytes = 0
        self._wake(True)

    def _lose(self, why: str) -> None:
        if not self._lost:
            self._lost = why
            self._transport.abort()
            self._wake(True)

    def _wake(self, heard: bool) -> None:
        self._may_write.set()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(heard)
