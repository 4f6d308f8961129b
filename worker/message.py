"""Builds the mail that leaves, from a job.

By hand rather than with `email.message`, whose generator takes about three times as long for a 10 kB mail
(benchmarks/message.py). It follows RFC 5322 (format), RFC 2045-2047 (MIME), RFC 2369 and RFC 8058 (unsubscribing).
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from email.header import Header
from email.utils import format_datetime, quote

from worker.jobs import Address, Job
from worker.text import text_from_html

# RFC 5322, 2.1.1: a line has at most 998 characters; beyond 78 it's folded.
_FOLD_BEYOND = 78
_LONGEST_WORD = 900
_CRLF = "\r\n"
# Quoted-printable triples each non-ASCII byte, base64 adds a third to all: they break even at a sixth.
_BASE64_FROM_SHARE = 6


@dataclass(frozen=True, slots=True)
class Mail:
    """What a transport takes: the envelope, the header's Message-ID and the whole mail with CRLF line ends."""

    sender: str
    recipient: str
    message_id: str
    data: bytes

    @property
    def needs_smtputf8(self) -> bool:
        """Whether an address has a non-ASCII local part (RFC 6531)."""
        return not (self.sender.isascii() and self.recipient.isascii())


def message_id(job: Job, fallback: str) -> str:
    """The same for each attempt at the same mail, so that receivers can drop a copy.

    Args:
        fallback: an identity for a mail outside any campaign.
    """
    identity = fallback if job.campaign_id is None else f"{job.campaign_id}\0{job.subscriber_id}"
    return f"<{hashlib.sha256(identity.encode()).hexdigest()[:32]}@{job.sender.domain}>"


def build_mail(job: Job, identity: str, *, date: datetime | None = None) -> Mail:
    """Builds the MIME mail; makes the text part from the HTML when the job has none.

    Args:
        identity: see `message_id`.
        date: for the Date header; now by default.
    """
    identifier = message_id(job, identity)
    lines = [
        _address_field("From", job.sender),
        _address_field("To", job.to),
        _field("Subject", job.subject),
        f"Date: {format_datetime(date or datetime.now(UTC))}",
        f"Message-ID: {identifier}",
    ]
    if job.reply_to is not None:
        lines.append(_address_field("Reply-To", job.reply_to))
    lines.extend(_field(name, value) for name, value in job.headers.items() if not _is_replaced(name, job))
    if job.unsubscribe_url is not None:
        lines.append(f"List-Unsubscribe: <{job.unsubscribe_url}>")
        lines.append("List-Unsubscribe-Post: List-Unsubscribe=One-Click")
    lines.append("MIME-Version: 1.0")
    head = "\r\n".join(lines).encode("utf-8") + b"\r\n"
    return Mail(job.sender.email, job.to.email, identifier, head + _body(job, identifier))


def _is_replaced(name: str, job: Job) -> bool:
    return job.unsubscribe_url is not None and name.lower() == "list-unsubscribe"


def _body(job: Job, identifier: str) -> bytes:
    text = job.text or text_from_html(job.html)
    if not job.html:
        return _part("plain", text)
    # `=_` can't occur in quoted-printable or base64 (RFC 2045, 6.7).
    boundary = f"=_{identifier[1:25]}"
    delimiter = f"--{boundary}\r\n".encode()
    head = f'Content-Type: multipart/alternative; boundary="{boundary}"\r\n\r\n'.encode()
    return b"".join(
        (
            head,
            delimiter,
            _part("plain", text),
            b"\r\n",
            delimiter,
            _part("html", job.html),
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


def _address_field(name: str, address: Address) -> str:
    if not address.email.isascii():
        # Encoded words can't stand in an address: with SMTPUTF8 it goes out as it is (RFC 6532).
        return f'{name}: "{quote(address.name)}" <{address.email}>' if address.name else f"{name}: {address.email}"
    if not address.name:
        return f"{name}: {address.email}"
    if address.name.isascii():
        return _field(name, f'"{quote(address.name)}" <{address.email}>')
    encoded = Header(address.name, "utf-8", header_name=name, maxlinelen=_FOLD_BEYOND - 2).encode(linesep=_CRLF)
    return f"{name}: {encoded} <{address.email}>"


def _field(name: str, value: str) -> str:
    if value.isascii() and len(name) + 2 + len(value) <= _FOLD_BEYOND:
        return f"{name}: {value}"
    # ASCII folds at spaces only; a word that is too long for a line becomes encoded words, which fold anywhere.
    folds = value.isascii() and max(map(len, value.split())) < _LONGEST_WORD
    header = Header(value, "us-ascii" if folds else "utf-8", header_name=name, maxlinelen=_FOLD_BEYOND - 2)
    return f"{name}: {header.encode(linesep=_CRLF)}"
