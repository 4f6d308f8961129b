"""How a recipient unsubscribes: List-Unsubscribe (RFC 2369), where it has an https:// address by one click (8058)."""

import re
from collections.abc import Callable

from worker.errors import InvalidJob
from worker.mail.fields import line, shorten
from worker.mail.header_fields import LONGEST_WORD
from worker.mail.job_headers import Fields
from worker.mail.twins import contradiction

ONE_CLICK = ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click")
_NAME = "List-Unsubscribe"
_OWN = frozenset((_NAME.lower(), ONE_CLICK[0].lower()))
# Between < and >.
_LONGEST_URL = LONGEST_WORD - 2
_ENTRY = re.compile(r"\s*<([^<>]*)>\s*((?:\((?:[^()\\]|\\.)*\)\s*)*)(?:,|$)", re.DOTALL)
_BETWEEN = re.compile(r",\s+|\s+")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:[!-~]+", re.IGNORECASE)
_MAILBOX = re.compile(r"[^@\s:/]+@[^@\s:/]+")


def read_unsubscribe_url(value: object, name: str) -> str | None:
    """An address for RFC 8058.

    Raises:
        InvalidJob: it isn't one.
    """
    if value is None:
        return None
    url = line(value, name)
    # RFC 8058 asks for https; the URL stands between < and > in the header.
    if not re.fullmatch(r"https://[!-;=?-~]+", url):
        raise InvalidJob(f"{name} must be an https:// address without spaces: {shorten(url)}")
    if len(url) > _LONGEST_URL:
        raise InvalidJob(
            f"{name} has {len(url):,} characters, but a mail's line takes {_LONGEST_URL} (RFC 5322), and"
            f" a URL can't be split: {shorten(url)}"
        )
    return url


def with_unsubscribing(
    named: Fields, fields: Fields, url: str | None, called: Callable[[str], str]
) -> tuple[Fields, tuple[str, ...]]:
    """The fields with one List-Unsubscribe, in which `url` stands beside what else is there; and the names of what
    isn't sent for it.

    Args:
        named: those of the fields that don't stand among the app's `headers`.
        called: what the app calls `headers`, `list` and `unsubscribeUrl`.

    Raises:
        InvalidJob: the field can't be read, or `list` has another address on the web.
    """
    own = [(name.lower(), value) for name, value in fields if name.lower() in _OWN]
    if not own:
        return (fields if url is None else (*fields, (_NAME, f"<{url}>"), ONE_CLICK)), ()
    in_list = any(name == _NAME for name, _ in named)
    where = f"{called('list')}.unsubscribe" if in_list else f"{called('headers')}.{_NAME}"
    entries = [entry for name, value in own if name == _NAME.lower() for entry in _entries(value, where)]
    posts = [(name, value) for name, value in own if name != _NAME.lower()]
    unsent: dict[str, None] = {}
    if url is not None:
        others = [entry for entry in entries if _is_web(entry) and entry[0] != url]
        if others and in_list:
            raise contradiction(called("unsubscribeUrl"), where)
        unsent |= dict.fromkeys(where for _ in others)
        unsent |= {f"{called('headers')}.{ONE_CLICK[0]}": None for _, value in posts if not _is_one_click(value)}
        entries = [entry for entry in entries if entry not in others]
        if not any(address == url for address, _ in entries):
            entries.insert(0, (url, ""))
        posts = [ONE_CLICK]
    written = ", ".join(f"<{address}> {comment}".rstrip() for address, comment in entries)
    kept = (field for field in fields if field[0].lower() not in _OWN)
    return (*kept, *([(_NAME, written)] if written else []), *((ONE_CLICK[0], value) for _, value in posts)), tuple(
        unsent
    )


def check_one_click(fields: Fields) -> None:
    """Asks whether there's an address for the one click that the fields promise.

    Raises:
        InvalidJob: there's none.
    """
    by_name = {name.lower(): value for name, value in fields}
    post = by_name.get(ONE_CLICK[0].lower())
    if post is None:
        return
    if not _is_one_click(post):
        raise InvalidJob(f"headers.{ONE_CLICK[0]} must be {ONE_CLICK[1]} (RFC 8058): {shorten(post)}")
    if "<https://" not in by_name.get(_NAME.lower(), "").lower():
        raise InvalidJob(
            f"headers.{ONE_CLICK[0]} promises one click, but there's no {_NAME} with an https:// address (RFC 8058)"
        )


def _is_one_click(value: str) -> bool:
    return value.replace(" ", "").lower() == ONE_CLICK[1].lower()


def _is_web(entry: tuple[str, str]) -> bool:
    return entry[0].lower().startswith(("https:", "http:"))


def _entries(value: str, where: str) -> list[tuple[str, str]]:
    """Each address with the comment behind it. Apps forget the brackets, for which mailbox providers pass it over, and
    put blanks into them."""
    if "<" not in value:
        found = [(one, "") for one in _BETWEEN.split(value.strip())]
    else:
        found, at = [], 0
        while entry := _ENTRY.match(value, at):
            found.append(("".join(entry[1].split()), entry[2].strip()))
            at = entry.end()
            if at == len(value):
                break
        if at < len(value):
            found = []
    entries = [(f"mailto:{one}" if _MAILBOX.fullmatch(one) else one, comment) for one, comment in found]
    if not entries or not all(_SCHEME.fullmatch(address) for address, _ in entries):
        raise InvalidJob(
            f"{where} must be addresses in < and >, such as <https://example.com/off>, <mailto:off@example.com>"
            f" (RFC 2369): {shorten(value)}"
        )
    return entries
