"""What may stand between a recorder and PostgREST: a proxy that passes requests on, and answers some in its own way."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

from testbed.services import Services


@dataclass(frozen=True, slots=True)
class Answer:
    """What the client gets."""

    status: int
    headers: dict[str, str]
    body: bytes


#: Method, path and what asks PostgREST → what the client gets.
Change = Callable[[str, str, Callable[[], Answer]], Answer]

PAGE = Answer(200, {"Content-Type": "text/html"}, b"<html>Please log in.</html>")
_KEPT = ("content-range", "content-type", "location")


@contextmanager
def gateway(services: Services, change: Change) -> Iterator[str]:
    """Runs one; yields its address for `SUPABASE_URL`."""
    client = httpx.Client(verify=ssl.create_default_context(cafile=str(services.ca_file)), timeout=30)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {
                name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")
            }

            def ask() -> Answer:
                real = client.request(self.command, services.supabase_url + self.path, headers=headers, content=body)
                kept = {name: value for name, value in real.headers.items() if name.lower() in _KEPT}
                return Answer(real.status_code, kept, real.content)

            given = change(self.command, self.path, ask)
            self.send_response(given.status)
            for name, value in given.headers.items():
                self.send_header(name, value)
            if given.status != 204:
                self.send_header("Content-Length", str(len(given.body)))
            self.end_headers()
            self.wfile.write(given.body)

        do_GET = do_PATCH = answer  # noqa: N815  # http.server's names

        def log_message(self, *words: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        client.close()
