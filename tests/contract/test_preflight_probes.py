"""The preflight's probes against real sockets, with one thing wrong at a time. Redis: tests/integration."""

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiosmtpd.smtp import SMTP

from preflight import network, smtp
from preflight.http import HttpAnswer, parse_url, probe_http, table_path
from preflight.network import Addresses, Trust, make_trust
from preflight.redis import QueueAnswer, RedisUrl, probe_redis
from preflight.services import Questions, ask
from preflight.smtp import SmtpAnswer, probe_smtp
from testbed.certificates import write_certificates
from tests.contract.http_server import Answer, HttpServer
from tests.contract.smtp_server import SmtpServer

LOOPBACK = Addresses(["127.0.0.1"], [])
KEY = "sb_secret_s3cret"
#: Long for loopback, short for a test that waits for it.
SECONDS = 0.6


@pytest.fixture
def tls(tmp_path: Path) -> ssl.SSLContext:
    write_certificates(tmp_path, "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    return context


@pytest.fixture
def authority(tls: ssl.SSLContext, tmp_path: Path) -> str:
    return (tmp_path / "ca.pem").read_text(encoding="ascii")


@pytest.fixture
def trust(authority: str) -> Trust:
    return make_trust([authority])


@pytest.fixture
async def implicit(tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SmtpServer]:
    """TLS from the first byte, on what counts as port 465."""
    server = SmtpServer(pipelining=True)
    await server.start(tls)
    monkeypatch.setattr(smtp, "IMPLICIT_TLS_PORT", server.port)
    yield server
    await server.stop()


@pytest.fixture
async def plain() -> AsyncIterator[SmtpServer]:
    """No TLS at all."""
    server = SmtpServer(pipelining=True)
    await server.start(None)
    yield server
    await server.stop()


@pytest.fixture
async def starttls(tls: ssl.SSLContext) -> AsyncIterator[int]:
    """The port of a server with STARTTLS, by aiosmtpd."""
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(object(), hostname="here", tls_context=tls, require_starttls=True), "127.0.0.1", 0
    )
    yield server.sockets[0].getsockname()[1]
    server.close()


@contextlib.contextmanager
def dropping(family: socket.AddressFamily, address: str, port: int = 0) -> Iterator[int]:
    """A port whose queue is full, so that the kernel drops further connections, as a firewall does."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        listener.bind((address, port))
        listener.listen(0)
        for _ in range(3):
            client = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


async def probe(port: int, trust: Trust, addresses: Addresses = LOOPBACK) -> SmtpAnswer:
    return await asyncio.to_thread(probe_smtp, "127.0.0.1", addresses, port, trust, SECONDS)


async def test_tls_from_the_first_byte(implicit: SmtpServer, trust: Trust) -> None:
    assert (await probe(implicit.port, trust)).kind == "ok"
    assert implicit.commands == [f"EHLO {socket.gethostname()}"]


async def test_starttls(starttls: int, trust: Trust) -> None:
    assert (await probe(starttls, trust)).kind == "ok"


async def test_a_certificate_that_is_not_trusted(implicit: SmtpServer, starttls: int) -> None:
    for port in (implicit.port, starttls):
        answer = await probe(port, make_trust([]))
        assert answer.kind == "certificate"
        assert "unable to get local issuer certificate" in answer.words


async def test_starttls_where_tls_is_wanted(plain: SmtpServer, trust: Trust, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smtp, "IMPLICIT_TLS_PORT", plain.port)
    assert (await probe(plain.port, trust)).kind == "wrong tls"


async def test_tls_where_starttls_is_wanted(
    implicit: SmtpServer, trust: Trust, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtp, "IMPLICIT_TLS_PORT", 465)
    assert (await probe(implicit.port, trust)).kind == "wrong tls"


@pytest.mark.parametrize(
    ("greeting", "kind", "words"),
    [
        ("421 4.7.0 too busy", "odd", "421 4.7.0 too busy"),
        ("SSH-2.0-OpenSSH_9.2", "odd", "SSH-2.0-OpenSSH_9.2"),
        ("close", "closed", ""),
        ("stall", "silent", ""),
        ("220 here", "no starttls", ""),
    ],
)
async def test_what_else_a_server_may_say(
    plain: SmtpServer, trust: Trust, greeting: str, kind: str, words: str
) -> None:
    plain.replies = {"GREETING": greeting}
    answer = await probe(plain.port, trust)
    assert (answer.kind, answer.words) == (kind, words)


async def test_ports_that_are_dropped_or_refused(trust: Trust) -> None:
    with dropping(socket.AF_INET, "127.0.0.1") as port:
        assert (await probe(port, trust)).kind == "timeout"
    assert (await probe(port, trust)).kind == "refused"


async def test_ipv6_that_is_dropped_does_not_hide_ipv4(starttls: int, trust: Trust) -> None:
    both = Addresses(["127.0.0.1"], ["::1"])
    with dropping(socket.AF_INET6, "::1", starttls):
        assert await probe(starttls, trust, both) == SmtpAnswer("ok", "", ipv6_dropped=True)
    # Refused at once: the next address is tried without a delay.
    assert await probe(starttls, trust, both) == SmtpAnswer("ok", "", ipv6_dropped=False)


async def test_a_server_that_greets_late(trust: Trust, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those do that look up a client's name first."""
    loop, asked = asyncio.get_running_loop(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked.wait()
        writer.write(b"220 here\r\n")
        await reader.readline()
        writer.write(b"250 here\r\n")

    def speaks_tls(*_: object) -> bool:
        loop.call_soon_threadsafe(asked.set)
        return False

    monkeypatch.setattr(smtp, "GREETING_SECONDS", 0.05)
    monkeypatch.setattr(smtp, "speaks_tls", speaks_tls)
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    assert (await probe(server.sockets[0].getsockname()[1], trust)).kind == "no starttls"
    server.close()


@pytest.fixture
async def api(tls: ssl.SSLContext) -> AsyncIterator[HttpServer]:
    server = HttpServer(Answer(), Answer(200, []))
    await server.start(tls)
    yield server
    await server.stop()


async def get(server: HttpServer, trust: Trust) -> HttpAnswer:
    url = parse_url(f"https://127.0.0.1:{server.port}")
    assert url is not None
    path = table_path("campaigns", ["id", "status"])
    return await asyncio.to_thread(probe_http, url, LOOPBACK, trust, SECONDS, path, KEY)


async def test_supabase_is_asked_for_columns_of_no_row(api: HttpServer, trust: Trust) -> None:
    assert await get(api, trust) == HttpAnswer("ok", "", 200)
    [request] = api.requests
    assert (request.method, request.path) == ("GET", "/rest/v1/campaigns?select=id,status&limit=0")
    assert (request.headers["apikey"], request.headers["authorization"]) == (KEY, f"Bearer {KEY}")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            Answer(400, {"code": "42703", "message": "column x does\nnot exist"}),
            HttpAnswer("ok", "", 400, "42703", "column x does not exist"),
        ),
        (Answer(502, None), HttpAnswer("ok", "", 502)),
        (Answer(instead="close"), HttpAnswer("closed")),
        (Answer(instead="stall"), HttpAnswer("silent")),
    ],
)
async def test_what_else_supabase_may_say(api: HttpServer, trust: Trust, answer: Answer, expected: HttpAnswer) -> None:
    api.check = answer
    assert await get(api, trust) == expected


async def test_a_key_is_only_sent_to_whom_is_trusted(api: HttpServer, trust: Trust) -> None:
    assert (await get(api, make_trust([]))).kind == "certificate"
    unchecked = ssl.create_default_context()
    unchecked.check_hostname = False
    unchecked.verify_mode = ssl.CERT_NONE
    assert (await get(api, Trust(unchecked, complete=False))).kind == "ok"
    assert api.requests == []


META = "HMGET bull:mail-queue:meta version paused opts.maxLenEvents"
SIZES = {
    "LLEN bull:mail-queue:wait": ":7",
    "LLEN bull:mail-queue:paused": ":20",
    "ZCARD bull:mail-queue:prioritized": ":100",
    "ZCARD bull:mail-queue:completed": ":6000",
    "LRANGE bull:mail-queue:wait -10 -1": "*0",
}
JOBS = {
    **SIZES,
    "LRANGE bull:mail-queue:wait -10 -1": "*2\r\n$1\r\n8\r\n$1\r\n7",
    "HSTRLEN bull:mail-queue:7 data": ":2",
    "HGET bull:mail-queue:7 data": "$2\r\n{}",
    # Too big for a look.
    "HSTRLEN bull:mail-queue:8 data": ":200001",
}


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({META: "*3\r\n$-1\r\n$-1\r\n$-1"}, QueueAnswer("")),
        (
            {META: "*3\r\n$13\r\nbullmq:5.81.5\r\n$1\r\n1\r\n$5\r\n10000", **SIZES},
            QueueAnswer("bullmq:5.81.5", paused=True, waiting=127, completed=6000),
        ),
        (
            {META: "*3\r\n$-1\r\n$-1\r\n$5\r\n10000", **SIZES},
            QueueAnswer("bullmq", waiting=127, completed=6000),
        ),
        (
            {META: "*3\r\n$-1\r\n$-1\r\n$5\r\n10000", **JOBS},
            QueueAnswer("bullmq", waiting=127, completed=6000, head=("{}",)),
        ),
        # A user who may not, and what isn't a queue at all.
        ({META: "-NOPERM no permissions"}, QueueAnswer("", refused=True)),
        ({META: "-WRONGTYPE not a hash"}, None),
    ],
)
async def test_bullmqs_queue(trust: Trust, answers: dict[str, str], expected: QueueAnswer | None) -> None:
    """A Redis that says what a test wants; tests/integration asks a real one."""
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readline():
            words = []
            for _ in range(int(head[1:])):
                size = int((await reader.readline())[1:])
                words.append((await reader.readexactly(size + 2))[:-2].decode())
            asked.append(" ".join(words))
            usual = {"PING": "+PONG", "INFO": "$15\r\naof_enabled:1\r\n"}
            writer.write({**usual, **answers}.get(asked[-1], "-ERR unknown").encode() + b"\r\n")

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = RedisUrl(False, "127.0.0.1", server.sockets[0].getsockname()[1], "", "", 0)
    answer = await asyncio.to_thread(probe_redis, url, LOOPBACK, trust, SECONDS, "bull:mail-queue")
    server.close()
    assert (answer.kind, answer.queue) == ("ok", expected)
    # Each may be billed.
    assert asked == ["PING", "INFO", *answers]


def test_an_authority_that_is_none() -> None:
    [verdict] = ask(Questions("mail1", ca_certificates=["no PEM"]))
    assert verdict.sentence.startswith("preflight_ca_certificates: one of the further certificate authorities isn't a")


@pytest.mark.parametrize(("number", "kind"), [(socket.EAI_NONAME, "no name"), (socket.EAI_AGAIN, "no resolver")])
def test_names_that_have_no_address(number: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*_: object, **__: object) -> None:
        raise socket.gaierror(number, "the system's words")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    problem = network.resolve_all(["smtp.example"], SECONDS)["smtp.example"].problem
    assert problem is not None
    assert (problem.kind, problem.words) == (kind, "the system's words")


def test_a_fault_of_a_probe_is_named_without_its_text() -> None:
    with pytest.raises(RuntimeError, match=r"^ValueError in redis$"):
        network.in_parallel({"redis": lambda: int("s3cret")}, SECONDS)


def test_a_resolver_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def getaddrinfo(*_: object, **__: object) -> list[object]:
        over.wait(10)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    problem = network.resolve_all(["smtp.example"], 0.1)["smtp.example"].problem
    over.set()
    assert problem is not None
    assert problem.kind == "no resolver"


async def test_all_is_asked_at_once_and_a_blocked_host_is_led_to_http(
    api: HttpServer, tls: ssl.SSLContext, authority: str
) -> None:
    with dropping(socket.AF_INET, "127.0.0.1") as first, dropping(socket.AF_INET, "127.0.0.1") as second:
        questions = Questions(
            "mail1",
            smtp_host="127.0.0.1",
            smtp_port=first,
            smtp_other_ports=[first, second],
            http_providers={"resend": f"https://127.0.0.1:{api.port}", "mailgun": f"https://127.0.0.1:{first}"},
            redis_url=f"redis://default:s3cret@127.0.0.1:{first}",
            supabase_url=f"https://127.0.0.1:{second}",
            supabase_key=KEY,
            supabase_tables=[{"name": "campaigns", "columns": ["id"]}],
            ca_certificates=[authority],
            timeout_seconds=SECONDS,
        )
        started = time.monotonic()
        verdicts = await asyncio.to_thread(ask, questions)
        took = time.monotonic() - started
    assert [(verdict.level, verdict.about) for verdict in verdicts] == [
        ("failure", "smtp"),
        ("failure", "redis"),
        ("failure", "supabase"),
    ]
    assert verdicts[0].sentence.endswith(
        "but a provider's HTTP API passes from there: set worker_resend_api_key (docs/providers.md)."
    )
    assert "s3cret" not in str(verdicts)
    # One time-out for all services, and one for the providers behind it.
    assert took < 4 * SECONDS
