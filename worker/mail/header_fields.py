"""Header fields as a mail's lines: RFC 5322 (folding), RFC 2047 (encoded words).

A reader gets back exactly what the app queued. A mail is ASCII, apart from addresses that need SMTPUTF8 (RFC 6531)."""

import base64
import re
from email.utils import quote

from worker.errors import InvalidJob
from worker.mail.addresses import Address
from worker.mail.fields import shorten

_CRLF = "\r\n"
# RFC 5322, 2.1.1: a line has at most 998 characters, and should have 78.
_LONGEST_LINE = 998
_FOLD_BEYOND = 78
#: What fits a line of its own, behind the blank that makes it a continuation.
LONGEST_WORD = _LONGEST_LINE - 1
# Beside the longest field name.
_LONGEST_FIRST_WORD = 900
# RFC 2047, 2: a line with encoded words has at most 76 characters; with its blank, a word of so many bytes has 73.
_LONGEST_ENCODED_LINE = 76
_ENCODED_WORD_BYTES = 45
_AROUND_ENCODED = len("=?utf-8?b??=")
# Readers take it for an encoded word wherever it stands, in quotes too.
_LOOKS_ENCODED = "=?"

# Fields of addresses, URLs, ids and tokens, which can't be encoded (RFC 2047, 5) and break when they are cut: mailbox
# providers ignore an encoded List-Unsubscribe.
_STRUCTURED = frozenset(
    "archived-at auto-submitted disposition-notification-to dkim-signature errors-to feedback-id in-reply-to "
    "mail-followup-to mail-reply-to precedence references return-receipt-to".split()
)
_STRUCTURED_PREFIXES = ("list-", "resent-")

_WORD = re.compile(r" *[^ ]+")
_IN_BRACKETS = re.compile(r"<[^<>]*>")
# What may be a name beside them.
_PHRASE = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^"<>,;])+')
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')


def text_field(name: str, value: str) -> str:
    """Any words: folded at blanks. What isn't ASCII, looks encoded or fits no line becomes encoded words."""
    if not value.isascii() or _LOOKS_ENCODED in value:
        return f"{name}: {_encoded(value, name)}"
    if len(name) + 2 + len(value) <= _FOLD_BEYOND:
        return f"{name}: {value}"
    words = _WORD.findall(value)
    if max(map(len, words)) > _LONGEST_FIRST_WORD:
        return f"{name}: {_encoded(value, name)}"
    return _folded(name, words, _FOLD_BEYOND)


def text_value(value: str) -> str:
    """Any words for a place in a field, such as a comment: as they are, or as encoded words on the same line."""
    return value if value.isascii() and _LOOKS_ENCODED not in value else _encoded(value).replace(_CRLF, "")


def address_field(name: str, *addresses: Address) -> str:
    """One mailbox or several, which stand on a line each. An address is never encoded or cut."""
    # A line that goes on has no name in front of its blank.
    others = [_mailbox("", address).removeprefix(":") for address in addresses[1:]]
    return f",{_CRLF}".join((_mailbox(name, addresses[0]), *others))


def _mailbox(name: str, address: Address) -> str:
    if not address.name:
        return f"{name}: {address.email}"
    if address.name.isascii() and _LOOKS_ENCODED not in address.name:
        value = f'"{quote(address.name)}" <{address.email}>'
        if len(name) + 2 + len(value) <= _FOLD_BEYOND:
            return f"{name}: {value}"
        words = _WORD.findall(value)
        if max(map(len, words)) <= _LONGEST_FIRST_WORD:
            return _folded(name, words, _FOLD_BEYOND)
    return f"{name}: {_encoded(address.name, name)}{_CRLF} <{address.email}>"


def job_field(name: str, value: str) -> str:
    """A field that the app named. One of addresses or URLs stays on one line where it fits: some relays break a
    signature over a List-Unsubscribe that is folded (nodemailer, issue 1654).

    Raises:
        InvalidJob: it can't stand in a mail.
    """
    return _structured(name, value) if _is_structured(name) else text_field(name, value)


def check_field(name: str, value: str) -> None:
    """Asks whether a field can stand in a mail.

    Raises:
        InvalidJob: it names the field and what is wrong with it.
    """
    if _is_structured(name):
        _structured(name, value)


def _is_structured(name: str) -> bool:
    lower = name.lower()
    return lower in _STRUCTURED or lower.startswith(_STRUCTURED_PREFIXES)


def _structured(name: str, value: str) -> str:
    ascii_value = value if value.isascii() else _encode_phrases(name, value)
    if len(name) + 2 + len(ascii_value) <= _LONGEST_LINE:
        return f"{name}: {ascii_value}"
    words = _WORD.findall(ascii_value)
    if (longest := max(map(len, words))) > LONGEST_WORD:
        raise InvalidJob(
            f"headers.{name} holds {longest:,} characters without a blank, but a mail's line has {LONGEST_WORD} at most"
            f" (RFC 5322), and an address or URL can't be split: {shorten(value)}"
        )
    return _folded(name, words, _LONGEST_LINE)


def _encode_phrases(name: str, value: str) -> str:
    def encode(found: re.Match[str]) -> str:
        phrase = found[0]
        if phrase.isascii():
            return phrase
        words = _QUOTED.sub(lambda quoted: re.sub(r"\\(.)", r"\1", quoted[1]), phrase).strip()
        before, after = phrase[: len(phrase) - len(phrase.lstrip())], phrase[len(phrase.rstrip()) :]
        return f"{before}{_encoded(words).replace(_CRLF, '')}{after}"

    outside = _IN_BRACKETS.sub("", value)
    inside = "".join(_IN_BRACKETS.findall(value))
    bare = "".join(phrase for phrase in _PHRASE.findall(_QUOTED.sub("", outside)) if not phrase.isascii())
    if not inside.isascii() or "@" in bare or ":" in bare:
        raise InvalidJob(
            f"headers.{name} holds an address or URL with non-ASCII characters, which can't be encoded there (in a URL,"
            f" percent-encode them): {shorten(value)}"
        )
    # An encoded word in brackets would be read as a part of the address.
    parts = re.split(f"({_IN_BRACKETS.pattern})", value)
    return "".join(part if part.startswith("<") else _PHRASE.sub(encode, part) for part in parts)


def _folded(name: str, words: list[str], limit: int) -> str:
    """Each word has the blanks before it with it: a fold adds none, and no line is all blanks."""
    lines, line = [], f"{name}: {words[0]}"
    if len(line) > _LONGEST_LINE:
        lines, line = [f"{name}:"], f" {words[0]}"
    for word in words[1:]:
        if len(line) + len(word) > limit:
            lines.append(line)
            line = word
        else:
            line += word
    return _CRLF.join((*lines, line))


def _encoded(value: str, name: str = "") -> str:
    """RFC 2047: encoded words, one on a line, none of which cuts a character in two. The first has `name` before it."""
    words, start, raw = [], 0, value.encode("utf-8")
    room = (_LONGEST_ENCODED_LINE - len(name) - 2 - _AROUND_ENCODED) // 4 * 3
    # A name that leaves no room can't be folded.
    size = min(room, _ENCODED_WORD_BYTES) if room > 3 else _ENCODED_WORD_BYTES
    while start < len(raw):
        end = min(start + size, len(raw))
        while end < len(raw) and raw[end] & 0xC0 == 0x80:
            end -= 1
        words.append(f"=?utf-8?b?{base64.b64encode(raw[start:end]).decode()}?=")
        start, size = end, _ENCODED_WORD_BYTES
    return f"{_CRLF} ".join(words)
