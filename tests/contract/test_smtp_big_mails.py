"""Mails of more than one block: that content leaves is watched block by block, and until the last one the mail is known
not to be accepted. On the programs' event loop and on asyncio's, since each has its own TLS."""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable

import pytest

from tests.contract.peers import SmtpPeer
from tests.contract.test_addresses import LOOPS, Loop
from tests.contract.test_transports import Claim, mail
from worker.mail.message import Mail
from worker.mail.outcomes import Failed, Hindered, Sent, Uncertain
from worker.sending.transports import smtp_session
from worker.sending.transports.base import NOTHING_LEFT
from worker.sending.transports.smtp import SmtpTransport
from worker.sending.transports.smtp_session import StepSeconds

BLOCK_SECONDS = 1.0


def on_both_loops(test: Callable[[SmtpTransport, SmtpPeer], Awaitable[None]]) -> Callable[..., None]:
    async def play(peer: SmtpPeer, tls: ssl.SSLContext) -> None:
        transport = await peer.start(tls)
        assert isinstance(transport, SmtpTransport)
        await test(transport, peer)
        await transport.close()
        assert transport._pool.open == 0
        await peer.stop()

    @LOOPS
    @pytest.mark.parametrize("pipelining", [False, True], ids=["one by one", "pipelined"])
    def played(loop: Loop, pipelining: bool, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(smtp_session, "SLOWEST_BYTES_PER_SECOND", 1_000_000)
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(play(SmtpPeer(pipelining, step_seconds=StepSeconds(block=BLOCK_SECONDS, verdict=0.4)), tls))

    return played


def big() -> Mail:
    """More than loopback's buffers take."""
    return mail(text="x" * 9_000_000)


@on_both_loops
async def test_a_mail_of_any_length_arrives_whole(transport: SmtpTransport, peer: SmtpPeer) -> None:
    block = smtp_session.BLOCK_BYTES
    for length in (1_000, *range(block - 8, block + 8), 2 * block, 200_000):
        text = ".dots\n" * (length // 6) + "x" * (length % 6)
        sent = mail(text=text)
        assert isinstance(await transport.send(sent, Claim()), Sent)
        assert peer.server.accepted.pop()[1] == sent.data
    assert peer.server.connections == 1


@on_both_loops
async def test_a_content_that_ends_near_a_block_arrives_whole(transport: SmtpTransport, peer: SmtpPeer) -> None:
    sent = mail()
    with pytest.MonkeyPatch.context() as patched:
        for block in range(len(sent.data) // 2 - 4, len(sent.data) // 2 + 5):
            patched.setattr(smtp_session, "BLOCK_BYTES", block)
            assert isinstance(await transport.send(sent, Claim()), Sent)
            assert peer.server.accepted.pop()[1] == sent.data


@on_both_loops
async def test_a_server_that_takes_no_more_is_given_up_and_has_not_got_the_mail(
    transport: SmtpTransport, peer: SmtpPeer
) -> None:
    peer.server.takes_nothing = True
    began = time.monotonic()
    outcome = await transport.send(big(), Claim())
    assert isinstance(outcome, Hindered)
    assert "before the content had left: nothing of it left within 1 s" in outcome.reason
    assert BLOCK_SECONDS < time.monotonic() - began < 4


@on_both_loops
async def test_a_server_that_takes_it_slowly_gets_it(transport: SmtpTransport, peer: SmtpPeer) -> None:
    peer.server.middle_seconds = 0.015
    began = time.monotonic()
    assert isinstance(await transport.send(big(), Claim()), Sent)
    assert time.monotonic() - began > BLOCK_SECONDS
    assert len(peer.server.accepted) == 1


@on_both_loops
async def test_once_the_end_has_left_it_is_uncertain(transport: SmtpTransport, peer: SmtpPeer) -> None:
    peer.server.takes_nothing = True
    assert isinstance(await transport.send(mail(text="x" * 70_000), Claim()), Uncertain)


@on_both_loops
async def test_who_hangs_up_in_the_middle_has_not_got_the_mail(transport: SmtpTransport, peer: SmtpPeer) -> None:
    peer.server.replies = {"MIDDLE": "close"}
    assert isinstance(await transport.send(big(), Claim()), Hindered)


@on_both_loops
async def test_a_used_connection_that_ends_in_the_middle_is_replaced(transport: SmtpTransport, peer: SmtpPeer) -> None:
    assert isinstance(await transport.send(mail(), Claim()), Sent)
    peer.server.replies = {"MIDDLE": "close"}
    assert isinstance(await transport.send(big(), Claim()), Hindered)
    assert peer.server.connections == 2


@on_both_loops
async def test_a_refusal_in_the_middle_counts(transport: SmtpTransport, peer: SmtpPeer) -> None:
    peer.server.replies, peer.server.hangs_up_after = {"MIDDLE": "552 5.3.4 too big"}, {"MIDDLE"}
    outcome = await transport.send(big(), Claim())
    assert isinstance(outcome, Failed)
    assert "5.3.4 too big" in outcome.reason


@on_both_loops
async def test_a_refusal_in_the_middle_counts_although_the_server_reads_on(
    transport: SmtpTransport, peer: SmtpPeer
) -> None:
    peer.server.replies = {"MIDDLE": "552 5.3.4 too big"}
    assert isinstance(await transport.send(big(), Claim()), Failed)
    peer.server.replies = {}
    assert isinstance(await transport.send(mail(), Claim()), Sent)
    assert len(peer.server.accepted) == 1


@on_both_loops
async def test_a_yes_in_the_middle_is_none(transport: SmtpTransport, peer: SmtpPeer) -> None:
    peer.server.replies = {"MIDDLE": "250 2.0.0 ok"}
    assert isinstance(await transport.send(big(), Claim()), Hindered)


@on_both_loops
async def test_a_stop_in_the_middle_leaves_nothing_behind(transport: SmtpTransport, peer: SmtpPeer) -> None:
    peer.server.takes_nothing = True
    sending = asyncio.create_task(transport.send(big(), Claim()))
    await asyncio.sleep(0.4)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError, match=NOTHING_LEFT):
        await sending
