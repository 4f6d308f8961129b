"""A quota that is said in words that nobody knows, with the worker's own programs and either queue."""

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import redis
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

from testbed.app import Major
from testbed.certificates import write_certificates
from testbed.services import Services
from tests.integration.conftest import MakeCampaign
from tests.integration.programs import Programs, read_jobs, wait_until
from worker.base import keys


@pytest.fixture(params=[5])
def major(request: pytest.FixtureRequest) -> Major:
    return cast("Major", request.param)


class Provider:
    """Takes as many mails as its quota allows."""

    def __init__(self, quota: int) -> None:
        self.quota = quota
        self.accepted: list[str] = []
        self.refused = 0

    async def handle_DATA(  # noqa: N802  # aiosmtpd finds it by this name
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        [recipient] = envelope.rcpt_tos
        if len(self.accepted) >= self.quota:
            self.refused += 1
            return f"550 Administrative prohibition {self.refused} for <{recipient}>"
        self.accepted.append(recipient)
        return "250 2.0.0 kept"


@pytest.fixture
def provider(tmp_path: Path, services: Services, environment: dict[str, str]) -> Iterator[Provider]:
    write_certificates(tmp_path, "127.0.0.1")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    both = tmp_path / "both.pem"
    both.write_text((tmp_path / "ca.pem").read_text() + services.ca_file.read_text(), encoding="ascii")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    provider = Provider(10)
    controller = Controller(
        provider,
        hostname="127.0.0.1",
        port=port,
        tls_context=tls,
        require_starttls=True,
        auth_required=True,
        authenticator=lambda *_: AuthResult(success=True),
    )
    environment.update(SMTP_HOST="127.0.0.1", SMTP_PORT=str(port), SSL_CERT_FILE=str(both))
    controller.start()
    yield provider
    controller.stop()


def test_an_unknown_quota_fails_nobody(
    provider: Provider,
    put: Any,
    make_campaign: MakeCampaign,
    programs: Programs,
    queue: redis.Redis,
    tmp_path: Path,
) -> None:
    campaign = make_campaign(40)
    jobs = read_jobs(tmp_path / "jobs.jsonl")
    put([{**job, "to": f"reader@{number}.{campaign.tag}.example"} for number, job in enumerate(jobs)])
    worker = programs.start("run", MAIL_ACCOUNT_PAUSE_SECONDS="3")
    worker.wait_for("5 recipients in 5 domains were refused with the same words within 1 s")
    worker.wait_for("The account is paused on all hosts for 6 s")  # One mail has tried, and others haven't.
    assert provider.refused < 15
    assert "STOPPED    The account's matter, by all signs" in programs.run("status")[1]
    provider.quota = 40
    # Four were refused before anybody could know; they come back after a minute.
    wait_until(lambda: int(cast("Any", queue.hget(keys.counts(campaign.id), "sent")) or 0) >= 36)
    assert queue.hget(keys.counts(campaign.id), "failed") is None
    assert len(provider.accepted) == len(set(provider.accepted))
