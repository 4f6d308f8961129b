"""What every transport does with every manner of its provider, against servers that speak the documented protocol."""

import asyncio
from dataclasses import replace
from email.utils import parseaddr

import pytest

from tests.contract.peers import PEERS, SECRET, SMTP_PEERS, Peer, ResendPeer, SmtpPeer, known_manners
from worker.errors import AccountRefused, MailWorkerError, TransportUnavailable
from worker.mail.jobs import parse_job
from worker.mail.message import Mail, build_mail
from worker.mail.outcomes import Failed, Hindered, NotClaimed, Outcome, Retry, SenderRefused, Sent, Slow, Uncertain
from worker.sending.transports import http
from worker.sending.transports.base import NO_PLACE, Transport
from worker.sending.transports.smtp import SmtpTransport


def pairs(*manners: str) -> pytest.MarkDecorator:
    """Runs a test with each of these manners, on each transport whose provider knows it."""
    known = [(peer, manner) for peer in PEERS for manner in manners if manner in known_manners(peer)]
    return pytest.mark.parametrize(("peer", "manner"), known, indirect=["peer"])


on_smtp = pytest.mark.parametrize("peer", SMTP_PEERS, indirect=True)


@pytest.fixture(params=PEERS)
def peer(request: pytest.FixtureRequest) -> Peer:
    return PEERS[request.param]()


def mail(**changes: object) -> Mail:
    job = {
        "to": {"name": 'Zoë "Z" Ångström', "address": "zoe@example.org"},
        "from": "The News <news@example.com>",
        "replyTo": "desk@example.com",
        "subject": "Grüße ✓",
        "html": "<p>Hallo Zoë</p>\n<p>.Punkt</p>\n",
        "text": ".Hallo\n.Zoë\n",
        "headers": {"X-Tag": "spring"},
        "campaignId": "c",
        "subscriberId": "s",
        "unsubscribeUrl": "https://app.example/u/1",
        **changes,
    }
    return build_mail(parse_job(job), "identity")


class Claim:
    """Counts how often it's asked."""

    def __init__(self, answer: bool = True) -> None:
        self.asked = 0
        self._answer = answer

    async def __call__(self) -> bool:
        self.asked += 1
        return self._answer


async def test_a_mail_arrives_whole(transport: Transport, peer: Peer) -> None:
    claim = Claim()
    sent = mail()
    outcome = await transport.send(sent, claim)
    assert isinstance(outcome, Sent)
    assert claim.asked == 1
    [arrived] = peer.arrived()
    assert parseaddr(arrived.to) == ('Zoë "Z" Ångström', "zoe@example.org")
    assert parseaddr(arrived.sender) == ("The News", "news@example.com")
    assert parseaddr(arrived.reply_to) == ("", "desk@example.com")
    assert arrived.subject == "Grüße ✓"
    assert arrived.text.replace("\r\n", "\n").rstrip("\n") == ".Hallo\n.Zoë"
    assert arrived.html.replace("\r\n", "\n").rstrip("\n") == "<p>Hallo Zoë</p>\n<p>.Punkt</p>"
    assert arrived.headers["x-tag"] == "spring"
    assert arrived.headers["list-unsubscribe"] == "<https://app.example/u/1>"
    assert arrived.headers["list-unsubscribe-post"] == "List-Unsubscribe=One-Click"
    assert arrived.headers.get("message-id", sent.message_id) == sent.message_id


async def test_a_mail_without_html_arrives(transport: Transport, peer: Peer) -> None:
    assert isinstance(await transport.send(mail(html=""), Claim()), Sent)
    [arrived] = peer.arrived()
    assert arrived.html == ""


async def test_a_mail_of_html_alone_arrives(transport: Transport, peer: Peer) -> None:
    assert isinstance(await transport.send(replace(mail(text=""), makes_text=False), Claim()), Sent)
    assert isinstance(await transport.send(replace(mail(), makes_text=False), Claim()), Sent)
    without, with_its_own = peer.arrived()
    assert (without.text, with_its_own.text.split()) == ("", [".Hallo", ".Zoë"])
    assert "<p>Hallo Zoë</p>" in without.html
    assert "<p>Hallo Zoë</p>" in with_its_own.html


async def test_a_mail_that_isnt_claimed_doesnt_leave(transport: Transport, peer: Peer) -> None:
    assert await transport.send(mail(), Claim(answer=False)) == NotClaimed()
    assert peer.arrived() == []
    # The connection is as good as new.
    assert isinstance(await transport.send(mail(), Claim()), Sent)


MANNERS: dict[str, tuple[type[Outcome], str]] = {
    "no such recipient": (Failed, ""),
    "spam": (Failed, "5.7.1"),
    "busy": (Retry, ""),
    "slow down": (Slow, ""),
    "slow down at one recipient": (Retry, "451"),
    "slow down at the content": (Slow, "451"),
    "away for a while": (Slow, "503"),
    "broken": (Slow, "500"),
    "taken before": (Sent, ""),
    "sender refused": (SenderRefused, ""),
}


@pairs(*MANNERS)
async def test_a_refusal_is_understood(transport: Transport, peer: Peer, manner: str) -> None:
    peer.behave(manner)
    kind, words = MANNERS[manner]
    outcome = await transport.send(mail(), Claim())
    assert isinstance(outcome, kind), outcome
    assert words in str(outcome)
    peer.behave("accept")
    assert isinstance(await transport.send(mail(), Claim()), Sent)


@pairs("login refused", "quota", "wrong path")
async def test_a_refused_account_fails_no_mail(transport: Transport, peer: Peer, manner: str) -> None:
    peer.behave(manner)
    with pytest.raises(AccountRefused) as caught:
        await transport.send(mail(), Claim())
    assert str(SECRET) not in str(caught.value)
    peer.behave("accept")
    assert isinstance(await transport.send(mail(), Claim()), Sent)


@on_smtp
async def test_a_server_that_takes_no_login_now_refuses_no_password(transport: Transport, peer: SmtpPeer) -> None:
    peer.behave("too busy for a login")
    with pytest.raises(TransportUnavailable, match="421"):
        await transport.send(mail(), Claim())
    peer.behave("accept")
    assert isinstance(await transport.send(mail(), Claim()), Sent)


@pairs("close after the content", "rubbish", "gateway", "stall")
async def test_a_mail_whose_reply_is_lost_is_uncertain(transport: Transport, peer: Peer, manner: str) -> None:
    if isinstance(transport, http.HttpTransport):
        transport._client.timeout = 0.5
    peer.behave(manner)
    outcome = await transport.send(mail(), Claim())
    # With an idempotency key it may be sent again and again.
    assert isinstance(outcome, Slow if transport.idempotent_seconds else Uncertain), outcome
    peer.behave("accept")
    assert isinstance(await transport.send(mail(), Claim()), Sent)


@on_smtp
async def test_a_connection_that_is_lost_before_the_content_spends_nothing(transport: Transport, peer: Peer) -> None:
    peer.behave("close before the content")
    assert isinstance(await transport.send(mail(), Claim()), Hindered)


async def test_a_server_that_is_away_is_unavailable(transport: Transport, peer: Peer) -> None:
    await peer.stop()
    with pytest.raises(TransportUnavailable) as caught:
        await transport.send(mail(), Claim())
    assert "check" in str(caught.value)


async def test_many_mails_at_once(transport: Transport, peer: Peer) -> None:
    mails = [mail(subject=f"number {number}") for number in range(60)]
    outcomes = await asyncio.gather(*(transport.send(each, Claim()) for each in mails))
    assert all(isinstance(outcome, Sent) for outcome in outcomes)
    assert {arrived.subject for arrived in peer.arrived()} == {f"number {number}" for number in range(60)}


async def test_check_says_whether_the_login_is_right(transport: Transport, peer: Peer) -> None:
    assert await transport.check()
    if isinstance(peer, SmtpPeer):
        peer.server.drop_connections()
    peer.behave("login refused")
    with pytest.raises(MailWorkerError) as caught:
        await transport.check()
    assert str(SECRET) not in str(caught.value)


@pytest.mark.parametrize("peer", ["resend"], indirect=True)
async def test_a_retry_has_the_same_idempotency_key(transport: Transport, peer: ResendPeer) -> None:
    for _ in range(2):
        await transport.send(mail(), Claim())
    first, second = (request.headers["idempotency-key"] for request in peer.server.requests)
    assert first == second


@pytest.mark.parametrize("peer", ["smtp with keys"], indirect=True)
async def test_a_retry_by_smtp_has_the_same_idempotency_key(transport: Transport, peer: SmtpPeer) -> None:
    for _ in range(2):
        await transport.send(mail(), Claim())
    first, second = (arrived.headers["resend-idempotency-key"] for arrived in peer.arrived())
    assert first == second == mail().identity


@on_smtp
async def test_an_idle_connection_that_was_closed_is_replaced(transport: Transport, peer: SmtpPeer) -> None:
    await transport.send(mail(), Claim())
    peer.server.drop_connections()
    await asyncio.sleep(0.05)
    assert isinstance(await transport.send(mail(), Claim()), Sent)
    assert peer.server.connections == 2


@on_smtp
@pytest.mark.parametrize(
    ("field", "outcome_type", "words"),
    [
        ("to", Failed, "takes no addresses"),
        ("from", SenderRefused, "takes no sender"),
        ("replyTo", SenderRefused, "takes no replyTo"),
    ],
)
async def test_a_server_without_smtputf8_gets_no_such_address(
    transport: Transport, peer: SmtpPeer, field: str, outcome_type: type[Failed | SenderRefused], words: str
) -> None:
    internationalized = mail(**{field: "zoë@example.org"})
    peer.server.smtputf8 = False
    outcome = await transport.send(internationalized, Claim())
    assert isinstance(outcome, outcome_type)
    assert words in outcome.reason
    await transport.close()
    peer.server.smtputf8 = True
    assert isinstance(await transport.send(internationalized, Claim()), Sent)
    assert any("SMTPUTF8" in command for command in peer.server.commands if command.startswith("MAIL"))


class ThreeConnections:
    """The fleet's limit, as lua/account.lua keeps it, for one process."""

    limited = True

    async def may_connect(self, open_connections: int) -> int:
        await asyncio.sleep(0.01)
        return 0 if open_connections < 3 else NO_PLACE

    async def count_connections(self, open_connections: int) -> None: ...

    async def resume(self) -> None: ...


@on_smtp
async def test_mails_wait_in_turn_for_a_connection(transport: SmtpTransport, peer: SmtpPeer) -> None:
    transport._pool._connections = ThreeConnections()
    await transport.send(mail(), Claim())
    peer.server.drop_connections()
    await asyncio.sleep(0.05)
    before = peer.server.connections
    # Otherwise one connection has sent them all before there are three.
    peer.server.delays["CONTENT"] = 0.1
    order: list[int] = []

    async def send(number: int) -> None:
        assert isinstance(await transport.send(mail(), Claim()), Sent)
        order.append(number)

    await asyncio.gather(*(send(number) for number in range(20)))
    assert peer.server.connections - before == 3
    # Three at once: nobody is overtaken by more than the two others that are being sent.
    assert all(abs(number - place) <= 2 for place, number in enumerate(order))


@on_smtp
async def test_a_354_for_a_refused_recipient_sends_no_mail(transport: Transport, peer: SmtpPeer) -> None:
    # RFC 2920, 3.1: the server may say 354 although no recipient was taken.
    peer.behave("no such recipient")
    assert isinstance(await transport.send(mail(), Claim()), Failed)
    assert peer.server.accepted == []
