"""What of a job isn't sent: each name of it is told, and what the mail mustn't leave without is refused."""

import time
from collections.abc import Iterator, Mapping, Set
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from worker.errors import InvalidJob
from worker.mail.attachments import FILE_KEYS, HARMLESS_FILE_KEYS
from worker.mail.buffers import is_buffer
from worker.mail.fields import shorten
from worker.mail.names import ADDRESS_KEYS, field_names
from worker.mail.shape import EMPTY, Shape, Unsent

#: Clocks differ, and an app that delays a job until then may be a little early.
SLACK_SECONDS = 60
_OFF = (None, False, "", "no", "false", "off", "0")
_PERSON = ("name", *ADDRESS_KEYS)
_TEXT = ("content", "encoding")
#: Field → what is read of an object in it.
_READ: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(("to", "cc", "bcc", "from", "fromEmail", "sender", "replyTo"), frozenset(_PERSON)),
    **dict.fromkeys(("html", "text"), frozenset(_TEXT)),
    "body": frozenset((*_TEXT, "type", "value")),
    "attachments": frozenset((*FILE_KEYS, *HARMLESS_FILE_KEYS)),
    "icalEvent": frozenset(("method", "filename", *_TEXT)),
    "tags": frozenset(("name", "value")),
    "list": frozenset(("url", "comment")),
    "headers": frozenset(("key", "name", "value", "prepared", "foldLines")),
}
#: These are objects of names that the app chooses; what is in each is read.
_OF_NAMES = ("list", "headers")


def unsent_names(shape: Shape, used: Set[str], *, has_template: bool) -> tuple[str, ...]:
    """What isn't sent, and isn't known to be harmless.

    Args:
        used: names of the fields that stand in the mail, in its placeholders.
        has_template: whether the text is a template's.

    Raises:
        InvalidJob: the app wants the mail to leave later, or not to its recipient.
    """
    found = [one.path for one in shape.unsent if one.name not in used and not _is_nothing(one)]
    if "templateId" in shape.fields and not has_template:
        found.append(shape.names["templateId"])
    words = shape.fields.get("vars")
    if words is not None and not (isinstance(words, dict) and used & words.keys()):
        found.append(shape.names["vars"])
    found.extend(
        f"{path}.{key}"
        for path, field, inner in _objects(shape)
        for key, value in inner.items()
        if key not in _READ[field] and value not in EMPTY and not field_names().is_harmless(str(key))
    )
    return tuple(dict.fromkeys(found))


def _is_nothing(one: Unsent) -> bool:
    """Whether it's a switch that is off or a time that has passed.

    Raises:
        InvalidJob: it's on, or the time lies ahead.
    """
    names, value = field_names(), one.value
    if names.is_trial(one.name):
        if (switch := _switched_on(value, one.path)) is None:
            return not isinstance(value, dict) or all(key == "enable" or names.is_trial(str(key)) for key in value)
        raise InvalidJob(
            f"{switch} is on, but the mail would leave for real: queue no such job, or set worker_sandbox"
            " (MAIL_SANDBOX)"
        )
    if not names.is_time(one.name):
        return False
    if value is False or _seconds_ahead(value) <= SLACK_SECONDS:
        return True
    raise InvalidJob(
        f"{one.path} is {shorten(value)}, but a mail leaves as soon as a worker has its job: give the job a delay in"
        " the queue instead"
    )


def _switched_on(value: object, path: str) -> str | None:
    """Which switch is on: this one, or in an object `enable`, or another switch."""
    left = [(value, path)]
    # No recursion: a job may be as deep as JSON's reader can go.
    while left:
        value, path = left.pop()
        if isinstance(value, dict):
            inner = [(one, key) for key, one in value.items() if key == "enable" or field_names().is_trial(str(key))]
            left.extend((one, path if key == "enable" else f"{path}.{key}") for one, key in inner)
        elif (value.strip().lower() if isinstance(value, str) else value) not in _OFF:
            return path
    return None


def _seconds_ahead(value: object) -> float:
    """How far a time lies ahead: a date, or the seconds or milliseconds since 1970. What can't be read as one does so
    forever."""
    try:
        if isinstance(value, str):
            value = float(value) if value.strip().lstrip("-").replace(".", "", 1).isdigit() else _date(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return (value / 1000 if abs(value) > 1e11 else value) - time.time()
    except (ValueError, OverflowError, TypeError):
        pass
    return float("inf")


def _date(text: str) -> float:
    try:
        date = datetime.fromisoformat(text.strip())
    except ValueError:
        date = parsedate_to_datetime(text)
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def _objects(shape: Shape) -> Iterator[tuple[str, str, Mapping[object, object]]]:
    """Each object within a field: where it is, and which field that is."""
    for field, value in shape.fields.items():
        if not isinstance(value, (dict, list)) or field not in _READ or is_buffer(value):
            continue
        path = shape.names[field]
        places: list[tuple[str, object]] = [(path, value)]
        if isinstance(value, dict) and field in _OF_NAMES:
            places = [(f"{path}.{key}", one) for key, one in value.items()]
        for where, one in places:
            for inner in _flat(one):
                if isinstance(inner, dict):
                    yield where, field, inner


def _flat(value: object) -> Iterator[object]:
    if isinstance(value, list):
        for one in value:
            yield from _flat(one)
    else:
        yield value
