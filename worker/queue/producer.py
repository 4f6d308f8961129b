"""Queues jobs from a file, as the web app would (`mail-worker enqueue`)."""

import csv
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO
from uuid import uuid4

import redis

from worker.base import keys
from worker.base.redis_client import REQUEST_BYTES
from worker.errors import InvalidFile, InvalidJob
from worker.mail.fields import shorten
from worker.mail.jobs import Defaults, Job, parse_job
from worker.mail.names import field_names
from worker.mail.shape import recipient_key
from worker.mail.templates import FindTemplate

#: In one transaction: few round trips, and no Redis stalls on it.
CHUNK_JOBS = 500
MAX_MISTAKES_SHOWN = 20
#: As lua/lanes.lua has it: a process would have to hold several copies of it at a time.
MAX_MESSAGE_BYTES = 8_000_000


def check_file(path: Path, defaults: Defaults, find: FindTemplate, seen: Callable[[Job], None]) -> int:
    """Checks every job of a JSON lines or CSV file; returns their number.

    Args:
        find: gives templates by their names.
        seen: gets each job that can become a mail.

    Raises:
        InvalidFile: with a sentence for each of the first mistakes, and their number. Nothing should be queued then.
    """
    mistakes: list[str] = []
    count = refused = 0
    for line, job in read_jobs(path):
        count += 1
        try:
            if isinstance(job, InvalidJob):
                raise job
            check_size(job)
            seen(parse_job(job, defaults, find))
        except InvalidJob as error:
            refused += 1
            if refused <= MAX_MISTAKES_SHOWN:
                mistakes.append(f"{path}:{line}: {error}.")
    if count == 0:
        raise InvalidFile(f"{path} holds no jobs.")
    if refused:
        shown = f"; the first {MAX_MISTAKES_SHOWN} are shown" if refused > MAX_MISTAKES_SHOWN else ""
        raise InvalidFile("\n".join((*mistakes, f"{path}: {refused:,} of {count:,} jobs would be refused{shown}.")))
    return count


def check_size(job: object) -> None:
    """Asks whether a job may be so long in Redis.

    Raises:
        InvalidJob: it mayn't.
    """
    if (size := len(_message(job, ""))) > MAX_MESSAGE_BYTES:
        raise InvalidJob(f"the job has {size:,} bytes; at most {MAX_MESSAGE_BYTES:,} are sent")


def read_jobs(path: Path) -> Iterator[tuple[int, object]]:
    """Line number and job, one by one; a line that can't be read comes as an `InvalidJob`.

    Args:
        path: `….csv` or `….tsv` with a header line of field names, or else JSON lines.

    Raises:
        InvalidFile: the file can't be read at all.
    """
    last = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            if path.suffix.lower() in (".csv", ".tsv"):
                csv.field_size_limit(sys.maxsize)
                # Otherwise a cell whose quote isn't closed takes all rows that follow for its text.
                rows = csv.DictReader(stream, delimiter=_delimiter(stream), strict=True)
                names = _column_names(rows.fieldnames or ())
                if twice := [name for name, times in Counter(names).items() if times > 1]:
                    raise InvalidFile(f"{path} has {twice[0]} twice in its header line: one of them would be lost.")
                rows.fieldnames = names
                last = rows.line_num
                for row in rows:
                    last = rows.line_num
                    yield last, _job_from_row(row)
            else:
                for number, text in enumerate(stream, start=1):
                    if text.strip():
                        yield number, _job_from_line(text)
    except OSError as error:
        raise InvalidFile(f"{path} can't be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise InvalidFile(f"{path} isn't UTF-8 text: save it as such (a spreadsheet's CSV UTF-8).") from None
    except csv.Error as error:
        raise InvalidFile(
            f"{path} isn't a CSV file from line {last + 1} on: a cell that begins with a quote must end with one, and"
            f" one within it is written twice ({error})."
        ) from None


def jobs_of(path: Path, campaign_id: str, subscribers: set[str]) -> Iterator[tuple[str, object]]:
    """Those recipients' jobs in a file, one of each, with the subscriber; jobs of all others are left alone.

    Raises:
        InvalidFile: the file can't be read at all.
    """
    left = set(subscribers)
    for _, job in read_jobs(path):
        recipient = recipient_key(job)
        if recipient is not None and recipient[0] == campaign_id and recipient[1] in left:
            left.discard(recipient[1])
            yield recipient[1], job


def enqueue(client: "redis.Redis", jobs: Iterator[object]) -> Iterator[int]:
    """Queues jobs in chunks; yields how many are queued so far.

    Raises:
        redis.RedisError: the chunks before it are queued, this one isn't.
    """
    queued = size = 0
    messages: dict[str, str] = {}
    for job in jobs:
        identity = str(uuid4())
        message = _message(job, identity)
        size += len(message)
        if messages and (len(messages) == CHUNK_JOBS or size > REQUEST_BYTES):
            _push(client, messages)
            yield (queued := queued + len(messages))
            messages, size = {}, len(message)
        messages[identity] = message
    if messages:
        _push(client, messages)
        yield queued + len(messages)


def _column_names(header: Sequence[str]) -> list[str]:
    """As jobs have them. Spreadsheets write columns without a name: what stands there isn't sent, and told."""
    names = ((number, name.strip()) for number, name in enumerate(header, start=1))
    return [field_names().spelled(name) if name else f"column {number}" for number, name in names]


def _delimiter(stream: TextIO) -> str:
    """What parts the header line's names most often: spreadsheets write semicolons where the comma is the decimal's."""
    header = stream.readline()
    stream.seek(0)
    outside = re.sub('"[^"]*"', "", header)
    return max(",;\t", key=outside.count)


def _job_from_line(text: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=_without_twins)
    except InvalidJob as error:
        return error
    except (ValueError, RecursionError) as error:
        return InvalidJob(f"the line isn't JSON, of which each line holds a job ({error})")


def _without_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Whoever writes a name twice means both."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise InvalidJob(f"{shorten(twice)} stands twice in the line: one of them would be lost")
    return found


def _job_from_row(row: "dict[str | None, str | list[str] | None]") -> object:
    if None in row:
        return InvalidJob(
            "the row has more cells than the header line: a cell with a comma, or whatever parts them, needs quotes"
        )
    return {name: value for name, value in row.items() if value}


def _message(job: object, identity: str) -> str:
    """A Dramatiq message; it wants all seven fields, and the id a second time in the options."""
    fields = {
        "queue_name": keys.QUEUE,
        "actor_name": keys.ACTOR,
        "args": [job],
        "kwargs": {},
        "options": {"redis_message_id": identity},
        "message_id": identity,
        "message_timestamp": int(time.time() * 1000),
    }
    return json.dumps(fields, separators=(",", ":"))


def _push(client: "redis.Redis", messages: dict[str, str]) -> None:
    with client.pipeline(transaction=True) as pipeline:
        pipeline.hset(keys.MESSAGES, mapping=messages)  # type: ignore[arg-type]  # dict is invariant
        pipeline.rpush(keys.WAITING, *messages)
        pipeline.execute()
