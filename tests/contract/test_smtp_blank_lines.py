"""Empty lines before replies, as some servers and proxies send them: from the greeting to QUIT they change nothing, and
without end they end."""

import asyncio
import resource
import ssl

import pytest

from tests.contract.peers import SmtpPeer
from tests.contract.test_transports import Claim, mail
from worker.errors import TransportUnavailable
from worker.mail.outcomes import Hindered, NotClaimed, Outcome, SenderRefused, Sent, Uncertain
from worker.sending.transports import smtp_login
from worker.sending.transports.smtp import SmtpTransport
from worker.sending.transports.smtp_session import StepSeconds

LOGIN_STEPS = ["GREETING", "EHLO", "STARTTLS", "AUTH"]
MAIL_STEPS: list[tuple[str, type[Outcome]]] = [
    ("MAIL", Hindered),
    ("RCPT", Hindered),
    ("DATA", Hindered),
    ("CONTENT", Uncertain),
]


@pytest.fixture(params=[False, True], ids=["one by one", "pipelined"])
async def peer(request: pytest.FixtureRequest) -> SmtpPeer:
    made = SmtpPeer(request.param)
    made.server.starttls = True
    made.step_seconds = StepSeconds(mail=0.4, recipient=0.4, data=0.4, verdict=0.4)
    return made


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("starttls", [False, True], ids=["TLS", "STARTTLS"])
@pytest.mark.parametrize("before", [b"\r\n", b"\n", b"\r\r\n", b" \r\n\r\n", b"\n\r\n\n\r\n"])
async def test_blank_lines_before_replies_change_nothing(
    peer: SmtpPeer, tls: ssl.SSLContext, before: bytes, starttls: bool, mechanism: str
) -> None:
    server = peer.server
    server.before_replies, server.starttls, server.mechanism = before, starttls, mechanism
    transport = await peer.start(tls)
    assert isinstance(await transport.send(mail(), Claim()), Sent)
    # RSET, or a 354 to a mail that nobody is to get, and then the next mail.
    assert await transport.send(mail(), Claim(answer=False)) == NotClaimed()
    server.replies = {
        "MAIL": "550 5.7.1 not your address",
        "RCPT": "503 5.5.1 MAIL first",
        "DATA": "503 5.5.1 MAIL first",
    }
    assert isinstance(await transport.send(mail(), Claim()), SenderRefused)
    server.replies = {}
    assert isinstance(await transport.send(mail(), Claim()), Sent)
    await transport.close()
    assert len(server.accepted) == 2
    assert server.connections == 1
    assert server.commands[-1] == "QUIT"
    await peer.stop()


@pytest.mark.parametrize("byte_by_byte", [b"\r\n\n220 here\r\n\r\n", b"220-first\r\n\r\n220 here\r\n"])
async def test_blank_lines_in_pieces_change_nothing(byte_by_byte: bytes) -> None:
    """A reply's bytes may come one by one, and a blank line behind it with the next one's."""
    lost: list[object] = []
    protocol = smtp_login._Protocol(lost.append)
    protocol.connection_made(asyncio.Transport())
    for byte in byte_by_byte:
        protocol.data_received(bytes([byte]))
    assert (await protocol.read_response()).code == 220
    assert lost == []


@pytest.mark.parametrize("step", LOGIN_STEPS)
async def test_blank_lines_without_end_end_a_login(transport: SmtpTransport, peer: SmtpPeer, step: str) -> None:
    peer.server.replies = {step: "blanks"}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TransportUnavailable, match="it sends blank lines without end"):
        await asyncio.wait_for(transport.send(mail(), Claim()), smtp_login.CONNECT_TIMEOUT_SECONDS / 2)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


@pytest.mark.parametrize("step", LOGIN_STEPS)
async def test_blank_lines_that_trickle_end_with_the_time_for_a_login(
    transport: SmtpTransport, peer: SmtpPeer, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtp_login, "CONNECT_TIMEOUT_SECONDS", 0.5)
    peer.server.replies, peer.server.blank_seconds = {step: "blanks"}, 0.01
    words = "time-out" if step == "AUTH" else "it accepts the connection but says nothing within"
    with pytest.raises(TransportUnavailable, match=words):
        await asyncio.wait_for(transport.send(mail(), Claim()), 3)


@pytest.mark.parametrize("seconds", [0.0, 0.01], ids=["flood", "trickle"])
@pytest.mark.parametrize(("step", "kind"), MAIL_STEPS)
async def test_blank_lines_without_end_end_a_mail(
    transport: SmtpTransport, peer: SmtpPeer, step: str, kind: type[Outcome], seconds: float
) -> None:
    peer.server.replies, peer.server.blank_seconds = {step: "blanks"}, seconds
    outcome = await asyncio.wait_for(transport.send(mail(), Claim()), 3)
    assert isinstance(outcome, kind)
    assert ("no reply within 0.4" if seconds else "an endless reply") in str(outcome)
