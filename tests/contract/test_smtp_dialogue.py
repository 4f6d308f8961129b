"""One mail's dialogue and the connection it's on: a server that refuses, hangs up, takes its time, or has its fill."""

import asyncio
import ssl
import time

import pytest

from tests.contract.peers import SmtpPeer
from tests.contract.smtp_server import SmtpServer
from tests.contract.test_transports import Claim, mail
from worker.errors import AccountRefused, NoConnectionYet, TransportUnavailable
from worker.mail.outcomes import Failed, Hindered, NotClaimed, Outcome, Retry, SenderRefused, Sent, Slow, Uncertain
from worker.sending.transports import smtp, smtp_login, smtp_pool
from worker.sending.transports.base import NO_PLACE
from worker.sending.transports.smtp import SmtpTransport
from worker.sending.transports.smtp_session import StepSeconds


@pytest.fixture(params=[False, True], ids=["one by one", "pipelined"])
async def peer(request: pytest.FixtureRequest) -> SmtpPeer:
    return SmtpPeer(request.param)


@pytest.fixture
def server(peer: SmtpPeer) -> SmtpServer:
    return peer.server


REFUSALS: list[tuple[str, str, type[Outcome]]] = [
    ("RCPT", "550 5.1.1 no such mailbox", Failed),  # Exim's `drop` hangs up then.
    ("RCPT", "450 4.2.0 greylisted", Retry),
    ("RCPT", "421 4.7.0 later", Slow),
    ("MAIL", "421 4.7.0 slow down", Slow),
    ("MAIL", "550 5.7.1 not your address", SenderRefused),
    ("DATA", "554 5.5.1 no", Failed),
    ("DATA", "451 4.3.0 later", Slow),
    ("CONTENT", "554 5.7.1 spam", Failed),
    ("CONTENT", "421 4.7.0 later", Slow),
]


@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
@pytest.mark.parametrize(("verb", "reply", "kind"), REFUSALS)
async def test_a_refusal_counts_although_the_server_hangs_up(
    transport: SmtpTransport, server: SmtpServer, verb: str, reply: str, kind: type[Outcome], used: bool
) -> None:
    if used:
        await transport.send(mail(), Claim())
    server.replies, server.hangs_up_after = {verb: reply}, {verb}
    outcome = await transport.send(mail(), Claim())
    assert isinstance(outcome, kind), outcome
    assert reply.split(" ", 1)[1] in str(outcome)
    server.replies, server.hangs_up_after = {}, set()
    before = len(server.accepted)
    assert isinstance(await transport.send(mail(), Claim()), Sent)
    assert len(server.accepted) == before + 1


async def test_a_blocked_account_that_is_hung_up_on_is_refused(transport: SmtpTransport, server: SmtpServer) -> None:
    server.replies, server.hangs_up_after = {"MAIL": "554 5.1.8 outgoing blocked"}, {"MAIL"}
    with pytest.raises(AccountRefused, match=r"554 5\.1\.8"):
        await transport.send(mail(), Claim())


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
async def test_who_hangs_up_without_a_word_hinders(transport: SmtpTransport, server: SmtpServer, verb: str) -> None:
    server.replies = {verb: "close"}
    outcome = await transport.send(mail(), Claim())
    assert isinstance(outcome, Hindered)
    assert server.accepted == []


async def test_a_354_behind_a_refused_sender_ends_the_connection(transport: SmtpTransport, server: SmtpServer) -> None:
    # Such a server might take the end of an empty mail for a mail to the recipient that it took.
    server.replies = {"MAIL": "550 5.7.1 no"}
    assert isinstance(await transport.send(mail(), Claim()), SenderRefused)
    assert server.mails_for_nobody == 0
    assert server.accepted == []


@pytest.mark.parametrize(
    ("step", "outcome"), [("MAIL", Hindered), ("RCPT", Hindered), ("DATA", Hindered), ("CONTENT", Uncertain)]
)
async def test_each_step_has_its_time(peer: SmtpPeer, tls: ssl.SSLContext, step: str, outcome: type[Outcome]) -> None:
    """RFC 5321, 4.5.3.2: half of its time is no reason to hang up; all of it is."""
    peer.step_seconds = StepSeconds(mail=0.4, recipient=0.4, data=0.4, verdict=0.4)
    transport = await peer.start(tls)
    peer.server.delays = {step: 0.2}
    assert isinstance(await transport.send(mail(), Claim()), Sent)
    assert len(peer.server.accepted) == 1
    peer.server.delays = {step: 60}
    began = time.monotonic()
    assert isinstance(await transport.send(mail(), Claim()), outcome)
    assert time.monotonic() - began < 2
    await transport.close()
    await peer.stop()


@pytest.mark.parametrize(("step", "kind"), [("MAIL", Hindered), ("RCPT", Hindered), ("CONTENT", Uncertain)])
async def test_a_reply_that_trickles_for_ever_ends(
    peer: SmtpPeer, tls: ssl.SSLContext, step: str, kind: type[Outcome]
) -> None:
    peer.step_seconds = StepSeconds(mail=0.4, recipient=0.4, data=0.4, verdict=0.4)
    transport = await peer.start(tls)
    peer.server.replies = {step: "trickle"}
    began = time.monotonic()
    assert isinstance(await transport.send(mail(), Claim()), kind)
    assert time.monotonic() - began < 2
    await transport.close()
    await peer.stop()


async def test_a_slow_verdict_is_waited_for(transport: SmtpTransport, server: SmtpServer) -> None:
    """Who hangs up before it gets its mail delivered twice. 600 s in life; 0.5 s in these tests."""
    server.delays = {"CONTENT": 0.3}
    for _ in range(3):
        assert isinstance(await transport.send(mail(), Claim()), Sent)
    assert len(server.accepted) == 3


@pytest.mark.parametrize(
    "full", ["421 4.7.0 too many messages in this connection", "451 4.7.0 limit of messages per connection", "421 bye"]
)
async def test_a_limit_of_mails_per_connection_costs_a_connection_and_is_learned(
    transport: SmtpTransport, server: SmtpServer, full: str
) -> None:
    server.mails_per_connection, server.full = 4, full
    claim = Claim()
    for _ in range(40):
        assert isinstance(await transport.send(mail(), claim), Sent)
    assert server.connections == 10
    assert claim.asked <= 40 + 2  # Once more for each time that it wasn't known yet.
    assert len(server.accepted) == 40


async def test_a_421_to_the_first_mail_on_a_connection_is_pacing(transport: SmtpTransport, server: SmtpServer) -> None:
    await transport.send(mail(), Claim())
    server.replies, server.hangs_up_after = {"MAIL": "421 4.7.0 too fast"}, {"MAIL"}
    for _ in range(3):
        assert isinstance(await transport.send(mail(), Claim()), Slow)
    server.replies, server.hangs_up_after = {}, set()
    before = server.connections
    for _ in range(5):
        assert isinstance(await transport.send(mail(), Claim()), Sent)
    # Nothing was learned from it about connections.
    assert server.connections == before + 1


@pytest.mark.parametrize(
    "reply",
    [
        "504 5.5.2 <mail1>: Helo command rejected: need fully-qualified hostname",
        "450 4.7.1 <mail1>: Helo command rejected: Host not found",
        "550 5.7.1 Access denied - Invalid HELO name (See RFC2821 4.1.1.1)",
    ],
)
@pytest.mark.parametrize("verb", ["MAIL", "RCPT"])
async def test_a_server_that_dislikes_our_name_fails_nobody(
    transport: SmtpTransport, server: SmtpServer, verb: str, reply: str
) -> None:
    server.replies = {verb: reply}
    outcome = await transport.send(mail(), Claim())
    assert isinstance(outcome, Hindered)
    assert "host.example.org" in outcome.reason
    assert "SMTP_HELO_NAME" in outcome.reason


@pytest.mark.parametrize("code", [501, 504, 550])
async def test_a_name_that_is_refused_at_ehlo_fails_nobody(
    transport: SmtpTransport, server: SmtpServer, code: int
) -> None:
    server.replies = {"EHLO": f"{code} 5.5.2 need a fully-qualified hostname"}
    with pytest.raises(TransportUnavailable, match="SMTP_HELO_NAME"):
        await transport.send(mail(), Claim())


class Limit:
    """The fleet's limit, as lua/account.lua keeps it, for one process."""

    limited = True

    def __init__(self, most: int) -> None:
        self._most = most

    async def may_connect(self, open_connections: int) -> int:
        return 0 if open_connections < self._most else NO_PLACE

    async def count_connections(self, open_connections: int) -> None: ...

    async def resume(self) -> None: ...


async def test_with_few_connections_the_speed_is_theirs(transport: SmtpTransport, server: SmtpServer) -> None:
    """Two connections that take 20 ms a mail make 100 mails/s, however many mails are in hand."""
    transport._pool._connections = Limit(2)
    server.delays = {"CONTENT": 0.02}
    began = time.monotonic()
    outcomes = await asyncio.gather(*(transport.send(mail(), Claim()) for _ in range(100)))
    assert all(isinstance(outcome, Sent) for outcome in outcomes)
    assert time.monotonic() - began < 2.0
    assert server.most_at_once <= 2


async def test_a_mail_that_waits_for_long_goes_back(
    transport: SmtpTransport, server: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtp_pool, "LONGEST_WAIT_SECONDS", 0.2)
    transport._pool._connections = Limit(1)
    server.delays = {"CONTENT": 0.4}
    outcomes = await asyncio.gather(*(transport.send(mail(), Claim()) for _ in range(3)), return_exceptions=True)
    assert isinstance(outcomes[0], Sent)
    waits = [outcome.wait_ms for outcome in outcomes if isinstance(outcome, NoConnectionYet)]
    assert waits == [0, 0]
    transport._pool._connections = Limit(0)
    server.drop_connections()
    await asyncio.sleep(0.05)
    with pytest.raises(NoConnectionYet) as caught:
        await transport.send(mail(), Claim())
    assert caught.value.wait_ms > 0


async def test_a_server_with_a_limit_of_its_own_is_used_within_it(transport: SmtpTransport, server: SmtpServer) -> None:
    assert isinstance(await transport.send(mail(), Claim()), Sent)
    # The one that there is goes on, further ones are turned away.
    server.replies, server.delays = {"GREETING": "421 4.7.0 too many concurrent connections"}, {"CONTENT": 0.02}
    outcomes = await asyncio.gather(*(transport.send(mail(), Claim()) for _ in range(10)))
    assert all(isinstance(outcome, Sent) for outcome in outcomes)


async def test_a_mail_that_is_not_claimed_keeps_the_connection(transport: SmtpTransport, server: SmtpServer) -> None:
    for _ in range(3):
        assert await transport.send(mail(), Claim(answer=False)) == NotClaimed()
    assert isinstance(await transport.send(mail(), Claim()), Sent)
    assert server.connections == 1


async def test_a_used_connection_that_fell_silent_is_soon_replaced(
    transport: SmtpTransport, server: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtp, "REUSED_SECONDS", 0.2)
    await transport.send(mail(), Claim())
    server.replies = {"MAIL": "stall"}
    sending = asyncio.create_task(transport.send(mail(), Claim()))
    await asyncio.sleep(0.1)
    server.replies = {}
    assert isinstance(await sending, Sent)


async def test_a_cancelled_try_leaves_no_connection_behind(transport: SmtpTransport, server: SmtpServer) -> None:
    transport._pool._connections = Limit(1)
    server.replies = {"CONTENT": "stall"}
    tasks = [asyncio.create_task(transport.send(mail(), Claim())) for _ in range(3)]
    await asyncio.sleep(0.2)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert transport._pool.open == 0
    server.replies = {}
    assert isinstance(await transport.send(mail(), Claim()), Sent)


@pytest.mark.parametrize("alone_first", [True, False])
async def test_a_connection_that_is_never_greeted_holds_no_mail_up(
    transport: SmtpTransport, server: SmtpServer, monkeypatch: pytest.MonkeyPatch, alone_first: bool
) -> None:
    monkeypatch.setattr(smtp_login, "CONNECT_TIMEOUT_SECONDS", 3600.0)
    server.never_greeted = {3}
    server.delays["CONTENT"] = 0.2
    if alone_first:
        await transport.send(mail(), Claim())
    async with asyncio.timeout(60):
        outcomes = await asyncio.gather(*(transport.send(mail(), Claim()) for _ in range(8)))
    assert [type(outcome) for outcome in outcomes] == [Sent] * 8
    # The others have theirs.
    assert 3 < transport._pool.open <= 8


@pytest.mark.parametrize("full", ["", "421 bye"])
async def test_connections_that_have_their_fill_together_are_nobodys_fault(
    transport: SmtpTransport, server: SmtpServer, full: str
) -> None:
    server.mails_per_connection, server.full = 10, full
    server.delays = {"EHLO": 0.05, "AUTH": 0.05, "CONTENT": 0.02}
    left = iter(range(500))

    async def send_some() -> list[type[Outcome]]:
        return [type(await transport.send(mail(), Claim())) for _ in left]

    outcomes = await asyncio.gather(*(send_some() for _ in range(30)))
    assert {outcome for some in outcomes for outcome in some} == {Sent}
