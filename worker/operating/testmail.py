"""`mail-worker send-test`: one mail to an address, past the queue, to see whether the account works."""

import asyncio
import socket
from uuid import uuid4

from worker.base.redis_client import connect
from worker.base.settings import Settings
from worker.errors import InvalidJob, MailRefused
from worker.mail.addresses import Address, parse_address
from worker.mail.jobs import Job, parse_job, redirected
from worker.mail.message import build_mail
from worker.mail.outcomes import Failed, Hindered, Retry, SenderRefused, Sent, Slow, Uncertain
from worker.mail.templates import FindTemplate
from worker.queue.templates import finder
from worker.sending.attachment_files import AttachmentFiles
from worker.sending.transports.choice import destination, make_transport

_HTML = "<p>This is a test mail from <b>{host}</b>. The umlaut ü and the check mark ✓ must look right.</p>"


def send_test(settings: Settings, address: str, raw: object = None) -> str:
    """Sends the mail; returns a sentence.

    Args:
        raw: a job whose mail it is, with all others to whom that goes left out.

    Raises:
        MailRefused, TransportUnavailable: with the server's words and the way out.
    """
    if raw is None:
        job = test_job(settings, address)
    else:
        job = job_to(settings, address, raw, finder(connect(settings.redis_url)))
    outcome = asyncio.run(_send(settings, job))
    match outcome:
        case Sent(reply=reply):
            return f"{destination(settings)} accepted the mail to {job.to[0].email}: {reply}"
        case (
            Failed(reason=reason)
            | Retry(reason=reason)
            | Slow(reason=reason)
            | Hindered(reason=reason)
            | SenderRefused(reason=reason)
            | Uncertain(reason=reason)
        ):
            raise MailRefused(
                f"{destination(settings)} didn't accept the mail to {job.to[0].email}: {reason.rstrip('.')}."
            )
        case _:
            raise AssertionError(outcome)


async def _send(settings: Settings, job: Job) -> object:
    async def claim() -> bool:
        return True

    transport, files = make_transport(settings), AttachmentFiles()
    try:
        job = await files.fill(job)
        return await transport.send(build_mail(job, uuid4().hex, makes_text=settings.jobs.makes_text), claim)
    except InvalidJob as error:
        raise MailRefused(f"The job can't become a mail: {error}.") from None
    finally:
        await files.close()
        await transport.close()


def job_to(settings: Settings, address: str, raw: object, find: FindTemplate) -> Job:
    """A job as it is, but for one recipient.

    Raises:
        MailRefused: it can't become a mail.
    """
    try:
        return redirected(parse_job(raw, settings.jobs.defaults, find), _to(address))
    except InvalidJob as error:
        raise MailRefused(f"The job can't become a mail: {error}.") from None


def _to(address: str) -> Address:
    try:
        return parse_address(address, "ADDRESS")
    except InvalidJob as error:
        raise MailRefused(f"{error}.") from None


def test_job(settings: Settings, address: str) -> Job:
    return Job(
        to=(_to(address),),
        sender=_sender(settings),
        subject=f"Test mail from {socket.gethostname()} ✓",
        html=_HTML.format(host=socket.gethostname()),
    )


def _sender(settings: Settings) -> Address:
    if settings.mail_from is not None:
        return settings.mail_from
    try:
        return parse_address(settings.smtp_user, "SMTP_USER")
    except InvalidJob:
        raise MailRefused("A test mail needs a sender, and SMTP_USER isn't an address: set MAIL_FROM.") from None
