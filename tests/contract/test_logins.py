"""How the SMTP transport logs in: RFC 4616 (PLAIN), LOGIN, and XOAUTH2 with a token that is had by RFC 6749, 6."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tests.contract.http_server import Answer, HttpServer
from tests.contract.smtp_server import SmtpServer
from worker.base.settings import Secret, Settings, load_settings
from worker.errors import AccountRefused, MailRefused, TransportUnavailable
from worker.operating.testmail import send_test
from worker.sending.transports import oauth, smtp_login
from worker.sending.transports.choice import make_transport
from worker.sending.transports.smtp_login import Login, Server
from worker.sending.transports.smtp_session import StepSeconds

USER, PASSWORD, REFRESH_TOKEN = "me@example.org", "pass word ü", "refresh-s3cret"


@pytest.fixture
async def server(tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SmtpServer]:
    server = SmtpServer(pipelining=True)
    await server.start(tls)
    monkeypatch.setattr("worker.base.settings.IMPLICIT_TLS_PORT", server.port)
    yield server
    await server.stop()


@pytest.fixture
async def tokens(tls: ssl.SSLContext) -> AsyncIterator[HttpServer]:
    answer = Answer(200, {"access_token": "first-t0ken", "expires_in": 3600, "token_type": "Bearer"})
    server = HttpServer(answer, answer)
    await server.start(tls)
    yield server
    await server.stop()


def settings(server: SmtpServer, auth: str, tokens: HttpServer | None = None) -> Settings:
    return load_settings(
        {
            "MAIL_WORKER_ENV_FILE": "/dev/null",
            "REDIS_URL": "redis://127.0.0.1",
            "SUPABASE_URL": "https://x.example",
            "SUPABASE_SECRET_KEY": "x",
            "SMTP_HOST": "127.0.0.1",
            "SMTP_PORT": str(server.port),
            "SMTP_USER": USER,
            "SMTP_PASS": PASSWORD,
            "SMTP_AUTH": auth,
            "SMTP_HELO_NAME": "mail1.example.com",
            "SMTP_OAUTH_TOKEN_URL": f"https://127.0.0.1:{tokens.port}/token" if tokens else "",
            "SMTP_OAUTH_CLIENT_ID": "client",
            "SMTP_OAUTH_CLIENT_SECRET": "client-s3cret",
            "SMTP_OAUTH_REFRESH_TOKEN": REFRESH_TOKEN,
        }
    )


@pytest.mark.parametrize(
    ("auth", "mechanism", "said"),
    [
        ("auto", "PLAIN", f"\0{USER}\0{PASSWORD}"),
        ("auto", "LOGIN", f"{USER} {PASSWORD}"),
        ("plain", "PLAIN", f"\0{USER}\0{PASSWORD}"),
        ("login", "LOGIN", f"{USER} {PASSWORD}"),
    ],
)
async def test_a_password_is_given_as_the_server_wants_it(
    server: SmtpServer, auth: str, mechanism: str, said: str
) -> None:
    server.mechanism = mechanism
    transport = make_transport(settings(server, auth))
    assert f"logged in as {USER}" in await transport.check()
    await transport.close()
    assert server.logins == [said]
    assert server.commands[0] == "EHLO mail1.example.com"


async def test_xoauth2_gets_a_token_and_keeps_it(server: SmtpServer, tokens: HttpServer) -> None:
    server.mechanism = "XOAUTH2"
    transport = make_transport(settings(server, "xoauth2", tokens))
    for _ in range(2):
        await transport.check()
        await transport.close()
    assert server.logins == [f"user={USER}\x01auth=Bearer first-t0ken\x01\x01"] * 2
    [request] = tokens.requests
    assert request.form == {
        "grant_type": "refresh_token",
        "client_id": "client",
        "client_secret": "client-s3cret",
        "refresh_token": REFRESH_TOKEN,
    }


async def test_a_token_that_ends_soon_is_replaced(
    server: SmtpServer, tokens: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.mechanism = "XOAUTH2"
    monkeypatch.setattr(oauth, "EARLY_SECONDS", 3600.0)
    transport = make_transport(settings(server, "xoauth2", tokens))
    await transport.check()
    await transport.close()
    tokens.answer = Answer(200, {"access_token": "second-t0ken", "expires_in": 3600})
    await transport.check()
    await transport.close()
    assert [login.split(" ")[1][:6] for login in server.logins] == ["first-", "second"]


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (
            Answer(400, {"error": "invalid_grant", "error_description": "Token has been expired or revoked."}),
            AccountRefused,
            "gives no access token (400 Token has been expired or revoked.): check SMTP_OAUTH_CLIENT_ID",
        ),
        (Answer(instead="close"), TransportUnavailable, "check SMTP_OAUTH_TOKEN_URL"),
    ],
)
async def test_a_token_that_cannot_be_had_is_one_sentence(
    server: SmtpServer, tokens: HttpServer, answer: Answer, kind: type[Exception], words: str
) -> None:
    tokens.answer = answer
    transport = make_transport(settings(server, "xoauth2", tokens))
    with pytest.raises(kind) as caught:
        await transport.check()
    await transport.close()
    assert words in str(caught.value)
    assert REFRESH_TOKEN not in str(caught.value)


async def test_a_server_that_ends_the_login_for_now_is_only_away(server: SmtpServer) -> None:
    server.replies = {"AUTH": "421 4.7.0 too many logins, try later"}
    transport = make_transport(settings(server, "auto"))
    with pytest.raises(TransportUnavailable, match="421"):
        await transport.check()
    await transport.close()


async def test_a_test_mail_says_what_is_wrong_with_the_name(server: SmtpServer) -> None:
    server.replies = {"RCPT": "504 5.5.2 <mail1>: Helo command rejected: need fully-qualified hostname"}
    with pytest.raises(MailRefused, match=r"SMTP_HELO_NAME .*that this host's address has in DNS\.$"):
        await asyncio.to_thread(send_test, settings(server, "plain"), "ann@example.org")


@pytest.mark.parametrize(
    ("host_name", "in_dns", "name"),
    [
        ("mail1.example.com", "", "mail1.example.com"),
        ("mail1", "mail1.example.com", "mail1.example.com"),
        ("mail1", "mail1", "[127.0.0.1]"),
        ("mail1", "localhost.localdomain", "[127.0.0.1]"),
        ("mail_1.example.com", "mail1", "[127.0.0.1]"),
    ],
)
async def test_ehlo_says_a_full_name_or_an_address(
    server: SmtpServer, monkeypatch: pytest.MonkeyPatch, host_name: str, in_dns: str, name: str
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host_name)
    monkeypatch.setattr("socket.getfqdn", lambda: in_dns)
    transport = make_transport(replace(settings(server, "plain"), smtp_helo_name=""))
    await transport.check()
    await transport.close()
    assert server.commands[0] == f"EHLO {name}"


@pytest.mark.parametrize("greeting", [b"554 go away\r\n", b"421 busy\r\n", b"", b"hello\r\n", b"220 and no more\r\n"])
async def test_a_greeting_that_fails_leaves_no_connection_behind(
    greeting: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtp_login, "CONNECT_TIMEOUT_SECONDS", 0.5)
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        while await reader.read(100):
            pass
        ended.set()
        writer.close()

    async def password() -> Secret:
        return Secret(PASSWORD)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    peer = Server("127.0.0.1", server.sockets[0].getsockname()[1], USER, USER, "plain", False, "mail1.example.com")
    with pytest.raises(TransportUnavailable):
        await Login(peer, password, StepSeconds())()
    async with asyncio.timeout(10):
        await ended.wait()
    server.close()
