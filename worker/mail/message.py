"""Builds the mail that leaves, from a job.

By hand rather than with `email.message`, whose generator takes about three times as long for a 10 kB mail
(benchmarks/message.py). It follows RFC 5322 (format); its parts are mime.py's.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import cached_property

from worker.mail import mime
from worker.mail.alike import text_of_campaign
from worker.mail.header_fields import address_field, job_field, text_field
from worker.mail.jobs import Job

#: For a mail that goes to nobody in sight.
_NOBODY = "To: undisclosed-recipients:;"


@dataclass(frozen=True)
class Mail:
    """What a transport takes."""

    job: Job
    #: The same for each attempt, and for no other mail, as providers want an idempotency key.
    identity: str
    date: datetime
    #: Whether a text part is made for a job that has HTML alone.
    makes_text: bool = True

    @property
    def message_id(self) -> str:
        """The app's own, or one of the mail's identity."""
        return self.job.message_id or f"<{self.identity}>"

    @property
    def sender(self) -> str:
        return self.job.sender.email

    @cached_property
    def recipients(self) -> tuple[str, ...]:
        return tuple(address.email for address in self.job.recipients)

    @property
    def needs_smtputf8(self) -> bool:
        """Whether an address has a non-ASCII local part, in a header field too (RFC 6531, 3.4)."""
        job = self.job
        others = (*job.reply_to, *((job.own_sender,) if job.own_sender else ()))
        return not all(one.isascii() for one in (self.sender, *self.recipients, *(a.email for a in others)))

    @cached_property
    def text(self) -> str:
        """The text part; made from the HTML when the job has none. Empty is none."""
        if self.job.text or not self.makes_text:
            return self.job.text
        return text_of_campaign(self.job.html, self.job.campaign_id)

    @cached_property
    def data(self) -> bytes:
        """The whole mail with CRLF line ends."""
        return _data(self)


def identity(job: Job, fallback: str) -> str:
    """The same for each attempt at the same mail, so that receivers can drop a copy; as a Message-ID has it.

    Args:
        fallback: an identity for a mail outside any campaign.
    """
    name = fallback if job.campaign_id is None else f"{job.campaign_id}\0{job.subscriber_id}"
    return f"{hashlib.sha256(name.encode()).hexdigest()[:32]}@{job.sender.domain}"


def build_mail(job: Job, fallback: str, *, date: datetime | None = None, makes_text: bool = True) -> Mail:
    """The mail of a job.

    Args:
        fallback: see `identity`.
        date: for the Date header; now by default.
        makes_text: see `Mail`.
    """
    return Mail(job, identity(job, fallback), date or datetime.now(UTC), makes_text)


def _data(mail: Mail) -> bytes:
    job = mail.job
    lines = [address_field("From", job.sender)]
    if job.own_sender is not None:
        lines.append(address_field("Sender", job.own_sender))
    lines.append(address_field("To", *job.to) if job.to else _NOBODY)
    if job.cc:
        lines.append(address_field("Cc", *job.cc))
    lines += (
        text_field("Subject", job.subject),
        f"Date: {format_datetime(mail.date)}",
        f"Message-ID: {mail.message_id}",
    )
    if job.reply_to:
        lines.append(address_field("Reply-To", *job.reply_to))
    lines.extend(job_field(name, value) for name, value in job.headers)
    lines.append("MIME-Version: 1.0")
    head = "\r\n".join(lines).encode("utf-8") + b"\r\n"
    parts = mime.Parts(mail.text, job.html, job.event, job.attachments)
    return head + mime.body(parts, mail.identity[:24])
