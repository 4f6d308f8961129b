"""The transports under one roof: what to tell each one's server so that it behaves in a certain way, and what of a mail
arrived there."""

import ssl
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any, Protocol

from tests.contract.http_server import Answer, HttpServer, form_name
from tests.contract.smtp_server import SmtpServer
from worker.base.settings import Secret
from worker.sending.transports.base import Transport
from worker.sending.transports.http import HttpTransport, Provider
from worker.sending.transports.providers import Mailgun, Resend, SendGrid
from worker.sending.transports.smtp import Idempotency, SmtpTransport
from worker.sending.transports.smtp_login import Server
from worker.sending.transports.smtp_session import StepSeconds

SECRET = Secret("s3cret-s3cret")


@dataclass(frozen=True, slots=True)
class Arrived:
    """A mail as the provider got it."""

    to: str
    sender: str
    reply_to: str
    subject: str
    text: str
    html: str
    headers: dict[str, str]
    cc: str = ""
    #: Name, media type, content, and the name by which the HTML shows it.
    files: tuple[tuple[str, str, bytes, str], ...] = ()
    #: All to whom it goes, where the provider is told no more than that.
    envelope: str = ""
    bcc: str = ""
    tags: str = ""


class Peer(Protocol):
    """A transport with its server."""

    async def start(self, tls: ssl.SSLContext) -> Transport: ...
    async def stop(self) -> None: ...

    def behave(self, manner: str) -> None:
        """Tells the server how to treat the next mails.

        Raises:
            KeyError: the provider knows no such thing.
        """

    def arrived(self) -> list[Arrived]: ...


@dataclass(slots=True)
class SmtpPeer:
    """SMTP with or without PIPELINING."""

    pipelining: bool
    idempotency: Idempotency | None = None
    server: SmtpServer = field(init=False)
    step_seconds: StepSeconds = field(default_factory=lambda: StepSeconds(verdict=2.0))

    MANNERS = {  # noqa: RUF012  # nobody changes it
        "accept": {},
        "no such recipient": {"RCPT": "550 5.1.1 no such mailbox"},
        "spam": {"CONTENT": "554 5.7.1 spam"},
        "busy": {"RCPT": "450 4.2.0 busy"},
        "slow down": {"MAIL": "421 4.7.0 slow down"},
        "slow down at one recipient": {"RCPT": "451 4.3.0 lookup failed"},
        "slow down at the content": {"CONTENT": "451 4.3.0 try later"},
        "login refused": {"AUTH": "535 5.7.8 wrong"},
        "too busy for a login": {"AUTH": "421 4.7.0 too many connections"},
        "quota": {"CONTENT": "550 5.4.5 daily limit"},
        "sender refused": {"MAIL": "550 5.7.1 not your address"},
        "close after the content": {"CONTENT": "close"},
        "close before the content": {"RCPT": "close"},
        "stall": {"CONTENT": "stall"},
        "rubbish": {"CONTENT": "HTTP/1.1 200 OK"},
    }

    def __post_init__(self) -> None:
        self.server = SmtpServer(self.pipelining)

    async def start(self, tls: ssl.SSLContext) -> Transport:
        await self.server.start(tls)

        async def password() -> Secret:
            return SECRET

        return SmtpTransport(
            Server(
                host="127.0.0.1",
                port=self.server.port,
                user="me@example.org",
                shown_user="me@example.org",
                auth="auto",
                implicit_tls=not self.server.starttls,
                helo_name="host.example.org",
            ),
            password,
            idempotency=self.idempotency,
            step_seconds=self.step_seconds,
        )

    async def stop(self) -> None:
        await self.server.stop()

    def behave(self, manner: str) -> None:
        self.server.replies = dict(self.MANNERS[manner])

    def arrived(self) -> list[Arrived]:
        return [self._read(recipients, content) for recipients, content in self.server.accepted]

    def _read(self, recipients: str, content: bytes) -> Arrived:
        mail = message_from_bytes(content, policy=policy.default)
        text, html = mail.get_body(("plain",)), mail.get_body(("html",))
        return Arrived(
            to=str(mail["To"]),
            sender=str(mail["From"]),
            reply_to=str(mail["Reply-To"] or ""),
            subject=str(mail["Subject"]),
            text=str(text.get_content()) if isinstance(text, EmailMessage) else "",
            html=str(html.get_content()) if isinstance(html, EmailMessage) else "",
            headers={name.lower(): str(value) for name, value in mail.items()},
            cc=str(mail["Cc"] or ""),
            files=tuple(
                (
                    part.get_filename() or "",
                    part.get_content_type(),
                    bytes(part.get_payload(decode=True)),
                    str(part["Content-ID"] or "").strip("<>"),
                )
                for part in mail.walk()
                if part.get_content_disposition()
            ),
            envelope=recipients,
        )


_COMMON = {
    "close after the content": Answer(instead="close"),
    "stall": Answer(instead="stall"),
    "broken": Answer(500, {"message": "oops"}),
    "wrong path": Answer(404, {"message": "no such page"}),
    "gateway": Answer(504, {"message": "time-out"}),
    "away for a while": Answer(503, {"message": "later"}, {"retry-after": "7"}),
    "slow down": Answer(429, {"message": "too many requests"}, {"retry-after": "7"}),
}


class _HttpPeer:
    manners: dict[str, Answer]
    accepted: Answer
    checked: Answer

    def __init__(self) -> None:
        self.server = HttpServer(self.accepted, self.checked)

    def provider(self, url: str) -> Provider:
        raise NotImplementedError

    async def start(self, tls: ssl.SSLContext) -> Transport:
        await self.server.start(tls)
        return HttpTransport(self.provider(f"https://127.0.0.1:{self.server.port}"))

    async def stop(self) -> None:
        await self.server.stop()

    def behave(self, manner: str) -> None:
        answer = {**_COMMON, "accept": self.accepted, **self.manners}[manner]
        self.server.answer = answer
        if manner == "login refused":
            self.server.check = answer


class ResendPeer(_HttpPeer):
    """https://resend.com/docs/api-reference/errors"""

    accepted = Answer(200, {"id": "49a3999c-0ce1-4ea6-ab68-afcd6dc2e794"})
    checked = Answer(200, {"data": []})
    manners = {  # noqa: RUF012
        "no such recipient": Answer(422, {"name": "validation_error", "message": "Invalid `to` field."}),
        "login refused": Answer(401, {"name": "missing_api_key", "message": "Missing API Key"}),
        "quota": Answer(429, {"name": "daily_quota_exceeded", "message": "You have reached your daily sending quota."}),
        "sender refused": Answer(
            403, {"name": "validation_error", "message": "The example.com domain is not verified."}
        ),
        "busy": Answer(409, {"name": "concurrent_idempotent_requests", "message": "Same key is in progress."}),
        "taken before": Answer(409, {"name": "invalid_idempotent_request", "message": "Same key, another payload."}),
    }

    def provider(self, url: str) -> Provider:
        return Resend(SECRET, url)

    def arrived(self) -> list[Arrived]:
        return [
            Arrived(
                to=", ".join(body["to"]),
                sender=str(body["from"]),
                reply_to=", ".join(body.get("reply_to", [])),
                subject=str(body["subject"]),
                text=str(body.get("text", "")),
                html=str(body.get("html", "")),
                headers={name.lower(): value for name, value in body["headers"].items()},
                cc=", ".join(body.get("cc", [])),
                bcc=", ".join(body.get("bcc", [])),
                files=tuple(
                    (one["filename"], one["content_type"], b64decode(one["content"]), one.get("content_id", ""))
                    for one in body.get("attachments", [])
                ),
                tags=", ".join(f"{one['name']}={one['value']}" for one in body.get("tags", [])),
            )
            for body in (dict[str, Any](request.json) for request in self.server.requests if request.method == "POST")
        ]


class SendGridPeer(_HttpPeer):
    """https://www.twilio.com/docs/sendgrid/api-reference/how-to-use-the-sendgrid-v3-api/responses"""

    accepted = Answer(202, None, {"x-message-id": "14c5d75ce93.dfd.64b469"})
    checked = Answer(200, {"scopes": ["mail.send"]})
    manners = {  # noqa: RUF012
        "no such recipient": Answer(
            400,
            {"errors": [{"message": "Does not contain a valid address.", "field": "personalizations.0.to.0.email"}]},
        ),
        "login refused": Answer(401, {"errors": [{"message": "The provided authorization grant is invalid"}]}),
        "quota": Answer(401, {"errors": [{"message": "Maximum credits exceeded"}]}),
        "sender refused": Answer(
            403,
            {"errors": [{"message": "The from address does not match a verified Sender Identity.", "field": "from"}]},
        ),
    }

    def provider(self, url: str) -> Provider:
        return SendGrid(SECRET, url)

    def arrived(self) -> list[Arrived]:
        found = []
        for request in self.server.requests:
            if request.method == "POST":
                body: dict[str, Any] = dict(request.json)
                parts = {part["type"]: part["value"] for part in body["content"]}
                found.append(
                    Arrived(
                        to=_join_all(body["personalizations"][0]["to"]),
                        sender=_join(body["from"]),
                        reply_to=_join_all([body["reply_to"]] if "reply_to" in body else body.get("reply_to_list", [])),
                        subject=body["subject"],
                        text=parts.get("text/plain", ""),
                        html=parts.get("text/html", ""),
                        headers={name.lower(): value for name, value in body["headers"].items()},
                        cc=_join_all(body["personalizations"][0].get("cc", [])),
                        bcc=_join_all(body["personalizations"][0].get("bcc", [])),
                        files=tuple(
                            (one["filename"], one["type"], b64decode(one["content"]), one.get("content_id", ""))
                            for one in body.get("attachments", [])
                        ),
                        tags=", ".join(
                            [*body.get("categories", [])]
                            + [f"{name}={value}" for name, value in body.get("custom_args", {}).items()]
                        ),
                    )
                )
        return found


class MailgunPeer(_HttpPeer):
    """https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/messages"""

    accepted = Answer(200, {"id": "<20111114174239.25659.5817@samples.mailgun.org>", "message": "Queued. Thank you."})
    checked = Answer(200, {"domain": {"state": "active"}})
    manners = {  # noqa: RUF012
        "no such recipient": Answer(
            400, {"message": "to parameter is not a valid address. please check documentation"}
        ),
        "login refused": Answer(401, {"message": "Forbidden"}),
        "quota": Answer(403, {"message": "Domain example.org is not allowed to send: recipient limit exceeded."}),
        "sender refused": Answer(400, {"message": "from parameter is not a valid address."}),
    }

    def provider(self, url: str) -> Provider:
        return Mailgun(SECRET, url, "mg.example.org")

    def arrived(self) -> list[Arrived]:
        return [
            Arrived(
                to=form["to"],
                sender=form["from"],
                reply_to=form.get("h:Reply-To", ""),
                subject=form["subject"],
                text=form.get("text", ""),
                html=form.get("html", ""),
                headers={name[2:].lower(): value for name, value in form.items() if name.startswith("h:")},
                cc=form.get("cc", ""),
                bcc=form.get("bcc", ""),
                files=tuple(
                    (
                        part.get_filename() or "",
                        part.get_content_type(),
                        bytes(part.get_payload(decode=True)),
                        part.get_filename() or "" if form_name(part) == "inline" else "",
                    )
                    for part in parts
                    if part.get_filename()
                ),
                tags=", ".join(
                    ([form["o:tag"]] if "o:tag" in form else [])
                    + [f"{name[2:]}={value}" for name, value in form.items() if name.startswith("v:")]
                ),
            )
            for form, parts in (
                (request.form, request.parts) for request in self.server.requests if request.method == "POST"
            )
        ]


def _join_all(addresses: "list[dict[str, str]]") -> str:
    return ", ".join(map(_join, addresses))


def _join(address: "dict[str, str]") -> str:
    name = address.get("name", "").replace('"', '\\"')
    return f'"{name}" <{address["email"]}>' if name else address["email"]


SMTP_PEERS: dict[str, Callable[[], Peer]] = {
    "smtp": lambda: SmtpPeer(pipelining=False),
    "smtp pipelined": lambda: SmtpPeer(pipelining=True),
    "smtp with keys": lambda: SmtpPeer(True, Idempotency("Resend-Idempotency-Key", 3600)),
}
PEERS: dict[str, Callable[[], Peer]] = {
    **SMTP_PEERS,
    "resend": ResendPeer,
    "sendgrid": SendGridPeer,
    "mailgun": MailgunPeer,
}


def known_manners(name: str) -> set[str]:
    """What the server of this peer can be told."""
    peer = PEERS[name]()
    return set(peer.MANNERS) if isinstance(peer, SmtpPeer) else {*_COMMON, *getattr(peer, "manners", {})}
