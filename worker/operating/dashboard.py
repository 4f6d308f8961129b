"""`mail-worker dashboard`: a read-only page about the fleet, on loopback. It looks for all who look at it, and so costs
the same however many they are."""

import json
import threading
import time
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

import redis

from worker.base import keys
from worker.base.redis_client import CountingBlockingRedis, explain
from worker.base.settings import Settings
from worker.errors import MailWorkerError, OperatorMistake
from worker.operating.campaign import report_of
from worker.operating.status_json import as_json
from worker.operating.why import Why
from worker.watching.points import Point, read_points
from worker.watching.status import read_status

#: With BullMQ's queue a look is two commands, and one more a minute for each of the two lists: 10 a minute.
LOOK_SECONDS = 15.0
LISTS_SECONDS = 60.0
TOLD = 20
WHO_CHARACTERS = 400

_FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
#: Who isn't on this host has no business here; a page elsewhere that has its name resolve to 127.0.0.1 neither.
_HOSTS = ("127.0.0.1", "localhost", "[::1]")
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:;"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Fleet:
    """What the page shows, looked at every `LOOK_SECONDS` at the most. Any thread may ask."""

    def __init__(self, client: CountingBlockingRedis, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._lock = threading.Lock()
        self._looked_at = self._lists_at = -1e9
        self._status: dict[str, Any] = {}
        self._points: list[Point] = []
        self._told: list[Any] = []

    def look(self, since: int) -> dict[str, Any]:
        """The fleet, with the points after a time in seconds since 1970.

        Raises:
            redis.RedisError: Redis is away.
        """
        with self._lock:
            now = time.monotonic()
            if now - self._looked_at >= LOOK_SECONDS:
                settings = self._settings
                status = read_status(self._client, settings.account_name, settings.mail_rate, settings.bullmq)
                self._status = as_json(status, settings.sandbox)
                self._looked_at = now
            if now - self._lists_at >= LISTS_SECONDS:
                self._points += read_points(self._client, self._points[-1].at if self._points else 0)
                self._points = [point for point in self._points if point.at > time.time() - 86_400]
                told: Any = self._client.lrange(keys.TOLD, 0, TOLD - 1)
                self._told = list(filter(None, map(_told, told)))
                self._lists_at = now
            return {
                "status": self._status,
                "age_seconds": now - self._looked_at,
                "points": [asdict(point) for point in self._points if point.at > since],
                "told": self._told,
            }

    def why(self, who: str) -> dict[str, Any]:
        """What `mail-worker why` says."""
        answer = Why(self._client, self._settings).find(who, "")
        lines = [line for life in answer.lives for line in life.lines()]
        return {"lines": [*(lines or [answer.nothing(who)]), *answer.missing]}

    def campaign(self, campaign_id: str) -> dict[str, Any]:
        """What `mail-worker campaign` says."""
        report, _, missing = report_of(self._client, self._settings, campaign_id)
        return {**asdict(report), "missing": missing}


def _told(line: bytes) -> list[Any] | None:
    """When something was told, its state and its sentence; None if it's nothing of ours."""
    try:
        at, state, sentence = json.loads(line)
        return [float(at), str(state), str(sentence)]
    except (ValueError, TypeError, RecursionError):
        return None


def serve(client: CountingBlockingRedis, settings: Settings, port: int) -> ThreadingHTTPServer:
    """Makes the server, which listens already.

    Raises:
        OperatorMistake: the port is taken.
    """
    fleet = Fleet(client, settings)
    handler = type("Handler", (_Handler,), {"fleet": fleet})
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise OperatorMistake(
            f"127.0.0.1:{port} can't be listened at ({error.strerror}): choose another --port."
        ) from None


class _Handler(BaseHTTPRequestHandler):
    fleet: Fleet
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "mail-worker", ""
    timeout = 60

    def do_GET(self) -> None:
        host = (self.headers.get("Host") or "").rpartition(":")[0] or self.headers.get("Host")
        if host not in _HOSTS or self.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
            self._answer_json(403, {"error": "This page is for 127.0.0.1 alone."})
            return
        url = urlsplit(self.path)
        query = {name: values[0][:WHO_CHARACTERS] for name, values in parse_qs(url.query).items()}
        if url.path in _FILES:
            name, kind = _FILES[url.path]
            self._answer(200, files("worker").joinpath("page", name).read_bytes(), kind)
            return
        try:
            self._answer_json(200, self._ask(url.path, query))
        except LookupError:
            self._answer_json(404, {"error": "There's no such page."})
        except redis.RedisError as error:
            self._answer_json(503, {"error": explain(error)})
        except MailWorkerError as error:
            self._answer_json(422, {"error": str(error)})

    def _ask(self, path: str, query: dict[str, str]) -> dict[str, Any]:
        if path == "/api/fleet":
            since = query.get("since", "0")
            return self.fleet.look(int(since) if since.isascii() and since.isdigit() else 0)
        if path == "/api/why":
            return self.fleet.why(query["who"].strip())
        if path == "/api/campaign":
            return self.fleet.campaign(query["id"])
        raise LookupError(path)

    def _answer_json(self, code: int, content: dict[str, Any]) -> None:
        self._answer(code, json.dumps(content, ensure_ascii=False).encode(), "application/json")

    def _answer(self, code: int, body: bytes, kind: str) -> None:
        self.send_response(code)
        for name, value in {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
            **_HEADERS,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing: what somebody asked for may be an address."""
