"""Checks of single values that somebody sent."""

import re

from worker.errors import InvalidJob

MAX_HEADER_CHARACTERS = 10_000

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def line(value: object, name: str, longest: int = MAX_HEADER_CHARACTERS) -> str:
    """One line of a header, without blanks around it.

    Raises:
        InvalidJob: it isn't a string, too long, or holds a control character.
    """
    if not isinstance(value, str):
        raise InvalidJob(f"{name} is {kind(value)}, but must be a string")
    if len(value) > longest:
        raise InvalidJob(f"{name} is longer than {longest:,} characters")
    text = value.strip()
    if _CONTROL.search(text):
        raise InvalidJob(f"{name} holds a line break or another control character: {shorten(text)}")
    return without_surrogates(text)


def without_surrogates(text: str) -> str:
    """JSON may hold half of a surrogate pair, which UTF-8 can't."""
    return text if text.isascii() else encoded(text)[0]


def encoded(text: str) -> tuple[str, bytes]:
    """The text without halves of surrogate pairs, and its bytes in UTF-8."""
    try:
        return text, text.encode("utf-8")
    except UnicodeEncodeError:
        text = _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)
        return text, text.encode("utf-8")


def escape_html(text: str) -> str:
    """The text as HTML shows it, also in quotes. `html.escape` does the same, but brings all of HTML's entities along:
    a third of a megabyte in each process."""
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&#x27;")):
        text = text.replace(character, entity)
    return text


def kind(value: object) -> str:
    """What a value is, as JSON calls it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    kinds = ((str, "a string"), (int | float, "a number"), (list, "a list"), (dict, "an object"))
    return next((name for one, name in kinds if isinstance(value, one)), f"a {type(value).__name__}")


def shorten(value: object) -> str:
    """A value as a sentence shows it."""
    try:
        text = repr(value[:200] if isinstance(value, str) else value)
    except RecursionError:
        return f"{kind(value)} that is too deep to be shown"
    return text if len(text) <= 80 else f"{text[:77]}…"
