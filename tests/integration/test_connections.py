"""Processes share the fleet's connections (MAIL_CONNECTIONS): a real Redis, and a server that counts."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis

from testbed.certificates import write_certificates
from testbed.services import Services
from tests.contract.smtp_server import SmtpServer
from worker.base import keys
from worker.base.redis_client import connect_async
from worker.base.settings import Secret
from worker.mail.jobs import parse_job
from worker.mail.message import build_mail
from worker.mail.outcomes import Sent
from worker.sending.account import Account
from worker.sending.transports.smtp import SmtpTransport
from worker.sending.transports.smtp_login import Server

MAIL = build_mail(
    parse_job({"to": "a@example.org", "from": "b@example.org", "subject": "Hello", "text": "Hello"}), "identity"
)


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SmtpServer]:
    write_certificates(tmp_path, "127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    server = SmtpServer(pipelining=True)
    await server.start(tls)
    yield server
    await server.stop()


@pytest.mark.parametrize("most", [1, 2])
async def test_processes_take_turns_within_the_limit(
    services: Services, queue: "redis.Redis", server: SmtpServer, most: int
) -> None:
    """Three processes, fewer connections, and each carries a few mails: every process gets its share."""
    server.delays = {"CONTENT": 0.02}
    sent = dict.fromkeys(("p1", "p2", "p3"), 0)
    client = connect_async(Secret(services.redis_url), 4)

    async def password() -> Secret:
        return Secret("s3cret")

    async def claim() -> bool:
        return True

    transports = {}
    for name in sent:
        queue.zadd(keys.ALIVE, {name: time.time() * 1000})
        transports[name] = SmtpTransport(
            Server("127.0.0.1", server.port, "me", "me", "auto", True, "host.example.org"),
            password,
            connections=Account(client, "account", name, max_connections=most, first_pause_seconds=1),
            mails_per_connection=5,
        )
    until = time.monotonic() + 8

    async def send_on(name: str) -> None:
        while time.monotonic() < until:
            assert isinstance(await transports[name].send(MAIL, claim), Sent)
            sent[name] += 1

    await asyncio.gather(*(send_on(name) for name in sent for _ in range(4)))
    for transport in transports.values():
        await transport.close()
        assert transport._pool.open == 0
    await client.aclose()
    assert server.most_at_once <= most
    # A turn costs half a second at the most, and here it comes after five mails.
    assert sum(sent.values()) > 8 * 5 * most
    assert min(sent.values()) > sum(sent.values()) / 6
    assert queue.hgetall(keys.connections("account")) == {}
