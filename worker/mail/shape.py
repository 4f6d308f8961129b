"""A job's fields under the names that this project uses, whatever the app called them and wrapped them in; and whose
mail it is. lua/ids.lua reads campaign and subscriber by the same rules: ids.json and recipients.json in tests/vectors
hold both to them."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from worker.errors import InvalidJob
from worker.mail.addresses import ascii_domain
from worker.mail.fields import kind, shorten, without_surrogates
from worker.mail.names import ADDRESS_KEYS, FieldNames, field_names

MAX_ID_CHARACTERS = 200
_LARGEST_WHOLE = 2**53
_BLANKS = " \t\n\v\f\r"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
#: Queued so, a field is nothing.
EMPTY: tuple[object, ...] = (None, "", [], {})
_IN_BRACKETS = re.compile(r"<([^<>]*)>$")
_BEFORE_COMMENT = re.compile(r"([^ \t\n\v\f\r()]+)[ \t\n\v\f\r]+\(")
#: So deep, and so many, a sentence tells of mails where nobody looks for them.
_DEEPEST, _SHOWN_MAILS = 5, 3
_IDS = ("campaignId", "subscriberId")
_SENDER = ("from", "fromEmail", "fromName", "sender")
#: No id has a control character.
_UNFINISHED = "\x01"
_UPPER_TO_LOWER = {number: number + 32 for number in range(ord("A"), ord("Z") + 1)}


@dataclass(frozen=True, slots=True)
class Twin:
    """A field that is there already under another name."""

    field: str
    name: str
    value: object


@dataclass(frozen=True, slots=True)
class Unsent:
    """What isn't sent, and isn't known to be harmless."""

    #: Where it stands, such as `mailOptions.colour`.
    path: str
    #: What it's called there.
    name: str
    value: object


@dataclass(frozen=True, slots=True)
class Shape:
    """What a job holds."""

    #: By the names of worker/mail/names.py; nothing empty.
    fields: dict[str, object]
    #: Each field's name in the job, such as `mailOptions.to`.
    names: dict[str, str]
    unsent: list[Unsent]
    #: Where they were, the first one first.
    parts: tuple[Mapping[str, object], ...]
    #: What stands in the job under a second name for a field, and isn't the same.
    twins: list[Twin]

    def called(self, field: str) -> str:
        """The field's name as a sentence says it: the app's, if it has queued it."""
        return self.names.get(field, field)

    def is_own(self, field: str) -> bool:
        """Whether it has the app's own name, which counts before all others."""
        return self.names.get(field, "").rpartition(".")[2] in field_names().own(field)

    def is_left_empty(self, field: str) -> bool:
        """Whether the app has queued it as a text of nothing."""
        names = field_names().of(field)
        return field in self.fields or any(part.get(name) == "" for part in self.parts for name in names)

    @property
    def data(self) -> dict[str, object]:
        """All that a placeholder may stand for."""
        # The name of a job that wraps a mail is the queue's.
        inner, outer = self.parts[0], self.parts[1] if len(self.parts) > 1 else {}
        return {**{name: value for name, value in outer.items() if name != "name"}, **inner}


def read_shape(raw: object) -> Shape:
    """Finds a mail's fields.

    Raises:
        InvalidJob: it's no object, or holds what can't be sent.
    """
    if not isinstance(raw, dict):
        raise InvalidJob(f"the job is {kind(raw)}, but must be an object with to, subject and html")
    names = field_names()
    job = _object(raw)
    wrapper = _wrapper(job, names)
    if wrapper is None:
        shape = Shape({}, {}, [], (job,), [])
        _read_part(shape, job, "", names)
        return shape
    inner, outer = _object(job[wrapper]), {name: value for name, value in job.items() if name != wrapper}
    shape = Shape({}, {}, [], (inner, outer), [])
    _read_part(shape, inner, f"{wrapper}.", names)
    _read_part(shape, outer, "", names)
    return shape


def _read_part(shape: Shape, part: Mapping[str, object], prefix: str, names: FieldNames) -> None:
    """Adds what it has of the mail; a field that another part has stays."""
    ranks: dict[str, int] = {}
    twins: list[Twin] = []
    for name, value in part.items():
        if value in EMPTY:
            continue
        if known := names.all.get(name):
            canonical, rank = known
            if canonical in ranks:
                twin = Twin(canonical, prefix + name, value)
                if rank < ranks[canonical]:
                    twin = Twin(canonical, shape.names[canonical], shape.fields[canonical])
                    ranks[canonical] = rank
                    shape.fields[canonical], shape.names[canonical] = value, prefix + name
                twins.append(twin)
            elif canonical not in shape.fields:
                ranks[canonical] = rank
                shape.fields[canonical], shape.names[canonical] = value, prefix + name
            elif shape.fields[canonical] != value:
                shape.unsent.append(Unsent(prefix + name, name, value))
        elif reason := names.refused(name):
            if value:
                raise InvalidJob(f"{name} can't be sent: {reason}")
        elif not names.is_harmless(name):
            shape.unsent.append(Unsent(prefix + name, name, value))
    for twin in twins:
        if twin.value == shape.fields[twin.field]:
            continue
        # Who names a field has said which one counts.
        name = twin.name.removeprefix(prefix)
        if shape.is_own(twin.field) and name not in names.own(twin.field):
            shape.unsent.append(Unsent(twin.name, name, twin.value))
        elif twin.field not in _IDS:
            shape.twins.append(twin)


def with_sender(raw: dict[str, object], sender: str) -> dict[str, object]:
    """The job with another sender instead of its own, by whatever name and wherever that stands."""
    names = field_names()
    own = {name for field in _SENDER for name in names.of(field)}
    wrapper = _wrapper(_object(raw), names)
    inner = {} if wrapper is None else {wrapper: {n: v for n, v in _object(raw[wrapper]).items() if n not in own}}
    return {**{name: value for name, value in raw.items() if name not in own}, **inner, "from": sender}


def recipient_key(raw: object) -> tuple[str, str] | None:
    """The campaign and subscriber of a job that may be broken otherwise, or None."""
    if not isinstance(raw, dict):
        return None
    names = field_names()
    job = _object(raw)
    wrapper = _wrapper(job, names)
    parts = (job,) if wrapper is None else (_object(job[wrapper]), job)
    try:
        campaign_id = _one_id(parts, names, "campaignId")
        if campaign_id is None:
            return None
        subscriber_id = _one_id(parts, names, "subscriberId") or _address_id(parts[0], names.of("to"))
    except InvalidJob:
        return None
    return None if subscriber_id is None else (campaign_id, subscriber_id)


def ids_of(shape: Shape) -> tuple[str | None, str | None]:
    """The job's campaign and subscriber: both, or neither for a mail outside any campaign. A campaign's job without a
    subscriber's id has its address instead.

    Raises:
        InvalidJob: one of them isn't an id, there are two, or a subscriber's is there alone.
    """
    names = field_names()
    campaign_id, subscriber_id = (_one_id(shape.parts, names, name) for name in _IDS)
    if campaign_id is None:
        if subscriber_id is not None:
            raise InvalidJob("subscriberId is set, but campaignId isn't: they go together")
        return None, None
    if subscriber_id is None:
        subscriber_id = _address_id({"to": shape.fields.get("to")}, ("to",))
        if subscriber_id is None:
            raise InvalidJob(
                f"campaignId is set, but neither a subscriberId nor one address that could stand for it{deeper(shape)}"
            )
    return campaign_id, subscriber_id


def deeper(shape: Shape) -> str:
    """Where mails stand that nobody looks for, as the end of a sentence that misses a recipient; else nothing."""
    names = field_names()
    found = [path for part in shape.parts for path in _mails_within(part, "", names)]
    if not found:
        return ""
    words = f"{' and '.join(found[:_SHOWN_MAILS])} {'has' if len(found) == 1 else 'have'} one"
    return f": {words}, but a mail is the job itself or the only object in it that has one"


def _mails_within(fields: Mapping[str, object], prefix: str, names: FieldNames, depth: int = 0) -> Iterator[str]:
    for name, value in fields.items():
        if not isinstance(value, dict) or name in names.no_wrappers:
            continue
        if _has_recipient(value, names) and _has_any(value, names.contents):
            yield prefix + name
        elif depth < _DEEPEST:
            yield from _mails_within(_object(value), f"{prefix}{name}.", names, depth + 1)


def read_id(value: object, name: str) -> str | None:
    """A campaign's or subscriber's id as text; None if there's none.

    Raises:
        InvalidJob: it isn't one.
    """
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InvalidJob(f"{name} is {kind(value)}, but must be a string or a whole number")
    if isinstance(value, int) and abs(value) > _LARGEST_WHOLE:
        raise InvalidJob(f"{name} is a number beyond 2^53, which not every reader keeps whole: queue it as a string")
    text = without_surrogates(str(value).strip(_BLANKS))
    if not text or _CONTROL.search(text):
        raise InvalidJob(f"{name} is blank or holds a control character: {shorten(value)}")
    if len(text) > MAX_ID_CHARACTERS:
        raise InvalidJob(f"{name} is longer than {MAX_ID_CHARACTERS} characters")
    return text


def _object(value: object) -> dict[str, object]:
    # JSON has no other names, but a file or a test may.
    return {name: inner for name, inner in value.items() if isinstance(name, str)} if isinstance(value, dict) else {}


def _wrapper(job: Mapping[str, object], names: FieldNames) -> str | None:
    """The only object that has a recipient and a content, if the job itself names no recipient and has no text. People
    who stand in a job besides, such as its author, are no recipients."""
    for name in names.of("to"):
        value = job.get(name)
        if name in job and not (isinstance(value, dict) and value and not _may_be_recipient(value)):
            return None
    if _has_any(job, names.texts, but_for_objects=True):
        return None
    wrappers = [
        name
        for name, value in job.items()
        if isinstance(value, dict)
        and name not in names.no_wrappers
        and _has_recipient(value, names)
        and _has_any(value, names.contents)
    ]
    return wrappers[0] if len(wrappers) == 1 else None


def _has_any(fields: Mapping[str, object], names: tuple[str, ...], *, but_for_objects: bool = False) -> bool:
    return any(
        fields.get(name) not in EMPTY and not (but_for_objects and isinstance(fields[name], dict)) for name in names
    )


def _has_recipient(fields: Mapping[str, object], names: FieldNames) -> bool:
    return any(_may_be_recipient(fields.get(name)) for name in names.of("to"))


def _may_be_recipient(value: object) -> bool:
    if isinstance(value, dict):
        return any(isinstance(value.get(key), str) and value[key] != "" for key in ADDRESS_KEYS)
    return (isinstance(value, list) and value != []) or (isinstance(value, str) and value != "")


def _one_id(parts: tuple[Mapping[str, object], ...], names: FieldNames, field: str) -> str | None:
    for group in names.ranked(field):
        found = [
            (name, read_id(part[name], name))
            for part in parts
            for name in group
            if name in part and part[name] not in EMPTY
        ]
        for name, other in found[1:]:
            if other != found[0][1]:
                raise InvalidJob(f"{found[0][0]} and {name} hold different ids: queue one of them")
        if found:
            return found[0][1]
    return None


def _address_id(fields: Mapping[str, object], names: tuple[str, ...]) -> str | None:
    """The first recipient's address, its domain in ASCII and small letters: one id for all spellings of a domain."""
    value = next((fields[name] for name in names if fields.get(name) not in EMPTY), None)
    if isinstance(value, list):
        value = value[0] if len(value) == 1 else None
    if isinstance(value, dict):
        value = next((value[key] for key in ADDRESS_KEYS if isinstance(value.get(key), str) and value[key]), None)
    elif isinstance(value, str):
        text = value.strip(_BLANKS + ",;")
        found = _IN_BRACKETS.search(text) or _BEFORE_COMMENT.match(text)
        value = text if found is None else found[1]
    if not isinstance(value, str):
        return None
    local, at, domain = value.strip(_BLANKS).rpartition("@")
    if not at:
        return None
    try:
        address = read_id(f"{local}@{domain.translate(_UPPER_TO_LOWER)}", "to")
    except InvalidJob:
        return None
    return address if address is None or domain.isascii() else _with_ascii_domain(address)


def read_recipient(found: str) -> str | None:
    """A subscriber as lua/ids.lua returns it. Redis has no tables of what Unicode's letters are the same, so what
    stands for a recipient there may be an address whose domain isn't in ASCII yet."""
    return _with_ascii_domain(found[1:]) if found.startswith(_UNFINISHED) else found


def _with_ascii_domain(address: str) -> str | None:
    local, _, domain = address.rpartition("@")
    try:
        return read_id(f"{local}@{ascii_domain(domain, 'to')}", "to")
    except InvalidJob:
        # No such domain, so no mail either; the job's failure needs a name.
        return address
