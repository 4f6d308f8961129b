"""Resend, SendGrid and Mailgun: how each wants a mail, and what its refusals mean."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass

from worker.base.settings import Secret, Settings
from worker.mail.addresses import Address
from worker.mail.attachments import Attachment
from worker.mail.message import Mail
from worker.mail.outcomes import Reply
from worker.sending.transports.base import RESEND_KEPT_SECONDS
from worker.sending.transports.http import Provider, Request, Response


@dataclass(frozen=True, slots=True)
class _Rule:
    """The first rule counts whose status and pattern a refusal matches."""

    statuses: tuple[int, ...]
    pattern: str
    means: Reply


def _classify(rules: Sequence[_Rule], response: Response) -> Reply:
    # Only the provider itself knows whom to blame.
    explained = isinstance(response.body, dict)
    for rule in rules:
        matches = response.status in rule.statuses and re.search(rule.pattern, response.words, re.IGNORECASE)
        if matches and (explained or rule.means not in (Reply.SENDER, Reply.HARD)):
            return rule.means
    # What isn't about this mail (a redirection, a wrong path, a proxy) is no recipient's fault.
    about_mail = response.status == 413 or (explained and response.status in (400, 422))
    return Reply.HARD if about_mail else Reply.BLOCKED


def _has_id(body: object) -> bool:
    return isinstance(body, dict) and isinstance(body.get("id"), str) and body["id"] != ""


def make_provider(settings: Settings) -> Provider:
    """The provider that `MAIL_TRANSPORT` names, with its key."""
    match settings.transport:
        case "resend":
            return Resend(settings.api_key, settings.api_url or "https://api.resend.com")
        case "sendgrid":
            return SendGrid(settings.api_key, settings.api_url or "https://api.sendgrid.com")
        case _:
            return Mailgun(settings.api_key, settings.api_url or "https://api.mailgun.net", settings.mailgun_domain)


class Resend:
    """https://resend.com/docs/api-reference/emails/send-email, …/errors and …/idempotency-keys"""

    name = "Resend"
    key_setting = "RESEND_API_KEY"
    idempotent_seconds = RESEND_KEPT_SECONDS

    _RULES = (
        _Rule((429,), "quota", Reply.BLOCKED),
        _Rule((409,), "concurrent_idempotent_requests", Reply.SOFT),
        _Rule((429,), "", Reply.PACE),
        _Rule((401,), "", Reply.LOGIN),
        _Rule((403,), "invalid_api_key", Reply.LOGIN),
        _Rule((403,), "", Reply.SENDER),
        # Its sentences name the field first: "Invalid `to` field. …"
        _Rule((400, 422), "^[^`]*`(to|cc|bcc|reply_to|subject|html|text|headers|tags|attachments)", Reply.HARD),
        _Rule((400, 422), "invalid_from_address|`from`|from (field|address|email)", Reply.SENDER),
        _Rule((408,), "", Reply.SOFT),
    )

    def __init__(self, key: Secret, url: str) -> None:
        self.url = url
        self._key = key

    def authorization(self) -> tuple[str, Secret]:
        """See `Provider.authorization`."""
        return "Bearer", self._key

    def request(self, mail: Mail) -> Request:
        """See `Provider.request`."""
        job = mail.job
        body: dict[str, object] = {
            "from": _mailbox(job.sender),
            "to": [_mailbox(address) for address in job.to],
            "subject": job.subject,
            "headers": _headers(mail),
        }
        for name, addresses in (("cc", job.cc), ("bcc", job.bcc), ("reply_to", job.reply_to)):
            if addresses:
                body[name] = [_mailbox(address) for address in addresses]
        if mail.text:
            body["text"] = mail.text
        if job.html:
            body["html"] = job.html
        if files := _files(mail):
            body["attachments"] = [
                {
                    "filename": file.filename or file.cid,
                    "content": _base64(file.content),
                    "content_type": file.content_type,
                    **({"content_id": file.cid} if file.cid else {}),
                }
                for file in files
            ]
        if job.tags:
            body["tags"] = [{"name": _word(name), "value": _word(value or "true")} for name, value in job.tags]
        return Request("/emails", json=body, headers={"Idempotency-Key": mail.identity})

    def check(self) -> Request:
        """See `Provider.check`."""
        return Request("/domains")

    def accepts_check(self, response: Response) -> bool:
        """A key that may only send can't list domains."""
        return response.status == 401 and "restricted_api_key" in response.words

    def explain(self, body: object) -> str:
        """See `Provider.explain`."""
        if not isinstance(body, dict):
            return ""
        return " ".join(str(body[name]) for name in ("id", "name", "message") if name in body)

    def accepted(self, response: Response) -> bool:
        """See `Provider.accepted`."""
        return _has_id(response.body)

    def was_accepted_before(self, response: Response) -> bool:
        """The key was used with another body, which an older release wrote."""
        return response.status == 409 and "invalid_idempotent_request" in response.words

    def classify(self, response: Response) -> Reply:
        """See `Provider.classify`."""
        return _classify(self._RULES, response)


class SendGrid:
    """https://www.twilio.com/docs/sendgrid/api-reference/mail-send and …/how-to-use-the-sendgrid-v3-api/responses"""

    name = "SendGrid"
    key_setting = "SENDGRID_API_KEY"
    idempotent_seconds = 0

    _RULES = (
        _Rule((401,), "credits", Reply.BLOCKED),
        _Rule((401,), "", Reply.LOGIN),
        _Rule((403,), "sender identity", Reply.SENDER),
        _Rule((403,), "", Reply.BLOCKED),
        _Rule((429,), "", Reply.PACE),
        # An error's field, or its sentence where it names none.
        _Rule((400,), r"(^|; )(from\b|the from (email|address|object))", Reply.SENDER),
        _Rule((408,), "", Reply.SOFT),
    )

    def __init__(self, key: Secret, url: str) -> None:
        self.url = url
        self._key = key

    def authorization(self) -> tuple[str, Secret]:
        """See `Provider.authorization`."""
        return "Bearer", self._key

    def request(self, mail: Mail) -> Request:
        """See `Provider.request`."""
        job = mail.job
        # It wants the text first.
        content = [{"type": "text/plain", "value": mail.text}] if mail.text else []
        if job.html:
            content.append({"type": "text/html", "value": job.html})
        # It refuses an address that comes twice.
        others = {address.email for address in job.to}
        cc = [address for address in job.cc if address.email not in others]
        others |= {address.email for address in cc}
        bcc = [address for address in job.bcc if address.email not in others]
        people = {
            name: [_object(address) for address in addresses]
            for name, addresses in (("to", job.to), ("cc", cc), ("bcc", bcc))
            if addresses
        }
        body: dict[str, object] = {
            "personalizations": [people],
            "from": _object(job.sender),
            # It takes no empty subject.
            "subject": job.subject or " ",
            "content": content,
            "headers": _headers(mail),
        }
        if len(job.reply_to) == 1:
            body["reply_to"] = _object(job.reply_to[0])
        elif job.reply_to:
            body["reply_to_list"] = [_object(address) for address in job.reply_to]
        if files := _files(mail):
            body["attachments"] = [
                {
                    "content": _base64(file.content),
                    "filename": file.filename or file.cid,
                    # It takes no parameters.
                    "type": file.content_type.partition(";")[0].strip(),
                    "disposition": "inline" if file.inline else "attachment",
                    **({"content_id": file.cid} if file.cid else {}),
                }
                for file in files
            ]
        if categories := [name for name, value in job.tags if not value]:
            body["categories"] = categories
        if values := {name: value for name, value in job.tags if value}:
            body["custom_args"] = values
        return Request("/v3/mail/send", json=body)

    def check(self) -> Request:
        """See `Provider.check`."""
        return Request("/v3/scopes")

    def accepts_check(self, response: Response) -> bool:
        """See `Provider.accepts_check`."""
        return False

    def explain(self, body: object) -> str:
        """See `Provider.explain`."""
        errors = body.get("errors") if isinstance(body, dict) else None
        if not isinstance(errors, list):
            return ""
        parts = [error for error in errors if isinstance(error, dict)]
        return "; ".join(f"{part.get('field') or ''} {part.get('message') or ''}".strip() for part in parts)

    def accepted(self, response: Response) -> bool:
        """See `Provider.accepted`."""
        return response.status == 202 and response.empty

    def was_accepted_before(self, response: Response) -> bool:
        """See `Provider.was_accepted_before`."""
        return False

    def classify(self, response: Response) -> Reply:
        """See `Provider.classify`."""
        return _classify(self._RULES, response)


class Mailgun:
    """https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/messages and …/error-responses"""

    name = "Mailgun"
    key_setting = "MAILGUN_API_KEY and MAILGUN_DOMAIN"
    idempotent_seconds = 0

    _RULES = (
        _Rule((401,), "", Reply.LOGIN),
        _Rule((402, 403, 404), "", Reply.BLOCKED),
        _Rule((420, 429), "", Reply.PACE),
        _Rule((400,), "^'?from'? ", Reply.SENDER),
        _Rule((408,), "", Reply.SOFT),
    )

    def __init__(self, key: Secret, url: str, domain: str) -> None:
        self.url = url
        self._key = key
        self._domain = domain

    def authorization(self) -> tuple[str, Secret]:
        """See `Provider.authorization`."""
        return "Basic", Secret(base64.b64encode(f"api:{self._key}".encode()).decode())

    def request(self, mail: Mail) -> Request:
        """See `Provider.request`."""
        job = mail.job
        form: dict[str, str | list[str]] = {
            "from": _mailbox(job.sender),
            "to": [_mailbox(address) for address in job.to],
            "subject": job.subject,
            "h:Message-Id": mail.message_id,
            **{f"h:{name}": value for name, value in _headers(mail).items() if name != "Message-ID"},
        }
        for name, addresses in (("cc", job.cc), ("bcc", job.bcc)):
            if addresses:
                form[name] = [_mailbox(address) for address in addresses]
        if mail.text:
            form["text"] = mail.text
        if job.html:
            form["html"] = job.html
        if job.reply_to:
            form["h:Reply-To"] = ", ".join(_mailbox(address) for address in job.reply_to)
        if tags := [name for name, value in job.tags if not value]:
            form["o:tag"] = tags
        form |= {f"v:{name}": value for name, value in job.tags if value}
        # What HTML shows by its cid has that as its file name there; so any other file keeps its own.
        files = [
            ("inline", (file.cid, file.content, file.content_type))
            if _is_in_html(file, job.html)
            else ("attachment", (file.filename or "attachment", file.content, file.content_type))
            for file in _files(mail)
        ]
        return Request(f"/v3/{self._domain}/messages", form=form, files=files)

    def check(self) -> Request:
        """See `Provider.check`."""
        return Request(f"/v3/domains/{self._domain}")

    def accepts_check(self, response: Response) -> bool:
        """A domain's sending key can't read about it."""
        return response.status == 403

    def explain(self, body: object) -> str:
        """See `Provider.explain`."""
        if not isinstance(body, dict):
            return ""
        return " ".join(str(body[name]) for name in ("id", "message") if name in body)

    def accepted(self, response: Response) -> bool:
        """See `Provider.accepted`."""
        return _has_id(response.body)

    def was_accepted_before(self, response: Response) -> bool:
        """See `Provider.was_accepted_before`."""
        return False

    def classify(self, response: Response) -> Reply:
        """See `Provider.classify`."""
        return _classify(self._RULES, response)


def _headers(mail: Mail) -> dict[str, str]:
    """An object has each name once."""
    headers: dict[str, str] = {}
    if mail.job.own_sender is not None:
        headers["Sender"] = _mailbox(mail.job.own_sender)
    for name, value in (*mail.job.headers, ("Message-ID", mail.message_id)):
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _files(mail: Mail) -> list[Attachment]:
    """The attachments, and a calendar event as one: the APIs have no other place for it."""
    event = mail.job.event
    files = list(mail.job.attachments)
    if event is not None:
        media_type = f"text/calendar; charset=utf-8; method={event.method}"
        files.append(Attachment(event.filename, media_type, event.content.encode()))
    return files


def _is_in_html(file: Attachment, html: str) -> bool:
    return file.cid != "" and html != "" and (file.inline or f"cid:{file.cid}" in html)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _word(text: str) -> str:
    """What Resend takes in a tag: ASCII letters, numbers, underscores and dashes."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", text)


def _mailbox(address: Address) -> str:
    if not address.name:
        return address.email
    name = address.name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{name}" <{address.email}>'


def _object(address: Address) -> dict[str, str]:
    return {"email": address.email, "name": address.name} if address.name else {"email": address.email}
