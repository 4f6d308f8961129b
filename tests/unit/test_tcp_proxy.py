"""The test bed's TCP proxy does to a connection what it's told to, or the chaos runs would prove nothing."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from testbed.tcp_proxy import Fate, Proxy, Treatment


class Echo:
    """Answers each request with itself, and keeps when it came."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listening.getsockname()[1]
        self.heard: list[tuple[float, bytes]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        try:
            while True:
                connection, _ = self.listening.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()
        except OSError:
            return

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(1000):
                self.heard.append((time.monotonic(), data))
                connection.sendall(data)


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.listening.close()


def ask(proxy: Proxy) -> bytes:
    """What comes back for a request; nothing if the connection is cut."""
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client:
        client.sendall(b"hello")
        try:
            return client.recv(1000)
        except ConnectionResetError:
            return b""


@pytest.mark.parametrize(
    ("fate", "answer", "arrives"),
    [
        (Fate.PASS, b"hello", True),
        (Fate.STALL, b"hello", True),
        (Fate.CUT_BEFORE, b"", False),
        (Fate.CUT_AFTER, b"", True),
        (Fate.LATE, b"", True),
    ],
)
def test_each_fate(echo: Echo, fate: Fate, answer: bytes, arrives: bool) -> None:
    proxy = Proxy("127.0.0.1", echo.port, treat=lambda: Treatment(fate, 0.3))
    began = time.monotonic()
    assert ask(proxy) == answer
    answered = time.monotonic()
    time.sleep(0.5)
    proxy.stop()
    assert bool(echo.heard) is arrives
    assert fate is not Fate.STALL or answered - began >= 0.3
    # Its client has given it up by then.
    assert fate is not Fate.LATE or echo.heard[0][0] > answered
