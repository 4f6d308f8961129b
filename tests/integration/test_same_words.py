"""The same words to different recipients: over a real Redis, against a server that refuses them."""

import asyncio
import itertools
import json
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from testbed.certificates import write_certificates
from tests.contract.smtp_server import SmtpServer
from worker.base import keys
from worker.base.redis_client import CountingRedis
from worker.base.settings import Secret
from worker.ledger.ledger import LedgerOptions, RedisLedger
from worker.mail.jobs import parse_job
from worker.queue.control import AsyncControl
from worker.queue.gate import Gate
from worker.sending import delivery as module
from worker.sending.account import Account
from worker.sending.delivery import Back, Delivery, Disposition, Done, Later, Options, Parked, Queued
from worker.sending.transports.smtp import SmtpTransport
from worker.sending.transports.smtp_login import Server

PROHIBITED = "550 Administrative prohibition by node7.example.net, see ticket 8f2a-77"
NUMBERS = itertools.count()


class Sender:
    """One process that sends over one account."""

    def __init__(
        self, server: SmtpServer, start: Callable[[], Delivery], client: CountingRedis, queue: redis.Redis, name: str
    ) -> None:
        self.server = server
        self.client = client
        self._start = start
        self._delivery = start()
        self._queue = queue
        self._name = name

    def start(self) -> None:
        """Another process has a gate of its own, which is open."""
        self._delivery = self._start()

    async def send(self, to: str, campaign: str | None = "c", attempts: int = 0, losses: int = 0) -> Disposition:
        whose = {"campaignId": campaign, "subscriberId": to} if campaign else {}
        job = parse_job({"to": to, "from": "news@example.com", "subject": "", "text": "x", **whose})
        return await self._delivery.deliver(job, Queued(f"{to}-{campaign}", attempts, losses=losses))

    async def send_to_domains(self, number: int, campaign: str = "c") -> list[Disposition]:
        return [await self.send(f"ann@{campaign}{next(NUMBERS)}.example", campaign) for _ in range(number)]

    @property
    def stopped(self) -> str | None:
        value: Any = self._queue.hget(keys.account(self._name), "stopped")
        return value.decode() if value else None

    @property
    def slowed(self) -> bool:
        return bool(self._queue.hexists(keys.account(self._name), "interval_ms"))

    def failed(self, campaign: str = "c") -> int:
        return int(self._queue.hget(keys.counts(campaign), "failed") or 0)

    def pass_time(self) -> None:
        """The pause is over, and doubtful mails have waited."""
        self._queue.hset(keys.account(self._name), "stopped_until", 0)
        self._queue.hdel(keys.account(self._name), "hold_until", "interval_ms")
        for key in self._queue.scan_iter(match=keys.same_words(self._name, "*")):
            fields: Any = self._queue.hkeys(key)
            for field in fields:
                if field.startswith(b"r:"):
                    self._queue.hset(key, field, 1)


@pytest.fixture
async def sender(
    queue: redis.Redis, client: CountingRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Sender]:
    monkeypatch.setattr(module, "LONGEST_HELD_SECONDS", 0.2)
    write_certificates(tmp_path, "127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    server = SmtpServer(pipelining=True)
    await server.start(tls)

    async def password() -> Secret:
        return Secret("secret")

    transport = SmtpTransport(
        Server(
            host="127.0.0.1",
            port=server.port,
            user="me@example.org",
            shown_user="me@example.org",
            auth="auto",
            implicit_tls=True,
            helo_name="host.example.org",
        ),
        password,
    )
    queue.zadd(keys.ALIVE, {"p": 1e15})
    account = Account(client, "tests", "p", max_connections=0, first_pause_seconds=60)
    ledger = RedisLedger(client, "p", "tests", LedgerOptions(limits=(), pause_above_percent=100))

    def start() -> Delivery:
        options = Options(retry_hours=24, max_attempts=5)
        gate = Gate(asyncio.Event())
        return Delivery(transport, ledger, account, gate, AsyncControl(client), "p", options)

    yield Sender(server, start, client, queue, "tests")
    await transport.close()
    await server.stop()


def kinds(dispositions: list[Disposition]) -> list[type]:
    return [type(one) for one in dispositions]


async def test_a_quota_in_unknown_words_fails_nobody(sender: Sender) -> None:
    assert kinds(await sender.send_to_domains(10)) == [Done] * 10
    sender.server.replies["CONTENT"] = PROHIBITED
    refused = [f"ann@quota{number}.example" for number in range(12)]
    found = [await sender.send(to) for to in refused]
    assert kinds(found[:4]) == [Later] * 4
    assert kinds(found[4:]) == [Back] * 8
    assert sender.failed() == 0
    assert sender.stopped is not None
    assert "5 recipients in 5 domains were refused with the same words within" in sender.stopped
    assert PROHIBITED in sender.stopped
    assert len(sender.server.accepted) == 10

    # One mail tries at the end of the pause, and nobody fails by that either.
    sender.pass_time()
    sender.start()
    assert kinds([await sender.send(to) for to in refused[:2]]) == [Back] * 2
    assert sender.failed() == 0

    del sender.server.replies["CONTENT"]
    sender.pass_time()
    sender.start()
    assert kinds([await sender.send(to) for to in refused]) == [Done] * 12
    assert sender.failed() == 0
    assert len(sender.server.accepted) == 22


async def test_a_server_that_refuses_every_other_mail_fails_nobody(sender: Sender) -> None:
    recipients = [f"ann@half{number}.example" for number in range(20)]
    for _ in range(2):
        sender.server.replies["CONTENT"] = PROHIBITED
        found = kinds([await sender.send(to) for to in recipients[:5]])
        assert found == [Later] * 4 + [Back]
        assert sender.slowed
        del sender.server.replies["CONTENT"]
        sender.pass_time()
        sender.start()
        assert await sender.send(recipients.pop()) == Done()
    assert (sender.failed(), sender.stopped) == (0, None)


async def test_many_dead_mailboxes_are_their_own_matter(sender: Sender) -> None:
    for reply in ("550 5.1.1 user unknown", "552 5.2.2 mailbox is over quota", "550 No such user here"):
        sender.server.replies["RCPT"] = reply
        assert kinds(await sender.send_to_domains(30)) == [Done] * 30
    assert (sender.failed(), sender.stopped) == (90, None)


async def test_a_doubtful_refusal_fails_the_second_time(sender: Sender) -> None:
    await sender.send_to_domains(10)
    sender.server.replies["CONTENT"] = "554 5.7.1 spam"
    assert await sender.send("ann@odd.example") == Later(module.DOUBT_MS, 0, 0, "554 5.7.1 spam")
    assert await sender.send("ann@odd.example") == Later(module.DOUBT_MS, 0, 0, "554 5.7.1 spam")
    sender.pass_time()
    assert await sender.send("ann@odd.example") == Done()
    assert (sender.failed(), sender.stopped) == (1, None)


async def test_a_few_refusals_among_many_mails_stop_nothing(sender: Sender) -> None:
    for _ in range(6):
        sender.server.replies.pop("CONTENT", None)
        await sender.send_to_domains(6)
        sender.server.replies["CONTENT"] = "554 5.7.1 spam"
        await sender.send_to_domains(1)
    assert sender.stopped is None
    # And they hide nothing: what changes all of a sudden shows at the fifth.
    sender.server.replies.pop("CONTENT", None)
    await sender.send_to_domains(60)
    sender.server.replies["CONTENT"] = "554 5.7.1 spam"
    assert kinds(await sender.send_to_domains(6)) == [Later] * 4 + [Back] * 2


async def test_one_domains_refusals_need_many_and_nothing_else_accepted(sender: Sender) -> None:
    sender.server.replies["CONTENT"] = PROHIBITED
    found = [await sender.send(f"ann{number}@big.example") for number in range(21)]
    assert kinds(found[:19]) == [Later] * 19
    assert kinds(found[19:]) == [Back] * 2
    assert "20 recipients in 1 domains" in (sender.stopped or "")


async def test_a_campaign_whose_content_is_refused_keeps_no_other_one(sender: Sender, queue: redis.Redis) -> None:
    sender.server.replies["CONTENT"] = "554 5.7.1 we don't like this"
    assert kinds(await sender.send_to_domains(5, "bad"))[-1] is Back
    del sender.server.replies["CONTENT"]
    sender.pass_time()
    sender.start()
    assert kinds(await sender.send_to_domains(3, "good")) == [Done] * 3
    sender.server.replies["CONTENT"] = "554 5.7.1 we don't like this"
    assert kinds(await sender.send_to_domains(1, "bad")) == [Parked]
    state: Any = queue.hget(keys.CONTROL, "bad")
    assert state.startswith(b"paused:its mails are refused, and others aren't: 5 recipients in 5 domains")
    assert (sender.failed("bad"), sender.stopped) == (0, None)


async def test_one_recipients_451_slows_nobody_down_but_many_do(sender: Sender) -> None:
    for _ in range(20):
        sender.server.replies.pop("RCPT", None)
        await sender.send_to_domains(10)
        sender.server.replies["RCPT"] = "451 4.3.0 temporary lookup failure"
        assert kinds(await sender.send_to_domains(1)) == [Later]
    assert not sender.slowed
    await sender.send_to_domains(80)
    assert sender.slowed


async def test_a_sender_that_is_refused_pauses_its_campaign(sender: Sender, queue: redis.Redis) -> None:
    sender.server.replies["MAIL"] = "550 5.7.1 not your address"
    assert kinds(await sender.send_to_domains(3)) == [Later] * 3
    queue.hset(keys.counts("c"), "fault", age(queue, 3_000))
    assert kinds(await sender.send_to_domains(2)) == [Parked] * 2
    assert sender.failed() == 0
    # Others' mails, and those outside campaigns, aren't kept.
    assert await sender.send("ann@example.org", None) == Done()
    del sender.server.replies["MAIL"]
    assert kinds(await sender.send_to_domains(2, "other")) == [Done] * 2


async def test_a_cancelled_campaigns_sender_is_nobodys_matter(sender: Sender, queue: redis.Redis) -> None:
    sender.server.replies["MAIL"] = "550 5.7.1 not your address"
    await sender.send_to_domains(1)
    queue.hset(keys.CONTROL, "c", "cancelled:by an operator")
    fault = await AsyncControl(sender.client).fault("c", "s", "550 5.7.1 not your address", "")
    assert (fault.paused, fault.wait_ms > 0) == (False, True)
    assert sender.failed() == 0


async def test_one_sender_that_is_refused_among_good_ones_fails_alone(sender: Sender, queue: redis.Redis) -> None:
    await sender.send_to_domains(10)
    sender.server.replies["MAIL"] = "550 5.7.1 not your address"
    assert kinds([await sender.send("ann@odd.example")]) == [Later]
    del sender.server.replies["MAIL"]
    await sender.send_to_domains(1)
    sender.server.replies["MAIL"] = "550 5.7.1 not your address"
    assert await sender.send("ann@odd.example") == Done()
    assert (sender.failed(), queue.hget(keys.CONTROL, "c")) == (1, None)


def age(queue: redis.Redis, milliseconds: int) -> str:
    """What a campaign's jobs were told, so much longer ago."""
    stored: Any = queue.hget(keys.counts("c"), "fault")
    fault = json.loads(stored)
    return json.dumps({**fault, "at": fault["at"] - milliseconds})


async def test_tries_for_greylisting_take_none_from_a_lost_reply(sender: Sender) -> None:
    sender.server.replies["CONTENT"] = "close"
    first = await sender.send("ann@example.org", attempts=20)
    assert isinstance(first, Later)
    assert (first.attempts, first.losses) == (21, 1)
    assert await sender.send("bob@example.org", attempts=20, losses=4) == Done()
