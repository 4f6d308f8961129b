"""Whom alerts reach, and what these answer."""

import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from worker.base.alerting import AlertSettings
from worker.watching.alerts import Alert
from worker.watching.telling import ping, tell

ALERT = Alert("disk", "disk:mail1", "mail1 is full: remove something.", True, "began", 1.0)
DRIPS = 100


class Endless(socketserver.StreamRequestHandler):
    """Takes whatever comes, and answers without end."""

    def handle(self) -> None:
        self.request.recv(65_536)
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(DRIPS):
            try:
                self.wfile.write(b"x")
            except OSError:
                return
            time.sleep(0.1)


@pytest.fixture
def address() -> Iterator[str]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Endless) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def test_an_answer_without_end_keeps_nobody(address: str) -> None:
    settings = AlertSettings(webhook_url=address, ping_url=address)
    began = time.monotonic()
    assert tell([ALERT], settings, "mail1") == []
    assert ping(settings) == ""
    assert time.monotonic() - began < 5
