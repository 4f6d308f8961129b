"""Fields that stand in a job under two names: the same said twice is said once, and of two different things neither is
dropped in silence."""

from collections.abc import Set

from worker.errors import InvalidJob
from worker.mail.addresses import parse_addresses
from worker.mail.content import read_text, same_words
from worker.mail.fields import line
from worker.mail.shape import Shape, Twin

_PEOPLE = ("to", "cc", "bcc", "replyTo")
_TEXTS = ("html", "text", "body")
_LINES = ("from", "fromEmail", "fromName", "sender", "subject", "subscriberName", "unsubscribeUrl", "templateId")
_OF_A_TEMPLATE = ("templateId", "vars")


def contradiction(one: str, other: str) -> InvalidJob:
    """What is said of two names for one thing."""
    return InvalidJob(f"{one} and {other} say different things: queue one of them")


def untold_twins(shape: Shape, used: Set[str], *, has_template: bool) -> tuple[str, ...]:
    """Second names that mean something else in this job, and aren't sent.

    Args:
        used: fields that stand in the mail, in their placeholders.
        has_template: whether the text is a template's.

    Raises:
        InvalidJob: a twin says another thing than what is sent.
    """
    untold = []
    for twin in shape.twins:
        if twin.name.rpartition(".")[2] in used:
            continue
        if (twin.field in _OF_A_TEMPLATE and not has_template) or (twin.field == "to" and not _is_people(twin)):
            untold.append(twin.name)
        elif not _says_the_same(twin, shape.fields[twin.field]):
            raise InvalidJob(
                f"{contradiction(shape.names[twin.field], twin.name)}, or say in worker_job_fields which one is"
                f" {twin.field}"
            )
    return tuple(untold)


def _is_people(twin: Twin) -> bool:
    """A `recipient` may be a name, and an `email` a switch."""
    try:
        return bool(parse_addresses(twin.value, twin.name))
    except InvalidJob:
        return False


def _says_the_same(twin: Twin, kept: object) -> bool:
    if twin.field in _PEOPLE:
        mine, other = ({one.email for one in parse_addresses(value, twin.name)} for value in (kept, twin.value))
        return mine == other
    if twin.field in _TEXTS and not isinstance(twin.value, list) and not isinstance(kept, list):
        return same_words(read_text(kept, twin.field), read_text(twin.value, twin.name))
    if twin.field in _LINES and isinstance(kept, str) and isinstance(twin.value, str):
        return line(kept, twin.field) == line(twin.value, twin.field)
    return twin.value == kept
