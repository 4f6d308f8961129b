"""The parts of a mail: RFC 2045 to 2047 (MIME), RFC 2387 (related), RFC 2231 (file names), RFC 2392 (cid), RFC 6047
(calendar events). Nested as mail programs expect it: mixed (alternative (text, related (html, pictures), event),
files)."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import quote
from urllib.parse import quote as percent_encode

from worker.mail.attachments import Attachment, CalendarEvent
from worker.mail.header_fields import text_value

# Quoted-printable triples each non-ASCII byte, base64 adds a third to all: they break even at a sixth.
_BASE64_FROM_SHARE = 6
# RFC 2231, 3: a value that is longer goes on in the next parameter.
_LONGEST_PARAMETER = 60
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
        attached = [_file(one) for one in parts.attachments if not (one.cid and parts.html)]
        alternatives = [_text("plain", parts.text)] if parts.text else []
        if parts.html:
            html = _text("html", parts.html)
            alternatives.append(
                self._multipart("related", [html, *map(_file, related)], '; type="text/html"') if related else html
            )
        if parts.event is not None:
            alternatives.append(_text("calendar", parts.event.content, f"; method={parts.event.method}"))
            # Some programs show the one, some the other.
            content = parts.event.content.encode()
            attached.append(_file(Attachment(parts.event.filename, "application/ics", content)))
        content = alternatives[0] if len(alternatives) == 1 else self._multipart("alternative", alternatives)
        return self._multipart("mixed", [content, *attached]) if attached else content

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
        encoding, encoded = "base64", base64.encodebytes(raw.replace(b"\n", b"\r\n"))
    else:
        encoding, encoded = "quoted-printable", binascii.b2a_qp(raw, istext=True)
    head = f"Content-Type: text/{subtype}; charset=utf-8{parameters}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    return head.encode() + encoded.replace(b"\n", b"\r\n")


def _file(file: Attachment) -> bytes:
    name = [] if not file.filename else [f'name="{quote(text_value(file.filename))}"']
    lines = [
        "Content-Type: " + ";\r\n ".join((file.content_type, *name)),
        "Content-Transfer-Encoding: base64",
        "Content-Disposition: " + ";\r\n ".join(("inline" if file.inline else "attachment", *_filename(file.filename))),
    ]
    if file.cid:
        lines.append(f"Content-ID: <{file.cid}>")
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    return head + base64.encodebytes(file.content).replace(b"\n", b"\r\n")


def _filename(name: str) -> list[str]:
    if not name:
        return []
    if name.isascii() and len(name) <= _LONGEST_PARAMETER:
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
