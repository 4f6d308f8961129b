"""`mail-worker preview`: the mail of a job as it would leave, and what each field was taken for. `mail-worker check
--jobs` asks the same of all jobs of a file, and `mail-worker check` of those at the head of the app's queue."""

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import redis

from worker.base import keys
from worker.base.settings import JobSettings
from worker.errors import InvalidJob, MailWorkerError
from worker.mail.addresses import Address
from worker.mail.fields import shorten
from worker.mail.jobs import Job, parse_job
from worker.mail.message import Mail, build_mail
from worker.mail.shape import Shape, read_shape
from worker.mail.templates import FindTemplate
from worker.queue.producer import check_size, read_jobs

#: So many jobs at the head of the app's queue are read.
LOOKED_AT = 20
#: So many names stand in a sentence.
SHOWN_FIELDS = 10
_LONGEST_SHOWN = 80
_MESSAGES = (keys.MESSAGES, keys.DELAYED_MESSAGES, keys.DEAD_LETTER_MESSAGES)


@dataclass(frozen=True, slots=True)
class Preview:
    """A mail, and a line for each thing in it."""

    mail: Mail
    lines: tuple[str, ...]


def job_of_file(path: Path, line: int) -> object:
    """A file's job, by its line's number; the first one if that's 0.

    Raises:
        MailWorkerError: there's none, or it can't be read.
    """
    for number, job in read_jobs(path):
        if line in (0, number):
            try:
                if isinstance(job, InvalidJob):
                    raise job
                check_size(job)
            except InvalidJob as error:
                raise MailWorkerError(f"{path}:{number}: {error}.") from None
            return job
    raise MailWorkerError(f"{path} holds no job" + (f" in line {line}." if line else "."))


def job_of_queue(client: "redis.Redis", bullmq: str, identity: str) -> object:
    """A waiting, delayed or dead job: a message's id, or a BullMQ job's.

    Raises:
        MailWorkerError: there's none, or it can't be read.
        redis.RedisError: Redis is away.
    """
    data: object = client.hget(f"{bullmq}:{identity}", "data") if bullmq else None
    message = None
    for key in () if data is not None else _MESSAGES:
        message = message or client.hget(key, identity)
    try:
        if isinstance(data, bytes):
            return json.loads(data)
        if isinstance(message, bytes):
            return json.loads(message)["args"][0]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise MailWorkerError(f"{identity} is queued, but what it holds isn't a job.") from None
    queues = " or ".join(filter(None, ("Dramatiq's queue", bullmq)))
    raise MailWorkerError(f"There's no file {identity!r}, and no job of that id waits in {queues}.")


def preview(raw: object, settings: JobSettings, find: FindTemplate) -> Preview:
    """The mail of a job, with what it was made of.

    Args:
        find: gives templates by their names.

    Raises:
        InvalidJob: it can't become a mail.
    """
    shape = read_shape(raw)
    job = parse_job(raw, settings.defaults, find)
    mail = build_mail(job, "preview", makes_text=settings.makes_text)
    return Preview(mail, tuple(_lines(shape, job, mail)))


def _lines(shape: Shape, job: Job, mail: Mail) -> Iterator[str]:
    def line(what: str, field: str, words: str) -> str:
        return f"{what:<12} {shape.names.get(field, '-'):<24} {words}"

    if job.campaign_id is not None:
        yield line("campaign", "campaignId", job.campaign_id)
        yield line("subscriber", "subscriberId", job.subscriber_id or "")
    yield line("from", "from" if "from" in shape.names else "fromEmail", _people((job.sender,)))
    if job.own_sender is not None:
        yield line("sender", "sender", _people((job.own_sender,)))
    yield line("to", "to", _people(job.to))
    for name, people in (("cc", job.cc), ("bcc", job.bcc)):
        if people:
            yield line(name, name, _people(people))
    if job.reply_to:
        yield line("reply to", "replyTo", _people(job.reply_to))
    yield line("subject", "subject", job.subject)
    for name, text in (("html", job.html), ("text", mail.text)):
        if text:
            made = name == "text" and not job.text
            words = f"{len(text):,} characters{', made from the HTML' if made else ''}"
            where = next((one for one in (name, "body", "templateId") if one in shape.names), "")
            yield line(name, "" if made else where, words)
    for name, value in job.headers:
        yield line("header", "headers", f"{name}: {value}")
    for file in job.attachments:
        shown = ", in the HTML" if file.cid else ""
        # Behind ? and # there may be a signature.
        address = file.url.partition("?")[0].partition("#")[0]
        size = f"fetched from {address} when it leaves" if file.url else f"{len(file.content):,} bytes"
        yield line(
            "attachment",
            "attachments",
            f"{file.filename or '(no name)'}, {file.content_type}, {size}{shown}",
        )
    if job.event is not None:
        yield line("invitation", "icalEvent", f"{job.event.method}, {job.event.filename}")
    for name, value in job.tags:
        yield line("tag", "tags", f"{name}={value}" if value else name)
    if job.unsent:
        yield f"{'not sent':<12} {_listed(job.unsent)}"
    if job.unfilled:
        yield f"{'unfilled':<12} {_listed(job.unfilled)}"


def _people(addresses: Iterable[Address]) -> str:
    return ", ".join(f"{one.name} <{one.email}>" if one.name else one.email for one in addresses)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_FIELDS} more" if len(names) > SHOWN_FIELDS else ""
    return ", ".join(map(_shown, names[:SHOWN_FIELDS])) + more


def _shown(name: str) -> str:
    return name if name.isprintable() and len(name) <= _LONGEST_SHOWN else shorten(name)


class Remarks:
    """What is worth a word about jobs that can become mails."""

    def __init__(self) -> None:
        self._unsent: Counter[str] = Counter()
        self._unfilled: Counter[str] = Counter()

    def add(self, job: Job) -> None:
        """Looks at one more."""
        self._unsent.update(job.unsent)
        self._unfilled.update(job.unfilled)

    def sentences(self) -> Iterator[str]:
        """One for each kind of them."""
        if self._unsent:
            yield f"not sent: {_listed([name for name, _ in self._unsent.most_common()])} (docs/jobs.md)"
        if self._unfilled:
            names = _listed([name for name, _ in self._unfilled.most_common()])
            yield f"goes out as it stands: {names} (worker_placeholders, docs/jobs.md)"


def remarks(jobs: Iterable[object], settings: JobSettings, find: FindTemplate) -> Iterator[str]:
    """Sentences about jobs; those that can't become mails are passed over."""
    found = Remarks()
    for raw in jobs:
        with contextlib.suppress(InvalidJob):
            found.add(parse_job(raw, settings.defaults, find))
    yield from found.sentences()


def head_of_queue(client: "redis.Redis", bullmq: str) -> list[tuple[str, object]]:
    """The first waiting jobs of the app's queue, with their ids.

    Raises:
        redis.RedisError: Redis is away.
    """
    waiting: list[bytes] = client.lrange(f"{bullmq}:wait", -LOOKED_AT, -1)  # type: ignore[assignment]
    found: list[tuple[str, object]] = []
    for identity in islice(reversed(waiting), LOOKED_AT):
        data = client.hget(f"{bullmq}:{identity.decode(errors='replace')}", "data")
        if isinstance(data, bytes):
            try:
                found.append((identity.decode(errors="replace"), json.loads(data)))
            except (ValueError, RecursionError):
                found.append((identity.decode(errors="replace"), None))
    return found


def refusals(jobs: Iterable[tuple[str, object]], settings: JobSettings, find: FindTemplate) -> Iterator[str]:
    """A phrase for each job that would be refused."""
    for identity, raw in jobs:
        try:
            parse_job(raw, settings.defaults, find)
        except InvalidJob as error:
            yield f"job {identity}: {error}"
