"""The parts of a mail: RFC 2045 to 2047 (MIME), RFC 2387 (related), RFC 2231 (file names), RFC 2392 (cid), RFC 6047
(calendar events). Nested as mail programs expect it: mixed (alternative (text, related (html, pictures), event),
files)."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import quote
from urllib.parse import quote as percent_encode

from worker.mail.attachments import Attachment, CalendarEvent
from worker.mail.header_fields import text_value
from worker.mail.quoted_printable import quoted_printable

# Quoted-printable triples each non-ASCII byte, base64 adds a third to all: they break even at a sixth.
_BASE64_FROM_SHARE = 6
# RFC 2231, 3: a value that is longer goes on in the next parameter.
_LONGEST_PARAMETER = 60
_LONGEST_LINE = 998
_COMPOSITE = re.compile(r"(message|multipart)/", re.IGNORECASE)
_MAIL = re.compile(rb"[!-9;-~]+:")
_LINE_END = re.compile(rb"\r?\n")
_PERCENT_SAFE = "!#$&+-.^_`|~"


@dataclass(frozen=True, slots=True)
class Parts:
    """What a mail is put together of."""

    text: str
    html: str
    event: CalendarEvent | None = None
    attachments: Sequence[Attachment] = ()


def body(parts: Parts, identity: str) -> bytes:
    """A mail from its Content-Type on, with CRLF line ends.

    Args:
        identity: makes the boundaries, and is the mail's own.
    """
    if not parts.attachments and parts.event is None and not (parts.text and parts.html):
        return _text("plain", parts.text) if parts.text else _text("html", parts.html)
    return _Body(parts, identity).build()


class _Body:
    def __init__(self, parts: Parts, identity: str) -> None:
        self._parts = parts
        self._identity = identity
        self._boundaries = 0

    def build(self) -> bytes:
        parts = self._parts
        related = [one for one in parts.attachments if one.cid and parts.html]
        attached = [self._file(one) for one in parts.attachments if not (one.cid and parts.html)]
        alternatives = [_text("plain", parts.text)] if parts.text else []
        if parts.html:
            html = _text("html", parts.html)
            alternatives.append(
                self._multipart("related", [html, *map(self._file, related)], '; type="text/html"') if related else html
            )
        if parts.event is not None:
            alternatives.append(_text("calendar", parts.event.content, f"; method={parts.event.method}"))
            # Some programs show the one, some the other.
            content = parts.event.content.encode()
            attached.append(self._file(Attachment(parts.event.filename, "application/ics", content)))
        content = alternatives[0] if len(alternatives) == 1 else self._multipart("alternative", alternatives)
        return self._multipart("mixed", [content, *attached]) if attached else content

    def _file(self, file: Attachment) -> bytes:
        return _file(file, self._identity.encode())

    def _multipart(self, subtype: str, parts: Sequence[bytes], parameters: str = "") -> bytes:
        # `=_` can't occur in quoted-printable or base64 (RFC 2045, 6.7).
        # None is the beginning of another one.
        boundary = f"=_{self._boundaries}_{self._identity}"
        self._boundaries += 1
        delimiter = f"--{boundary}\r\n".encode()
        pieces = [f'Content-Type: multipart/{subtype}; boundary="{boundary}"{parameters}\r\n\r\n'.encode()]
        for part in parts:
            pieces += (delimiter, part, b"\r\n")
        pieces[-1] = f"\r\n--{boundary}--\r\n".encode()
        return b"".join(pieces)


def _text(subtype: str, content: str, parameters: str = "") -> bytes:
    raw = content.replace("\r\n", "\n").replace("\r", "\n").encode("utf-8")
    if (len(raw) - len(content)) * _BASE64_FROM_SHARE > len(raw):
        encoding, encoded = "base64", base64.encodebytes(raw.replace(b"\n", b"\r\n")).replace(b"\n", b"\r\n")
    else:
        encoding, encoded = "quoted-printable", quoted_printable(raw)
    head = f"Content-Type: text/{subtype}; charset=utf-8{parameters}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    return head.encode() + encoded


def _file(file: Attachment, own_words: bytes) -> bytes:
    """
    Args:
        own_words: stand in the boundaries around it.
    """
    content_type, inline = file.content_type, file.inline
    encoding, encoded = "base64", base64.encodebytes(file.content).replace(b"\n", b"\r\n")
    if _COMPOSITE.match(content_type):
        # Base64 and quoted-printable are forbidden there (RFC 2045, 6.4).
        if content_type.lower().startswith("message/rfc822") and _is_7bit(file.content, own_words):
            encoding, encoded = "7bit", _LINE_END.sub(b"\r\n", file.content)
        else:
            content_type, inline = "application/octet-stream", False
    lines = [
        "Content-Type: " + ";\r\n ".join((content_type, *_name(file.filename))),
        f"Content-Transfer-Encoding: {encoding}",
        "Content-Disposition: " + ";\r\n ".join(("inline" if inline else "attachment", *_filename(file.filename))),
    ]
    if file.cid:
        lines.append(f"Content-ID: <{file.cid}>")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + encoded


def _is_7bit(content: bytes, own_words: bytes) -> bool:
    """Whether it's a mail, which may stand in another one as it is."""
    lines = _LINE_END.split(content)
    return (
        _MAIL.match(content) is not None
        and content.isascii()
        and max(map(len, lines)) <= _LONGEST_LINE
        and not any(b"\r" in line or b"\0" in line for line in lines)
        and own_words not in content
    )


def _name(name: str) -> list[str]:
    """For programs that don't know RFC 2231: where it fits a line, since it can't be folded."""
    written = f'name="{quote(text_value(name))}"'
    return [written] if name and len(written) <= _LONGEST_LINE - 10 else []


def _filename(name: str) -> list[str]:
    if not name:
        return []
    # Many programs read an encoded word there, though it's none (RFC 2047, 5).
    if name.isascii() and len(name) <= _LONGEST_PARAMETER and "=?" not in name:
        return [f'filename="{quote(name)}"']
    pieces, line = [], "utf-8''"
    for character in name:
        encoded = percent_encode(character, safe=_PERCENT_SAFE)
        if len(line) + len(encoded) > _LONGEST_PARAMETER:
            pieces.append(line)
            line = ""
        line += encoded
    pieces.append(line)
    if len(pieces) == 1:
        return [f"filename*={line}"]
    return [f"filename*{number}*={piece}" for number, piece in enumerate(pieces)]
