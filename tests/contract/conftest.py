"""What the contract tests share."""

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from testbed.certificates import write_certificates
from tests.contract.peers import Peer
from worker.sending.transports.base import Transport
from worker.sending.transports.smtp import SmtpTransport


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("certificates")
    write_certificates(directory, "127.0.0.1")
    return directory


@pytest.fixture
def tls(certificates: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's, which clients of this test trust."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    return context


@pytest.fixture
async def transport(peer: Peer, tls: ssl.SSLContext) -> AsyncIterator[Transport]:
    """A client of the test's own `peer`; nothing of it stays open."""
    made = await peer.start(tls)
    yield made
    await made.close()
    if isinstance(made, SmtpTransport):
        assert made._pool.open == 0
    await peer.stop()
