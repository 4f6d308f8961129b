"""Random faults: an SMTP server whose script is drawn, step by step. hypothesis prints the script that breaks a promise
and how to run it again; `--hypothesis-seed=N` draws the same ones."""

import asyncio
import ssl
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contract.peers import SECRET
from tests.contract.test_transports import Claim, mail
from worker.base.settings import Secret
from worker.errors import AccountRefused, NoConnectionYet, TransportUnavailable
from worker.mail.outcomes import Hindered, NotClaimed, Outcome, Retry, SenderRefused, Sent, Slow, Uncertain
from worker.sending.transports import smtp, smtp_login, smtp_session
from worker.sending.transports.smtp import SmtpTransport
from worker.sending.transports.smtp_login import Server
from worker.sending.transports.smtp_session import StepSeconds

#: A step has 50 ms, and three connections are tried.
STEP_SECONDS = 0.05
TRY_SECONDS = 5.0
USUAL = {"EHLO": "250", "AUTH": "235", "MAIL": "250", "RCPT": "250", "DATA": "354", "CONTENT": "250", "RSET": "250"}


@dataclass(frozen=True)
class Step:
    """What the server does where a reply is due."""

    reply: bytes = b""
    hangs_up: bool = False
    seconds: float = 0.0
    #: The reply comes in two parts, split here.
    split: int = 0


_CODES = st.sampled_from(
    [b"250", b"251", b"354", b"421", b"450", b"451", b"452", b"503", b"550", b"552", b"554", b"221"]
)
_WORDS = st.sampled_from(
    [
        b"ok",
        b"2.0.0 ok",
        b"5.1.1 no",
        b"4.7.0 too many messages in this connection",
        b"5.4.5 daily limit",
        b"Helo command rejected",
        b"",
        "grün".encode(),
    ]
)
_ENDS = st.sampled_from([b"\r\n", b"\n", b"\r\r\n"])
_GARBAGE = st.sampled_from(
    [
        b"",
        b"\r\n",
        b"250 ok\r\n250 ok\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"\x00\xff\xfe\r\n",
        b"25",
        b"999 what\r\n",
        b"250",
        b"  \r\n\n",
    ]
)


@st.composite
def replies(draw: st.DrawFn) -> bytes:
    code, words, end = draw(_CODES), draw(_WORDS), draw(_ENDS)
    before = draw(st.sampled_from([b"", b"", b"\r\n", b"\n\r\n"]))
    if draw(st.booleans()):
        return before + code + b" " + words + end
    return before + code + b"-first" + end + code + b" " + words + end


@st.composite
def steps(draw: st.DrawFn) -> Step:
    return Step(
        reply=draw(st.one_of(replies(), replies(), _GARBAGE)),
        hangs_up=draw(st.booleans()),
        seconds=draw(st.sampled_from([0.0, 0.0, 0.0, 0.01, 0.2])),
        split=draw(st.integers(0, 12)),
    )


@dataclass
class Script:
    """Which steps are drawn; all others are as usual. `True` stands for steps as usual, mail by mail."""

    pipelining: bool
    drawn: list[tuple[str, Step | None]]


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    verbs = st.sampled_from(["MAIL", "RCPT", "DATA", "CONTENT", "CONTENT", "RSET", "AUTH", "EHLO"])
    drawn = draw(st.lists(st.tuples(verbs, st.one_of(st.none(), steps(), steps())), min_size=1, max_size=8))
    return Script(draw(st.booleans()), drawn)


@dataclass
class FaultyServer:
    """Plays a script: where a reply to a verb is due, the first step that is drawn for it is done, once."""

    script: Script
    #: Contents that got a whole positive reply, by connection: what a client may count as sent.
    taken: int = 0
    contents: int = 0
    open: int = 0
    port: int = 0
    _steps: dict[str, list[Step | None]] = field(default_factory=dict)
    _server: asyncio.Server | None = None
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    async def start(self, tls: ssl.SSLContext) -> None:
        for verb, step in self.script.drawn:
            self._steps.setdefault(verb, []).append(step)
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.open += 1
        try:
            writer.write(b"220 here\r\n")
            await self._converse(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
            pass
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        recipient = False
        while line := await reader.readline():
            verb = line.split(b" ")[0].strip().decode(errors="replace").upper()
            if verb == "QUIT":
                return
            usual = f"{USUAL.get(verb, '500')} ok\r\n".encode()
            if verb == "EHLO":
                extension = b"250-PIPELINING\r\n" if self.script.pipelining else b""
                usual = extension + b"250-AUTH PLAIN\r\n250 8BITMIME\r\n"
            said = await self._play(writer, verb, usual)
            if said is None:
                return
            if verb in ("MAIL", "RSET"):
                recipient = False
            if verb == "RCPT":
                recipient = said.startswith(b"2")
            if verb == "DATA" and said.startswith(b"354"):
                await reader.readuntil(b"\r\n.\r\n") if recipient else await self._any_content(reader)
                self.contents += recipient
                said = await self._play(writer, "CONTENT", b"250 kept\r\n" if recipient else b"554 nobody\r\n")
                if said is None:
                    return
                self.taken += recipient and said.startswith(b"2")
                recipient = False

    async def _any_content(self, reader: asyncio.StreamReader) -> None:
        while await reader.readline() not in (b".\r\n", b""):
            pass

    async def _play(self, writer: asyncio.StreamWriter, verb: str, usual: bytes) -> bytes | None:
        """What was said, without what stands before it; None if it hung up."""
        drawn = self._steps.get(verb, [])
        step = drawn.pop(0) if drawn else None
        if step is None:
            writer.write(usual)
            await writer.drain()
            return usual.lstrip()
        await asyncio.sleep(step.seconds)
        writer.write(step.reply[: step.split])
        await writer.drain()
        if step.split and step.reply[step.split :]:
            await asyncio.sleep(0.001)
        writer.write(step.reply[step.split :])
        await writer.drain()
        if verb == "CONTENT" and step.hangs_up and step.reply.lstrip().startswith(b"2"):
            # What was said counts, whatever comes after it.
            self.taken += 1
        return None if step.hangs_up else step.reply.lstrip()


async def _play(script: Script, tls: ssl.SSLContext) -> None:
    server = FaultyServer(script)
    await server.start(tls)

    async def password() -> Secret:
        return SECRET

    seconds = StepSeconds(*5 * (STEP_SECONDS,))
    transport = SmtpTransport(
        Server("127.0.0.1", server.port, "me", "me", "plain", True, "host.example.org"), password, step_seconds=seconds
    )
    try:
        for number in range(4):
            taken, contents = server.taken, server.contents
            claim = Claim(answer=number != 2)
            async with asyncio.timeout(TRY_SECONDS):
                try:
                    outcome: Outcome | None = await transport.send(mail(), claim)
                except (TransportUnavailable, AccountRefused, NoConnectionYet):
                    outcome = None
            # The server counts when it has said all of its step.
            await asyncio.sleep(0.01)
            assert server.contents - contents <= 1, "the content went out twice in one try"
            if isinstance(outcome, Sent):
                assert server.taken == taken + 1
                assert claim.asked >= 1
            if isinstance(outcome, NotClaimed):
                assert server.contents == contents
            if isinstance(outcome, Hindered | Retry | SenderRefused | Slow) or outcome is None:
                assert server.taken == taken, "it was accepted, and nobody counts it"
            if isinstance(outcome, Uncertain):
                assert server.taken <= taken + 1
    finally:
        await transport.close()
        assert transport._pool.open == 0
        await asyncio.sleep(0.01)
        await server.stop()


@given(script=scripts())
@settings(
    max_examples=150,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_whatever_a_server_does_a_mail_is_sent_once_or_known_not_to_be(script: Script, tls: ssl.SSLContext) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(smtp_session, "CLEAR_SECONDS", STEP_SECONDS)
        patched.setattr(smtp, "REUSED_SECONDS", STEP_SECONDS)
        patched.setattr(smtp_login, "CONNECT_TIMEOUT_SECONDS", 4 * STEP_SECONDS)
        asyncio.run(_play(script, tls))
