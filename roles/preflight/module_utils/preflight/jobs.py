"""Whether the first jobs of the app's queue can become mails, by the worker's own rules: its package for reading jobs,
which needs nothing but Python, comes along."""

from __future__ import annotations

import base64
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, get_args


class JobsAnswer(NamedTuple):
    """Of the jobs that were read, what is wrong with those that would be refused, what isn't sent of the others, and
    what goes out as it stands, though it looks like a placeholder."""

    read: int
    refused: tuple[str, ...] = ()
    unsent: tuple[str, ...] = ()
    unfilled: tuple[str, ...] = ()


def judge_jobs(head: Sequence[str], package: str, settings: Mapping[str, object]) -> JobsAnswer | None:
    """None where nobody can tell, as on a Python that is too old for the package.

    Args:
        head: the jobs' data.
        package: `worker` as a zip file in base64.
        settings: mail_from, fields, attachment_hosts, placeholders; as in worker/base/settings.py.
    """
    if not head or not package:
        return None
    with _importable(package):
        try:
            from worker.errors import InvalidJob
            from worker.mail.addresses import parse_address
            from worker.mail.content import Placeholders
            from worker.mail.jobs import Defaults, parse_job, template_of
            from worker.mail.names import FieldNames, use_own_names
        except (ImportError, SyntaxError):
            return None
        own = settings.get("fields")
        names = own.items() if isinstance(own, dict) else ()
        known = ((FieldNames().known(str(ours)), str(theirs)) for ours, theirs in names)
        use_own_names({field[0]: theirs for field, theirs in known if field is not None})
        hosts, mail_from = settings.get("attachment_hosts"), str(settings.get("mail_from") or "")
        try:
            sender = parse_address(mail_from, "worker_mail_from") if mail_from else None
        except InvalidJob:
            return None  # Another task says so.
        defaults = Defaults(
            sender=sender,
            placeholders=next((one for one in get_args(Placeholders) if one == settings.get("placeholders")), "none"),
            attachment_hosts=tuple(map(str, hosts)) if isinstance(hosts, list) else (),
        )
        refused: list[str] = []
        unsent: dict[str, None] = {}
        unfilled: dict[str, None] = {}
        for data in head:
            try:
                raw = json.loads(data)
                if not template_of(raw):  # Those in Redis are the worker's matter.
                    job = parse_job(raw, defaults)
                    unsent.update(dict.fromkeys(name for name in job.unsent if name.replace(".", "_").isidentifier()))
                    unfilled.update(dict.fromkeys(name for name in job.unfilled if name.isprintable()))
            except (ValueError, RecursionError):
                refused.append("its data isn't JSON")
            except InvalidJob as error:
                refused.append(str(error))
    return JobsAnswer(len(head), tuple(refused), tuple(unsent), tuple(unfilled))


@contextlib.contextmanager
def _importable(package: str) -> Iterator[None]:
    with tempfile.NamedTemporaryFile(suffix=".zip") as file:
        file.write(base64.b64decode(package))
        file.flush()
        sys.path.insert(0, file.name)
        try:
            yield
        finally:
            sys.path.remove(file.name)
