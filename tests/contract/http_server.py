"""An HTTP server that speaks one provider's API as far as its documentation goes, and misbehaves when it's told to."""

import asyncio
import json
import ssl
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from urllib.parse import parse_qs

_CLOSE = "close"
_STALL = "stall"


def form_name(part: EmailMessage) -> str:
    """Of a form's field."""
    return str(dict(part.get_params(header="content-disposition") or [])["name"])


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        parsed: dict[str, object] = json.loads(self.body)
        return parsed

    @property
    def form(self) -> dict[str, str]:
        """Of a form's fields that come several times, all in one, with commas."""
        if self.parts:
            found: dict[str, list[str]] = {}
            for part in self.parts:
                if part.get_filename() is None:
                    name = form_name(part)
                    found.setdefault(name, []).append(bytes(part.get_payload(decode=True)).decode())
        else:
            found = parse_qs(self.body.decode(), keep_blank_values=True)
        return {name: ", ".join(values) for name, values in found.items()}

    @property
    def parts(self) -> list[EmailMessage]:
        """Those of a form with files (RFC 7578)."""
        if not self.headers["content-type"].startswith("multipart/"):
            return []
        head = f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode()
        return [
            part for part in message_from_bytes(head + self.body, policy=policy.HTTP).walk() if not part.is_multipart()
        ]


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, JSON body or another text or bytes, and further headers; or `close` or `stall` instead."""

    status: int = 200
    body: object = None
    headers: dict[str, str] = field(default_factory=dict)
    instead: str = ""
    text: str = ""
    content: bytes = b""


@dataclass(slots=True)
class HttpServer:
    """Answers each POST with `answer`, and each GET with `check`."""

    answer: Answer
    check: Answer
    requests: list[HttpRequest] = field(default_factory=list)
    port: int = 0
    _server: asyncio.Server | None = None

    async def start(self, tls: ssl.SSLContext) -> None:
        """Listens on a free port of loopback."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await self._read(reader):
                self.requests.append(request)
                answer = self.answer if request.method == "POST" else self.check
                if answer.instead == _CLOSE:
                    return
                if answer.instead == _STALL:
                    await asyncio.sleep(3600)
                body = answer.text.encode() if answer.body is None else json.dumps(answer.body).encode()
                body = answer.content or body
                headers = {"content-type": "application/json", **answer.headers, "content-length": str(len(body))}
                head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                writer.write(f"HTTP/1.1 {answer.status} Reason\r\n{head}\r\n".encode() + body)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> HttpRequest | None:
        first = (await reader.readline()).decode().split()
        if len(first) != 3:
            return None
        headers = {}
        while line := (await reader.readline()).decode().strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        return HttpRequest(first[0], first[1], headers, body)
