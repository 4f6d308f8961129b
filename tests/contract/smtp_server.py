"""An SMTP server over TLS that behaves as it's told, mail by mail."""

import asyncio
import base64
import ssl
from dataclasses import dataclass, field

_CLOSE = "close"
_STALL = "stall"
_TRICKLE = "trickle"
_BLANKS = "blanks"


@dataclass(slots=True)
class SmtpServer:
    """Answers with what stands in `replies` by command (`GREETING`, `EHLO`, `STARTTLS`, `AUTH`, `MAIL`, `RCPT`, `DATA`,
    `MIDDLE` of the content, `CONTENT`, `RSET`), and takes everything else. `close` ends the connection instead of a
    reply, `stall` says nothing more, `trickle` never comes to a reply's end, and `blanks` to its beginning."""

    pipelining: bool
    smtputf8: bool = True
    mechanism: str = "PLAIN"
    #: Otherwise it speaks TLS from the first byte.
    starttls: bool = False
    replies: dict[str, str] = field(default_factory=dict)
    #: The same for RCPT by its address.
    recipients: dict[str, str] = field(default_factory=dict)
    #: Commands, or `CONTENT`, after whose reply it hangs up.
    hangs_up_after: set[str] = field(default_factory=set)
    #: It says 354, and then takes nothing.
    takes_nothing: bool = False
    #: It reads this many lines of the content, and then does as `MIDDLE` says, if that stands in `replies`.
    middle: int = 1000
    #: Seconds for so many lines.
    middle_seconds: float = 0.0
    #: Seconds before the reply.
    delays: dict[str, float] = field(default_factory=dict)
    #: Stands in front of each reply.
    before_replies: bytes = b""
    #: Seconds between the lines of `blanks`.
    blank_seconds: float = 0.0
    #: Connections, counted from 1, which it accepts and never greets.
    never_greeted: set[int] = field(default_factory=set)
    #: How many mails it takes on a connection before it says `full` and hangs up; 0 is no limit.
    mails_per_connection: int = 0
    full: str = "421 4.7.0 too many messages in this connection"
    #: Recipients, with commas, and content.
    accepted: list[tuple[str, bytes]] = field(default_factory=list)
    mails_for_nobody: int = 0
    commands: list[str] = field(default_factory=list)
    #: What clients said to log in, without base64, in one string a login.
    logins: list[str] = field(default_factory=list)
    #: Connections that it has had, has, and has had at once.
    connections: int = 0
    most_at_once: int = 0
    port: int = 0
    _tls: ssl.SSLContext | None = None
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def start(self, tls: ssl.SSLContext | None) -> None:
        """Listens on a free port of loopback, in TLS from the first byte unless there's no context."""
        self._tls = tls
        tls_at_once = None if self.starttls else tls
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls_at_once)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self.drop_connections()

    def drop_connections(self) -> None:
        """As a server does with connections that idle."""
        for writer in self._writers:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        self.most_at_once = max(self.most_at_once, len(self._writers))
        try:
            if self.connections in self.never_greeted:
                await reader.read()
            if not await self._answer(writer, "GREETING", "220 here"):
                return
            await self._converse(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        recipients: list[str] = []
        greeted = False
        mails = 0
        while line := await reader.readline():
            text = line.decode().strip()
            verb = text.split(" ")[0].upper()
            self.commands.append(text if verb != "AUTH" else verb)
            if verb == "EHLO":
                extensions = ["8BITMIME", f"AUTH {self.mechanism}"]
                extensions += ["PIPELINING"] if self.pipelining else []
                extensions += ["SMTPUTF8"] if self.smtputf8 else []
                extensions += ["STARTTLS"] if self.starttls else []
                greeted = True
                await self._answer(writer, verb, "".join(f"250-{name}\r\n" for name in extensions) + "250 SIZE 1000000")
                continue
            if verb == "QUIT":
                await self._answer(writer, verb, "221 bye")
                return
            if not greeted:
                writer.write(b"503 5.5.1 EHLO first\r\n")
                continue
            if verb == "STARTTLS" and self._tls is not None:
                await self._answer(writer, verb, "220 go ahead")
                await writer.start_tls(self._tls)
                greeted = False
                continue
            if verb == "MAIL":
                if mails == self.mails_per_connection > 0:
                    writer.write(self.full.encode() + b"\r\n")
                    return
                mails += 1
                recipients = []
            if verb == "AUTH":
                self.logins.append(await self._login(text, reader, writer))
            usual = {"AUTH": "235 2.7.0 ok", "DATA": "354 go"}.get(verb, "250 2.0.0 ok")
            address = text[9:].partition(">")[0] if verb == "RCPT" else ""
            if not await self._answer(writer, verb, self.recipients.get(address, usual)):
                return
            if address and "RCPT" not in self.replies and address not in self.recipients:
                recipients.append(address)
            if verb == "DATA" and self.takes_nothing:
                await asyncio.sleep(3600)
            if verb == "DATA" and self.replies.get("DATA", "354").startswith("354"):
                content = await self._content(reader, writer)
                if content is None:
                    return
                if not recipients:
                    self.mails_for_nobody += 1
                    writer.write(b"554 5.5.1 no valid recipients\r\n")
                    continue
                if not content:
                    recipients = []
                    continue
                if not await self._answer(writer, "CONTENT", "250 2.0.0 kept"):
                    return
                if "CONTENT" not in self.replies:
                    self.accepted.append((", ".join(recipients), content))
                recipients = []

    async def _login(self, text: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        words = text.split(" ")[2:]
        while len(words) < (2 if self.mechanism == "LOGIN" else 1):
            writer.write(self.before_replies + b"334 VXNlcm5hbWU6\r\n")
            words.append((await reader.readline()).decode().strip())
        return " ".join(base64.b64decode(word).decode() for word in words)

    async def _content(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes | None:
        """None if it hangs up before the end; empty if it has answered by then."""
        lines: list[bytes] = []
        answered = False
        while (line := await reader.readuntil(b"\r\n")) != b".\r\n":
            lines.append(line[1:] if line.startswith(b".") else line)
            if len(lines) % self.middle == 0:
                await asyncio.sleep(self.middle_seconds)
                if "MIDDLE" in self.replies and not answered:
                    answered = True
                    if not await self._answer(writer, "MIDDLE", ""):
                        return None
        return b"" if answered else b"".join(lines)

    async def _answer(self, writer: asyncio.StreamWriter, verb: str, usual: str) -> bool:
        reply = self.replies.get(verb, usual)
        if reply == _CLOSE:
            return False
        if reply == _STALL:
            await asyncio.sleep(3600)
        while reply == _TRICKLE:
            for byte in b"250-and so on\r\n":
                writer.write(bytes([byte]))
                await asyncio.sleep(0.02)
        if verb in self.delays:
            await asyncio.sleep(self.delays[verb])
        while reply == _BLANKS:
            if writer.is_closing():
                return False
            writer.write(b"\r\n" * (1 if self.blank_seconds else 4096))
            await writer.drain()
            await asyncio.sleep(self.blank_seconds)
        writer.write(self.before_replies + reply.encode() + b"\r\n")
        return verb not in self.hangs_up_after
