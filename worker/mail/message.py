"""Builds the mail that leaves, from a job.

By hand rather than with `email.message`, whose generator takes about three times as long for a 10 kB mail
(benchmarks/message.py). It follows RFC 5322 (format), RFC 2045-2047 (MIME), RFC 2369 and RFC 8058 (unsubscribing).
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import cached_property

from worker.mail.alike import text_of_campaign
from worker.mail.header_fields import address_field, job_field, text_field
from worker.mail.jobs import Job

# Quoted-printable triples each non-ASCII byte, base64 adds a third to all: they break even at a sixth.
_BASE64_FROM_SHARE = 6


@dataclass(frozen=True)
class Mail:
    """What a transport takes."""

    job: Job
    message_id: str
    date: datetime
    #: Whether a text part is made for a job that has HTML alone.
    makes_text: bool = True

    @property
    def sender(self) -> str:
        return self.job.sender.email

    @property
    def recipient(self) -> str:
        return self.job.to.email

    @property
    def idempotency_key(self) -> str:
        """The same for each attempt, as providers want it."""
        return self.message_id.strip("<>")

    @property
    def needs_smtputf8(self) -> bool:
        """Whether an address has a non-ASCII local part, in a header field too (RFC 6531, 3.4)."""
        reply_to = self.job.reply_to
        return not (
            self.sender.isascii() and self.recipient.isascii() and (reply_to is None or reply_to.email.isascii())
        )

    @cached_property
    def text(self) -> str:
        """The text part; made from the HTML when the job has none. Empty is none."""
        if self.job.text or not self.makes_text:
            return self.job.text
        return text_of_campaign(self.job.html, self.job.campaign_id)

    @property
    def headers(self) -> dict[str, str]:
        """The job's own header fields, and those for unsubscribing (RFC 2369, RFC 8058)."""
        url = self.job.unsubscribe_url
        if url is None:
            return dict(self.job.headers)
        kept = {name: value for name, value in self.job.headers.items() if name.lower() != "list-unsubscribe"}
        return {**kept, "List-Unsubscribe": f"<{url}>", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}

    @cached_property
    def data(self) -> bytes:
        """The whole mail with CRLF line ends."""
        return _data(self)


def message_id(job: Job, fallback: str) -> str:
    """The same for each attempt at the same mail, so that receivers can drop a copy.

    Args:
        fallback: an identity for a mail outside any campaign.
    """
    identity = fallback if job.campaign_id is None else f"{job.campaign_id}\0{job.subscriber_id}"
    return f"<{hashlib.sha256(identity.encode()).hexdigest()[:32]}@{job.sender.domain}>"


def build_mail(job: Job, identity: str, *, date: datetime | None = None, makes_text: bool = True) -> Mail:
    """The mail of a job.

    Args:
        identity: see `message_id`.
        date: for the Date header; now by default.
        makes_text: see `Mail`.
    """
    return Mail(job, message_id(job, identity), date or datetime.now(UTC), makes_text)


def _data(mail: Mail) -> bytes:
    job = mail.job
    lines = [
        address_field("From", job.sender),
        address_field("To", job.to),
        text_field("Subject", job.subject),
        f"Date: {format_datetime(mail.date)}",
        f"Message-ID: {mail.message_id}",
    ]
    if job.reply_to is not None:
        lines.append(address_field("Reply-To", job.reply_to))
    lines.extend(job_field(name, value) for name, value in mail.headers.items())
    lines.append("MIME-Version: 1.0")
    head = "\r\n".join(lines).encode("utf-8") + b"\r\n"
    return head + _body(mail)


def _body(mail: Mail) -> bytes:
    if not mail.job.html:
        return _part("plain", mail.text)
    if not mail.text:
        return _part("html", mail.job.html)
    # `=_` can't occur in quoted-printable or base64 (RFC 2045, 6.7).
    boundary = f"=_{mail.message_id[1:25]}"
    delimiter = f"--{boundary}\r\n".encode()
    head = f'Content-Type: multipart/alternative; boundary="{boundary}"\r\n\r\n'.encode()
    return b"".join(
        (
            head,
            delimiter,
            _part("plain", mail.text),
            b"\r\n",
            delimiter,
            _part("html", mail.job.html),
            f"\r\n--{boundary}--\r\n".encode(),
        )
    )


def _part(subtype: str, content: str) -> bytes:
    raw = content.replace("\r\n", "\n").replace("\r", "\n").encode("utf-8")
    if (len(raw) - len(content)) * _BASE64_FROM_SHARE > len(raw):
        encoding, body = "base64", base64.encodebytes(raw.replace(b"\n", b"\r\n"))
    else:
        encoding, body = "quoted-printable", binascii.b2a_qp(raw, istext=True)
    head = f"Content-Type: text/{subtype}; charset=utf-8\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    return head.encode() + body.replace(b"\n", b"\r\n")
