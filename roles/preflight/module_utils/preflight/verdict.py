"""What a check says. Read by Python 3.8 too: a host whose Python is too old must be told so."""

from __future__ import annotations

from typing import NamedTuple


class Verdict(NamedTuple):
    """`level` is ok, warning or failure; the sentence of the last two ends with the way out."""

    level: str
    about: str
    sentence: str


def ok(about: str, sentence: str) -> Verdict:
    """It's well."""
    return Verdict("ok", about, sentence)


def warning(about: str, sentence: str) -> Verdict:
    """It works, but somebody should look at it."""
    return Verdict("warning", about, sentence)


def failure(about: str, sentence: str) -> Verdict:
    """The host can't become, or stay, a mail worker like this."""
    return Verdict("failure", about, sentence)


def listed(words: list[str], last: str = "and") -> str:
    """`a, b and c`."""
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))
