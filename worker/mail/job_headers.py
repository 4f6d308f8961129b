"""Header fields that a job asks for: `headers` in each of its forms, and nodemailer's names for single ones."""

import re
from collections.abc import Callable, Iterable, Mapping
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.utils import quote

from worker.errors import InvalidJob
from worker.mail.fields import kind, line, shorten
from worker.mail.header_fields import check_field, text_value
from worker.mail.names import snake_case

Fields = tuple[tuple[str, str], ...]

MAX_FIELDS = 100
# RFC 5322 field names, without those that the worker writes itself.
_NAME = re.compile(r"[!-9;-~]{1,76}")
_RESERVED = frozenset(
    "bcc cc content-disposition content-transfer-encoding content-type date from message-id mime-version"
    " return-path sender subject to".split()
)
_OF_IDS = ("in-reply-to", "references")
_MESSAGE_ID = re.compile(r"<[!-;=?-~]+>")
_URL = re.compile(r"(https?|mailto|ftp):", re.IGNORECASE)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:/{0,2}", re.IGNORECASE)
# As mail programs know them.
_PRIORITIES = {"high": ("1 (Highest)", "High", "High"), "low": ("5 (Lowest)", "Low", "Low"), "normal": None}


def read_headers(value: object, called: str = "headers") -> Fields:
    """`{name: value}`, `{name: [value, …]}` or `[{key, value}, …]`; nodemailer's value may be `{value, prepared}`.

    Args:
        called: what the app calls it.

    Raises:
        InvalidJob: it names the field and what is wrong with it.
    """
    fields: list[tuple[str, str]] = []
    for name, content in _pairs(value, called):
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidJob(f"{called} holds a name that isn't a mail header's: {shorten(name)}")
        if name.lower() in _RESERVED:
            raise InvalidJob(f"{called} can't set {name}: the worker writes it")
        for one in content if isinstance(content, list) else [content]:
            text = _field_text(one, f"{called}.{name}")
            # Queued empty, it's nothing.
            if not text:
                continue
            if name.lower() in _OF_IDS and "<" not in text:
                text = _ids(text, f"{called}.{name}")
            check_field(name, text)
            fields.append((name, text))
    if len(fields) > MAX_FIELDS:
        raise InvalidJob(f"{called} holds {len(fields)} fields; at most {MAX_FIELDS} are sent")
    return tuple(fields)


def named_fields(fields: Mapping[str, object], called: Callable[[str], str] = str) -> Fields:
    """What `inReplyTo`, `references`, `list` and `priority` ask for.

    Args:
        called: what the app calls each.

    Raises:
        InvalidJob: one of them can't stand in a mail.
    """
    found: list[tuple[str, str]] = []
    if "inReplyTo" in fields:
        found.append(("In-Reply-To", _ids(fields["inReplyTo"], called("inReplyTo"))))
    if "references" in fields:
        found.append(("References", _ids(fields["references"], called("references"))))
    if "list" in fields:
        found.extend(_list_fields(fields["list"], called("list")))
    found.extend(_priority_fields(fields.get("priority"), called("priority")))
    for name, value in found:
        check_field(name, value)
    return tuple(found)


def read_message_id(value: object, name: str = "messageId") -> str:
    """An app's own Message-ID; empty without one.

    Raises:
        InvalidJob: it isn't one.
    """
    return "" if value is None else _ids(value, name, most=1)


def _field_text(value: object, name: str) -> str:
    if isinstance(value, dict) and "value" in value:
        text = _field_text(value["value"], name)
        # Whoever prepared it has encoded it.
        return _decoded(text, name) if value.get("prepared") and "=?" in text else text
    if value is None or value is False:
        return ""
    if value is True:
        return "true"
    return line(str(value) if _is_number(value) else value, name)


def _decoded(text: str, name: str) -> str:
    try:
        # What was hidden in it mustn't be another line.
        return line(str(make_header(decode_header(text))), name)
    except (LookupError, ValueError, HeaderParseError):
        raise InvalidJob(f"{name} isn't encoded as RFC 2047 has it: {shorten(text)}") from None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _pairs(value: object, name: str) -> Iterable[tuple[object, object]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        for one in value:
            if not isinstance(one, dict) or "value" not in one or not ("key" in one or "name" in one):
                raise InvalidJob(f"{name} is a list, so each of it must be {{key, value}}: {shorten(one)}")
            yield one.get("key", one.get("name")), one["value"]
    else:
        raise InvalidJob(f"{name} is {kind(value)}, but must be an object of strings")


def _ids(value: object, name: str, most: int = 1000) -> str:
    """Message-IDs with their brackets, as apps often leave them out."""
    values = value if isinstance(value, list) else [value]
    ids = [f"<{one.strip('<>')}>" for each in values for one in re.split(r"[\s,]+", line(each, name)) if one]
    if not ids or len(ids) > most or not all(_MESSAGE_ID.fullmatch(one) for one in ids):
        raise InvalidJob(f"{name} isn't a mail's Message-ID like <id@example.com>: {shorten(value)}")
    return " ".join(ids)


def _priority_fields(value: object, name: str) -> Fields:
    # A number is the queue's.
    if value is None or _is_number(value):
        return ()
    words = line(value, name).lower()
    if words not in _PRIORITIES:
        raise InvalidJob(f"{name} is {shorten(value)}, but must be high, normal or low")
    values = _PRIORITIES[words]
    return () if values is None else tuple(zip(("X-Priority", "X-MSMail-Priority", "Importance"), values, strict=True))


def _list_fields(value: object, called: str) -> Fields:
    """nodemailer's `list`: `{unsubscribe: {url, comment}, help: "…", id: …}`, each also as a list."""
    if not isinstance(value, dict):
        raise InvalidJob(f"{called} is {kind(value)}, but must be an object like {{unsubscribe: …}}")
    fields: list[tuple[str, str]] = []
    for key, content in value.items():
        name = f"{called}.{key}"
        if not isinstance(key, str) or not re.fullmatch("[A-Za-z-]{1,40}", key):
            raise InvalidJob(f"{called} holds a name that isn't a mail header's: {shorten(key)}")
        header = "List-" + "-".join(part.capitalize() for part in snake_case(key).replace("_", "-").split("-"))
        if header.lower() == "list-id":
            header = "List-ID"
        # A list within a list is one header field of several addresses.
        for group in content if isinstance(content, list) else [content]:
            entries = [
                _list_entry(one, header, name)
                for one in (group if isinstance(group, list) else [group])
                if not _is_empty(one)
            ]
            if entries:
                fields.append((header, ", ".join(entries)))
    if len(fields) > MAX_FIELDS:
        raise InvalidJob(f"{called} holds {len(fields)} fields; at most {MAX_FIELDS} are sent")
    return tuple(fields)


def _is_empty(value: object) -> bool:
    """An app's own "none": nodemailer writes no header for it."""
    url = value.get("url") if isinstance(value, dict) else value
    return url is None or url == ""


def _list_entry(value: object, header: str, name: str) -> str:
    url, comment = (value.get("url"), value.get("comment")) if isinstance(value, dict) else (value, None)
    address = re.sub(r"[\s<>]+", "", line(url, name))
    words = "" if comment is None else line(comment, f"{name}.comment")
    if header == "List-Unsubscribe-Post":
        return address
    if header == "List-ID":
        # RFC 2919: an identifier, which only looks like a domain.
        address = _SCHEME.sub("", address)
        written = text_value(words)
        return f'"{quote(words)}" <{address}>' if written == words != "" else f"{written} <{address}>".strip()
    if not _URL.match(address):
        address = f"mailto:{address}" if re.fullmatch(r"[^@]+@[^@]+", address) else f"http://{address}"
    # RFC 5322, 3.2.2: what would end a comment, or begin one within it, has a backslash.
    written = text_value(words)
    comment = re.sub(r"([()\\])", r"\\\1", words) if written == words else written
    return f"<{address}> ({comment})" if words else f"<{address}>"


def with_named(named: Fields, fields: Fields) -> Fields:
    """Both; what has a name of its own in the job counts before the same among its `headers`."""
    names = {name.lower() for name, _ in named}
    return (*named, *(field for field in fields if field[0].lower() not in names))


def overruled_names(named: Fields, fields: Fields, called: str) -> tuple[str, ...]:
    """Those of the `headers` in whose place goes out what has a name of its own in the job."""
    values: dict[str, set[str]] = {}
    for name, value in named:
        values.setdefault(name.lower(), set()).add(_gist(name, value))
    return tuple(
        f"{called}.{name}"
        for name, value in fields
        if name.lower() in values and _gist(name, value) not in values[name.lower()]
    )


def _gist(name: str, value: str) -> str:
    words = value.lower().split()
    # `1` is what guides show for `1 (Highest)`.
    return "".join(words[:1] if name.lower() == "x-priority" else words)


def reply_to_of(fields: Fields) -> tuple[Fields, object]:
    """The fields without Reply-To, and what that says: it's the mail's replyTo."""
    values = [value for name, value in fields if name.lower() == "reply-to"]
    return tuple(field for field in fields if field[0].lower() != "reply-to"), values or None
