"""Attachments, several recipients, tags and invitations, on every transport."""

from email.utils import getaddresses

import pytest

from tests.contract.peers import PEERS, Peer, SmtpPeer
from worker.errors import AccountRefused
from worker.mail.jobs import parse_job
from worker.mail.message import Mail, build_mail
from worker.mail.outcomes import Failed, Retry, Sent
from worker.sending.transports.base import Transport

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 10


@pytest.fixture(params=PEERS)
def peer(request: pytest.FixtureRequest) -> Peer:
    return PEERS[request.param]()


async def claim() -> bool:
    return True


def mail(**changes: object) -> Mail:
    job = {
        "from": "news@example.com",
        "to": ["Ann <ann@example.org>", "bob@example.org"],
        "cc": "carol@example.org",
        "bcc": ["dan@example.org", "ann@example.org"],
        "replyTo": ["desk@example.com", "Boss <boss@example.com>"],
        "subject": "Order",
        "text": "Hello",
        "html": '<p>Hello <img src="cid:logo"></p>',
        "attachments": [
            {"filename": "größe.pdf", "content": "JVBERi0xLjQK", "encoding": "base64"},
            {"filename": "notes.txt", "content": "Thank you, Zoë."},
            {"filename": "logo.png", "content": {"type": "Buffer", "data": list(PICTURE)}, "cid": "logo"},
        ],
        "tags": ["spring", {"name": "order", "value": "7"}],
        **changes,
    }
    return build_mail(parse_job(job), "identity")


def people(text: str) -> list[str]:
    return [address for _, address in getaddresses([text])]


async def test_a_rich_mail_arrives_whole(transport: Transport, peer: Peer) -> None:
    assert isinstance(await transport.send(mail(), claim), Sent)
    [arrived] = peer.arrived()
    assert people(arrived.to) == ["ann@example.org", "bob@example.org"]
    assert people(arrived.cc) == ["carol@example.org"]
    assert people(arrived.reply_to) == ["desk@example.com", "boss@example.com"]
    if arrived.envelope:
        assert arrived.envelope.split(", ") == [
            *("ann@example.org", "bob@example.org", "carol@example.org", "dan@example.org")
        ]
        assert "dan@" not in str(arrived.headers)
    else:
        assert "dan@example.org" in people(arrived.bcc)
        assert sorted(arrived.tags.split(", "))[0].startswith("order")
        assert "spring" in arrived.tags
    files = {name: (kind.partition(";")[0], content, cid) for name, kind, content, cid in arrived.files}
    assert files["größe.pdf"] == ("application/pdf", b"%PDF-1.4\n", "")
    assert files["notes.txt"] == ("text/plain", "Thank you, Zoë.".encode(), "")
    [logo] = (file for file in files.values() if file[2])
    assert logo == ("image/png", PICTURE, "logo")


@pytest.mark.parametrize(
    ("changes", "named"),
    [({}, ["invoice.pdf"]), ({"html": None}, ["invoice.pdf", "logo.png"]), ({"html": "<a href='cid:invoice'>"}, [])],
    ids=["attached", "without html", "in the html"],
)
async def test_a_file_that_the_html_doesnt_show_keeps_its_name(
    transport: Transport, peer: Peer, changes: dict[str, object], named: list[str]
) -> None:
    files = [
        {"filename": "invoice.pdf", "content": "JVBERi0xLjQK", "encoding": "base64", "cid": "invoice"},
        {"filename": "logo.png", "content": {"type": "Buffer", "data": list(PICTURE)}, "cid": "logo"},
    ]
    assert isinstance(await transport.send(mail(attachments=files, **changes), claim), Sent)
    [arrived] = peer.arrived()
    assert set(named) <= {name for name, *_ in arrived.files}
    assert [content for *_, content, _ in arrived.files] == [b"%PDF-1.4\n", PICTURE]


async def test_an_invitation_arrives(transport: Transport, peer: Peer) -> None:
    event = "BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nEND:VCALENDAR\r\n"
    job = mail(icalEvent={"method": "request", "content": event, "filename": "lunch.ics"}, attachments=[])
    assert isinstance(await transport.send(job, claim), Sent)
    [arrived] = peer.arrived()
    [(name, kind, content, _)] = arrived.files
    assert (name, content.decode()) == ("lunch.ics", event)
    assert kind.startswith(("text/calendar", "application/ics"))


@pytest.mark.parametrize("peer", ["smtp", "smtp pipelined"], indirect=True)
async def test_who_is_refused_for_good_is_left_out(transport: Transport, peer: SmtpPeer) -> None:
    peer.server.recipients = {"bob@example.org": "550 5.1.1 no such mailbox"}
    outcome = await transport.send(mail(), claim)
    assert isinstance(outcome, Sent)
    assert outcome.reply.endswith("; not for bob@example.org: 550 5.1.1 no such mailbox")
    [arrived] = peer.arrived()
    assert arrived.envelope == "ann@example.org, carol@example.org, dan@example.org"


@pytest.mark.parametrize("peer", ["smtp", "smtp pipelined"], indirect=True)
async def test_who_is_refused_for_now_makes_it_wait_for_all(transport: Transport, peer: SmtpPeer) -> None:
    peer.server.recipients = {"bob@example.org": "550 5.1.1 no", "carol@example.org": "450 4.2.0 busy"}
    assert isinstance(await transport.send(mail(), claim), Retry)
    assert peer.arrived() == []
    peer.server.recipients = {}
    assert isinstance(await transport.send(mail(), claim), Sent)
    assert peer.server.connections == 1


@pytest.mark.parametrize("peer", ["smtp", "smtp pipelined"], indirect=True)
async def test_what_is_the_accounts_matter_leaves_nobody_out(transport: Transport, peer: SmtpPeer) -> None:
    peer.server.recipients = {"bob@example.org": "550 5.4.5 Daily user sending limit exceeded"}
    with pytest.raises(AccountRefused):
        await transport.send(mail(), claim)
    assert peer.arrived() == []
    peer.server.recipients = {"carol@example.org": "452 4.5.3 Too many recipients"}
    outcome = await transport.send(mail(), claim)
    assert isinstance(outcome, Failed)
    assert "queue a job for each of its 4 recipients" in outcome.reason


@pytest.mark.parametrize("peer", ["smtp", "smtp pipelined"], indirect=True)
async def test_if_all_are_refused_it_has_failed(transport: Transport, peer: SmtpPeer) -> None:
    peer.server.replies = {"RCPT": "550 5.1.1 no such mailbox"}
    assert isinstance(await transport.send(mail(), claim), Failed)
    peer.server.replies = {}
    assert isinstance(await transport.send(mail(), claim), Sent)
    assert peer.server.connections == 1
