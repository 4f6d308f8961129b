"""Tells people: by webhook, and by mail over another way than the fleet's own."""

import hashlib
import hmac
import json
import smtplib
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from urllib.parse import unquote, urlsplit

import httpx

from worker.base.alerting import AlertSettings
from worker.watching.alerts import Alert

TIMEOUT_SECONDS = 15.0
#: https://api.slack.com/messaging/webhooks, and those that speak its language: Discord with /slack, Mattermost.
_SLACK_HOST, _SLACK_PATH = "hooks.slack.com", "/slack"
SIGNATURE = "X-Mail-Worker-Signature"


def tell(alerts: Sequence[Alert], settings: AlertSettings, fleet: str) -> list[str]:
    """Tells all of them together, by each way. Returns a sentence for each way that didn't work, without its address.

    Args:
        fleet: what people call it: the host that tells.
    """
    problems: list[str] = []
    if settings.webhook_url:
        problems += _by_webhook(alerts, settings, fleet)
    if settings.mail_to and settings.smtp_url:
        problems += _by_mail(alerts, settings, fleet)
    return problems


def ping(settings: AlertSettings) -> str:
    """Says that the fleet is watched; returns a sentence if that didn't work."""
    if not settings.ping_url:
        return ""
    try:
        _ask("GET", settings.ping_url)
    except httpx.HTTPError as error:
        return f"The dead man's switch can't be reached ({_problem(error)}): check worker_alert_ping_url."
    return ""


def _by_webhook(alerts: Sequence[Alert], settings: AlertSettings, fleet: str) -> Iterator[str]:
    url = urlsplit(settings.webhook_url)
    if url.hostname == _SLACK_HOST or url.path.endswith(_SLACK_PATH):
        content: object = {
            "text": "\n".join([f"*{_subject(alerts, fleet)}*", *(f"• {alert.shown}" for alert in alerts)])
        }
    else:
        content = {
            "fleet": fleet,
            "text": _subject(alerts, fleet),
            "alerts": [
                {
                    "kind": alert.kind,
                    "key": alert.key,
                    "state": alert.state,
                    "urgent": alert.urgent,
                    "since": int(alert.since),
                    "sentence": alert.sentence,
                }
                for alert in alerts
            ],
        }
    body = json.dumps(content, ensure_ascii=False).encode()
    headers = {"Content-Type": "application/json"}
    if settings.webhook_secret:
        # The time is signed along, so that nobody can send an old one again.
        at = str(int(time.time()))
        digest = hmac.new(settings.webhook_secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
        headers[SIGNATURE] = f"t={at},v1={digest}"
    try:
        _ask("POST", settings.webhook_url, body, headers)
    except httpx.HTTPError as error:
        yield f"The webhook for alerts doesn't take them ({_problem(error)}): check worker_alert_webhook_url."


def _ask(method: str, url: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
    # What stands below the answer's head is nobody's business, and may never end.
    with httpx.stream(method, url, content=body, headers=headers, timeout=TIMEOUT_SECONDS, verify=_trusted()) as answer:
        answer.raise_for_status()


def _by_mail(alerts: Sequence[Alert], settings: AlertSettings, fleet: str) -> Iterator[str]:
    mail = EmailMessage()
    mail["Subject"] = _subject(alerts, fleet)
    mail["From"] = settings.mail_from or settings.mail_to
    mail["To"] = settings.mail_to
    mail["Date"] = formatdate()
    mail["Message-ID"] = make_msgid("alert", fleet)
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office reply.
    mail.set_content("\n\n".join(alert.shown for alert in alerts) + "\n")
    url = urlsplit(settings.smtp_url)
    host, secure = url.hostname or "", url.scheme == "smtps"
    port = url.port or (465 if secure else 587)
    try:
        with _connected(host, port, secure=secure) as server:
            if url.username:
                server.login(unquote(url.username), unquote(url.password or ""))
            server.send_message(mail)
    except (OSError, smtplib.SMTPException) as error:
        yield f"Alerts can't be mailed by {host}:{port} ({_problem(error)}): check worker_alert_smtp_url."


def _connected(host: str, port: int, *, secure: bool) -> smtplib.SMTP:
    if secure:
        return smtplib.SMTP_SSL(host, port, timeout=TIMEOUT_SECONDS, context=_trusted())
    server = smtplib.SMTP(host, port, timeout=TIMEOUT_SECONDS)
    server.starttls(context=_trusted())
    return server


def _subject(alerts: Sequence[Alert], fleet: str) -> str:
    first = alerts[0]
    more = f" (and {len(alerts) - 1} more)" if len(alerts) > 1 else ""
    # What is to be done comes behind the colon, and stands in the text.
    what = first.sentence.partition(": ")[0][:120]
    return f"[{fleet}] {'Over: ' if first.state == 'over' else ''}{what}{more}"


def _problem(error: Exception) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"HTTP {error.response.status_code}"
    if isinstance(error, smtplib.SMTPResponseException):
        reply = error.smtp_error.decode(errors="replace") if isinstance(error.smtp_error, bytes) else error.smtp_error
        return f"{error.smtp_code} {reply}"
    # httpx's own words may hold the address, which is a secret.
    return type(error).__name__ if isinstance(error, httpx.HTTPError) else str(error) or type(error).__name__


def _trusted() -> ssl.SSLContext:
    # The system's CAs, which the base role extends.
    return ssl.create_default_context()
