"""With MAIL_SANDBOX no recipient gets a mail, whatever the transport."""

from email import message_from_bytes, policy
from pathlib import Path

import pytest

from tests.contract.peers import PEERS, Peer
from tests.contract.smtp_server import SmtpServer
from worker.base.sandbox import Sandbox
from worker.errors import TransportUnavailable
from worker.mail.addresses import Address
from worker.mail.jobs import parse_job
from worker.mail.message import Mail, build_mail
from worker.mail.outcomes import NotClaimed, Sent
from worker.sending.transports.base import Transport
from worker.sending.transports.sandbox import in_sandbox

OPERATOR = Address("", "operator@example.com")


def mail(**changes: object) -> Mail:
    job = {"from": "news@example.com", "to": ["ann@example.org", "bob@example.org"], "cc": "carol@example.org"}
    return build_mail(parse_job({**job, "bcc": "dan@example.org", "text": "Hello", **changes}), "identity")


async def claim() -> bool:
    return True


async def never() -> bool:
    return False


@pytest.fixture(params=PEERS)
def peer(request: pytest.FixtureRequest) -> Peer:
    return PEERS[request.param]()


async def test_all_mails_go_to_one_address(transport: Transport, peer: Peer) -> None:
    sandboxed = in_sandbox(Sandbox(redirect_to=OPERATOR), transport)
    assert isinstance(await sandboxed.send(mail(), claim), Sent)
    [arrived] = peer.arrived()
    assert (arrived.to, arrived.cc, arrived.bcc) == ("operator@example.com", "", "")
    assert arrived.envelope in ("", "operator@example.com")
    assert arrived.headers["x-original-to"] == "ann@example.org, bob@example.org, carol@example.org (and 1 in Bcc)"
    # Whoever gets the mail, or has it passed on, learns no more than from the mail itself.
    assert "dan@example.org" not in str(arrived)
    assert "SANDBOX" in await sandboxed.check()


@pytest.mark.parametrize("peer", ["smtp"], indirect=True)
async def test_who_is_in_bcc_and_seen_anyway_is_named_once(transport: Transport, peer: Peer) -> None:
    sandboxed = in_sandbox(Sandbox(redirect_to=OPERATOR), transport)
    assert isinstance(await sandboxed.send(mail(bcc=["ann@example.org"]), claim), Sent)
    [arrived] = peer.arrived()
    assert arrived.headers["x-original-to"] == "ann@example.org, bob@example.org, carol@example.org"


@pytest.mark.parametrize("peer", ["smtp"], indirect=True)
async def test_mails_are_kept_in_files(transport: Transport, peer: Peer, tmp_path: Path) -> None:
    sandboxed = in_sandbox(Sandbox(directory=tmp_path / "caught"), transport)
    assert await sandboxed.send(mail(), never) == NotClaimed()
    for _ in range(2):
        assert isinstance(await sandboxed.send(mail(), claim), Sent)
    [path] = (tmp_path / "caught").iterdir()
    message = message_from_bytes(path.read_bytes(), policy=policy.default)
    assert message["To"] == "ann@example.org, bob@example.org"
    assert "dan@example.org" not in str(message)
    assert "SANDBOX" in await sandboxed.check()
    assert peer.arrived() == []


@pytest.mark.parametrize("peer", ["smtp"], indirect=True)
async def test_a_directory_that_takes_nothing_is_named(transport: Transport, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    sandboxed = in_sandbox(Sandbox(directory=tmp_path / "file" / "below"), transport)
    for action in (sandboxed.check(), sandboxed.send(mail(), claim)):
        with pytest.raises(TransportUnavailable, match="name another directory in MAIL_SANDBOX"):
            await action


@pytest.mark.parametrize("peer", ["smtp"], indirect=True)
async def test_a_catcher_gets_them(transport: Transport, peer: Peer) -> None:
    catcher = SmtpServer(pipelining=False)
    await catcher.start(None)
    sandboxed = in_sandbox(Sandbox(catcher=("127.0.0.1", catcher.port)), transport)
    assert isinstance(await sandboxed.send(mail(), claim), Sent)
    assert isinstance(await sandboxed.send(mail(to="zoë@example.org"), claim), Sent)
    assert catcher.accepted[0][0].startswith("ann@example.org, bob@example.org")
    assert "SANDBOX" in await sandboxed.check()
    assert peer.arrived() == []
    await catcher.stop()
    with pytest.raises(TransportUnavailable, match="start it, or mend MAIL_SANDBOX"):
        await sandboxed.send(mail(), claim)
