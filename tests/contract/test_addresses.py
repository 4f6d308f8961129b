"""A host has two addresses, and the first one swallows all packets: the second one is used at once (RFC 8305), by SMTP,
by both Redis clients, and by HTTP."""

import asyncio
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
import uvloop

from tests.contract.black_hole import NAME, BlackHole
from tests.contract.http_server import Answer, HttpServer
from tests.contract.peers import SECRET
from tests.contract.smtp_server import SmtpServer
from tests.contract.test_transports import Claim, mail
from worker.base import dialing
from worker.base.redis_client import connect, connect_async
from worker.base.settings import Secret
from worker.mail.outcomes import Sent
from worker.sending.transports.http import HttpTransport
from worker.sending.transports.providers import Resend
from worker.sending.transports.smtp import SmtpTransport
from worker.sending.transports.smtp_login import Server

LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
Loop = Callable[[], asyncio.AbstractEventLoop]


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


@pytest.fixture
def behind_a_black_hole(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Gives `NAME` its first address, on this port."""
    holes = []

    def dig(port: int) -> None:
        hole = BlackHole(port)
        holes.append(hole.__enter__())
        monkeypatch.setattr("socket.getaddrinfo", hole.resolver())

    yield dig
    for hole in holes:
        hole.__exit__()


async def _pong(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As much of Redis as a PING needs."""
    while line := await reader.readline():
        if line.startswith(b"*"):
            words = []
            for _ in range(int(line[1:])):
                size = int((await reader.readline())[1:])
                words.append((await reader.readexactly(size + 2))[:-2].upper())
            writer.write(b"+PONG\r\n" if words[0] == b"PING" else b"+OK\r\n" if words[0] == b"CLIENT" else b"-ERR\r\n")
    writer.close()


@LOOPS
@pytest.mark.parametrize("secure", [False, True], ids=["redis", "rediss"])
def test_redis(behind_a_black_hole: Callable[[int], None], tls: ssl.SSLContext, loop: Loop, secure: bool) -> None:
    async def run() -> None:
        server = await asyncio.start_server(_pong, "127.0.0.1", 0, ssl=tls if secure else None)
        port = server.sockets[0].getsockname()[1]
        behind_a_black_hole(port)
        url = Secret(f"redis{'s' if secure else ''}://{NAME}:{port}/0?protocol=2")
        if secure:
            # The certificate is for 127.0.0.1.
            url = Secret(f"{url}&ssl_check_hostname=false")
        client = connect_async(url, 2)
        with within(2):
            assert await client.ping()
        await client.aclose()

        def blocking() -> None:
            with within(2):
                assert connect(url).ping()

        await asyncio.to_thread(blocking)
        server.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())


@LOOPS
def test_smtp(behind_a_black_hole: Callable[[int], None], tls: ssl.SSLContext, loop: Loop) -> None:
    async def run() -> None:
        server = SmtpServer(pipelining=True)
        await server.start(tls)
        behind_a_black_hole(server.port)

        async def password() -> Secret:
            return SECRET

        transport = SmtpTransport(Server(NAME, server.port, "me", "me", "auto", True, "host.example.org"), password)
        transport._pool._log_in._tls.check_hostname = False  # type: ignore[attr-defined]
        with within(2):
            assert isinstance(await transport.send(mail(), Claim()), Sent)
        await transport.close()
        await server.stop()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())


@LOOPS
def test_http(
    behind_a_black_hole: Callable[[int], None], tls: ssl.SSLContext, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """httpx does it by itself, by anyio: this proves it for both loops."""

    async def run() -> None:
        answer = Answer(200, {"id": "49a3999c"})
        server = HttpServer(answer, answer)
        await server.start(tls)
        behind_a_black_hole(server.port)
        context = ssl.create_default_context()
        context.check_hostname = False
        monkeypatch.setattr(ssl, "create_default_context", lambda: context)
        resolved = asyncio.get_running_loop().getaddrinfo

        async def getaddrinfo(host: object, port: object, **options: object) -> object:
            if host in (NAME, NAME.encode()):
                return await asyncio.to_thread(socket.getaddrinfo, host, port, **options)  # type: ignore[arg-type]
            return await resolved(host, port, **options)  # type: ignore[arg-type]

        monkeypatch.setattr("anyio._core._sockets.getaddrinfo", getaddrinfo)
        transport = HttpTransport(Resend(SECRET, f"https://{NAME}:{server.port}"))
        with within(2):
            assert isinstance(await transport.send(mail(), Claim()), Sent)
        await transport.close()
        await server.stop()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())


async def test_no_address_that_answers_is_one_error(behind_a_black_hole: Callable[[int], None]) -> None:
    server = await asyncio.start_server(_pong, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    behind_a_black_hole(port)
    with pytest.raises(TimeoutError), within(2):
        await dialing.dial(NAME, port, 0.6)
    with pytest.raises(OSError, match="refused"):
        await asyncio.to_thread(dialing.dial_blocking, NAME, port, 0.6)
    with pytest.raises(ConnectionRefusedError):
        await dialing.dial("127.0.0.1", port, 5)
    with pytest.raises(OSError, match="refused"), within(1):
        await asyncio.to_thread(dialing.dial_blocking, "127.0.0.1", port, 5)
    with pytest.raises(redis.ConnectionError):
        await asyncio.to_thread(connect(Secret(f"redis://127.0.0.1:{port}")).ping)


def test_the_families_take_turns() -> None:
    infos = [(family, 1, 6, "", number) for number, family in enumerate([10, 10, 10, 2])]
    assert [info[4] for info in dialing._interleaved(infos)] == [0, 3, 1, 2]


@LOOPS
@pytest.mark.parametrize("host", ["a" * 64 + ".invalid", "ü" * 64 + ".invalid", "a..b", "\udc80.invalid"])
def test_a_host_that_can_be_none_has_no_address(loop: Loop, host: str) -> None:
    with pytest.raises(OSError, match=r"not known|too long|Invalid"):
        dialing.dial_blocking(host, 9, 5)
    with asyncio.Runner(loop_factory=loop) as runner, pytest.raises(OSError, match=r"not known|too long|Invalid"):
        runner.run(dialing.dial(host, 9, 5))


def _links_own_address() -> tuple[str, int]:
    for line in Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines():
        address, index, *_, name = line.split()
        if address.startswith("fe80"):
            return f"{ipaddress.IPv6Address(bytes.fromhex(address))}%{name}", int(index, 16)
    pytest.skip("no interface has IPv6")


@LOOPS
def test_an_address_that_is_one_links_own(loop: Loop) -> None:
    host, index = _links_own_address()
    with socket.create_server((host.partition("%")[0], 0, 0, index), family=socket.AF_INET6) as server:
        port = server.getsockname()[1]
        dialing.dial_blocking(host, port, 5).close()
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(dialing.dial(host, port, 5)).close()
