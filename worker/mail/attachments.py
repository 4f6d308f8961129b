"""Attachments as nodemailer, Resend's and SendGrid's clients have them, and nodemailer's calendar events."""

import contextlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from worker.errors import InvalidJob
from worker.mail.buffers import is_buffer, read_base64, read_buffer, read_data_url
from worker.mail.fields import MAX_HEADER_CHARACTERS, line, shorten
from worker.mail.media_types import UNKNOWN_TYPE, extension_of, media_type_of
from worker.mail.names import snake_case

#: Of all attachments of a mail together, before base64 makes a third more of them.
MAX_ATTACHED_BYTES = 7_000_000
MAX_ATTACHMENTS = 100
MAX_NAME_CHARACTERS = 255
MAX_TYPE_CHARACTERS = 200
MAX_HREF_CHARACTERS = 2_000
#: A data URL holds the whole file.
MOST_URL_CHARACTERS = 10_000_000
#: What apps tell of a file besides, and a reader doesn't see.
_HARMLESS_KEYS = frozenset("size checksum mimetype mimeType fieldname originalname id key lastModified related".split())
_MEDIA_TYPE = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+(\s*;\s*[\w.+-]+=(\"[^\"\\\r\n]*\"|[^\s;\"]+))*")
_CID = re.compile(r"[!#-;=?-~]{1,200}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_METHODS = ("PUBLISH", "REQUEST", "REPLY", "ADD", "CANCEL", "REFRESH", "COUNTER", "DECLINECOUNTER")
_TEXT_TYPES = re.compile(r"text/|application/(json|xml|javascript|x-sh|yaml|rtf|sql|x-ndjson)|.*\+(xml|json)")
#: What is told of each: in camelCase or in snake_case.
_KEYS = (
    "filename name content path href contentType type encoding cid contentId contentDisposition disposition"
    " contentTransferEncoding raw headers httpHeaders url"
).split()
_KNOWN_KEYS = frozenset((*_KEYS, *map(snake_case, _KEYS), *_HARMLESS_KEYS))
#: Shorter words of a file of unknown type may be plain ones that happen to be base64.
_SURELY_BASE64 = 64


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file in a mail. With a `cid` it's shown where the HTML says `cid:…` (RFC 2392)."""

    filename: str
    #: With its parameters, such as a charset.
    content_type: str
    content: bytes
    cid: str = ""
    #: Shown in the mail rather than beside it.
    inline: bool = False
    #: Where the content is to be had, if it isn't here.
    url: str = ""


@dataclass(frozen=True, slots=True)
class CalendarEvent:
    """An iCalendar object that mail programs show as an invitation (RFC 5546, RFC 6047)."""

    method: str
    content: str
    filename: str = "invite.ics"


def read_attachments(value: object, hosts: Collection[str] = ()) -> tuple[Attachment, ...]:
    """A job's attachments.

    Args:
        hosts: from which files may be fetched; `*.example.com` is all below example.com.

    Raises:
        InvalidJob: it names the attachment and what is wrong with it.
    """
    if value is None:
        return ()
    values = value if isinstance(value, list) else [value]
    if len(values) > MAX_ATTACHMENTS:
        raise InvalidJob(f"attachments holds {len(values)} files; at most {MAX_ATTACHMENTS} are sent")
    files = tuple(_attachment(one, number, hosts) for number, one in enumerate(values))
    check_size(files)
    return files


def unsent_keys(value: object) -> tuple[str, ...]:
    """What files hold besides, and isn't known to be harmless."""
    if value is None:
        return ()
    files = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, dict)]
    found = (
        str(key) for file in files for key, content in file.items() if content is not None and key not in _KNOWN_KEYS
    )
    return tuple(dict.fromkeys(f"attachments.{key}" for key in found))


def check_size(files: tuple[Attachment, ...]) -> None:
    """Asks whether a mail may have so much attached to it.

    Raises:
        InvalidJob: it mayn't.
    """
    if (size := sum(len(one.content) for one in files)) > MAX_ATTACHED_BYTES:
        raise InvalidJob(f"attachments have {size:,} bytes; at most {MAX_ATTACHED_BYTES:,} are sent: link to the files")


def read_event(value: object) -> CalendarEvent | None:
    """nodemailer's `icalEvent`: a string, or `{method, filename, content, encoding}`.

    Raises:
        InvalidJob: it isn't one.
    """
    if value is None:
        return None
    event = value if isinstance(value, dict) and not is_buffer(value) else {"content": value}
    if "path" in event or "href" in event:
        raise InvalidJob("icalEvent.path can't be sent: queue the event itself as icalEvent.content")
    encoding = _text(event, "encoding", "icalEvent")
    content = _content(event.get("content"), encoding, "icalEvent.content", may_be_base64=False)
    method = (_text(event, "method", "icalEvent") or "PUBLISH").upper()
    if method not in _METHODS:
        raise InvalidJob(f"icalEvent.method is {shorten(method)}, but must be one of {', '.join(_METHODS)} (RFC 5546)")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidJob("icalEvent.content isn't UTF-8 text") from None
    return CalendarEvent(method, text, _text(event, "filename", "icalEvent") or "invite.ics")


def _attachment(value: object, number: int, hosts: Collection[str]) -> Attachment:
    name = f"attachments[{number}]"
    if not isinstance(value, dict):
        raise InvalidJob(f"{name} is a {type(value).__name__}, but must be an object with filename and content")
    file = _with_camel_names(value)
    for refused in ("raw", "headers", "httpHeaders"):
        if file.get(refused):
            raise InvalidJob(f"{name}.{refused} can't be sent: queue the file's content, with a contentType and a cid")
    _refuse_twins(file, name)
    filename = "" if file.get("filename") is False else _text(file, "filename", name) or _text(file, "name", name)
    media_type = _text(file, "contentType", name) or _text(file, "type", name)
    cid = (_text(file, "cid", name) or _text(file, "contentId", name)).strip("<>")
    if cid and not _CID.fullmatch(cid):
        raise InvalidJob(f"{name}.cid isn't a content id like logo@example.com: {shorten(cid)}")
    disposition = _text(file, "contentDisposition", name) or _text(file, "disposition", name)
    where = next((_text(file, key, name, MOST_URL_CHARACTERS) for key in ("href", "url", "path") if file.get(key)), "")
    url, content = "", b""
    if file.get("content") is not None:
        guessed = media_type or media_type_of(filename)
        encoding, words = _text(file, "encoding", name), file["content"]
        content = _content(words, encoding, f"{name}.content", may_be_base64=_may_be_base64(file, guessed))
        if isinstance(words, str) and not words.isascii() and _is_utf8(encoding):
            media_type = _with_charset(guessed)
    elif where:
        data = read_data_url(where, f"{name}.path")
        if data is not None:
            media_type, content = media_type or data[0], data[1]
        elif where.lower().startswith("https://"):
            url = _allowed(where, name, hosts)
            filename = filename or _name_in(where)
        else:
            raise InvalidJob(
                f"{name}.path can't be sent: the worker has no files of the app's: queue the file's content, or an"
                f" https:// address: {shorten(where.partition('?')[0])}"
            )
    else:
        raise InvalidJob(f"{name} has neither content nor an https:// address in href")
    if file.get("filename") is not False:
        filename = filename or f"attachment-{number + 1}{extension_of(media_type)}"
    media_type = media_type or media_type_of(filename)
    if not _MEDIA_TYPE.fullmatch(media_type) or len(media_type) > MAX_TYPE_CHARACTERS or not media_type.isascii():
        raise InvalidJob(f"{name}.contentType isn't a media type like application/pdf: {shorten(media_type)}")
    # Pictures within the HTML, and mails, are shown; other files are there to be opened.
    shown = (cid and media_type.lower().startswith("image/")) or media_type.lower() == "message/rfc822"
    disposition = disposition or ("inline" if shown else "attachment")
    return Attachment(filename, media_type, content, cid, inline=disposition.lower() == "inline", url=url)


def _refuse_twins(file: Mapping[str, object], name: str) -> None:
    """Of two sources, or two ids, one would be dropped in silence."""
    for keys in (("content", "href", "url", "path"), ("cid", "contentId")):
        given = [key for key in keys if file.get(key) not in (None, "")]
        if len(given) > 1 and any(file[key] != file[given[0]] for key in given):
            raise InvalidJob(f"{name} has {' and '.join(given)}: queue one of them")


def _name_in(url: str) -> str:
    # Whoever named the file may have put line breaks into it.
    return _CONTROL.sub("", unquote(urlsplit(url).path.rpartition("/")[2]))[:MAX_NAME_CHARACTERS]


def _allowed(url: str, name: str, hosts: Collection[str]) -> str:
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        host, port = "", None
    plain = len(url) <= MAX_HREF_CHARACTERS and url.isascii()
    if not plain or not host or port not in (None, 443) or parts.username is not None:
        raise InvalidJob(f"{name}.href isn't a plain https:// address, without a user, a password and a port")
    if not any(host == one or (one.startswith("*.") and host.endswith(one[1:])) for one in hosts):
        raise InvalidJob(
            f"{name}.href leads to {host}, from which no files are fetched: queue the file's content, or name the host"
            " in worker_attachment_hosts"
        )
    return url


def _with_camel_names(value: Mapping[object, object]) -> dict[str, object]:
    file = {key: value[key] for key in _KEYS if value.get(key) is not None}
    for key in _KEYS:
        if key not in file and value.get(snake_case(key)) is not None:
            file[key] = value[snake_case(key)]
    return file


def _text(
    fields: Mapping[object, object] | Mapping[str, object], key: str, name: str, longest: int = MAX_HEADER_CHARACTERS
) -> str:
    value = fields.get(key)
    return "" if value is None or value is False else line(value, f"{name}.{key}", longest)


def _content(value: object, encoding: str, name: str, *, may_be_base64: bool) -> bytes:
    if is_buffer(value):
        return read_buffer(value, name)
    if not isinstance(value, str):
        raise InvalidJob(f"{name} is a {type(value).__name__}, but must be a string or a Buffer")
    match encoding.lower().replace("-", ""):
        case "base64" | "base64url":
            return read_base64(value, name)
        case "hex":
            try:
                return bytes.fromhex(value)
            except ValueError:
                raise InvalidJob(f"{name} isn't hexadecimal") from None
        case "binary" | "latin1":
            return value.encode("latin-1", "replace")
        case "ascii" | "utf8":
            return value.encode("utf-8", "replace")
        case "utf16le" | "ucs2":
            return value.encode("utf-16-le", "replace")
        case "":
            if may_be_base64:
                with contextlib.suppress(InvalidJob):
                    return read_base64(value, name)
            return value.encode("utf-8", "replace")
        case _:
            raise InvalidJob(f"{name} has an encoding that nobody knows: {shorten(encoding)}")


def _may_be_base64(file: Mapping[str, object], media_type: str) -> bool:
    """Resend's and SendGrid's clients queue base64 and don't say so; a picture or PDF is never plain letters. By
    SendGrid's own names it's nothing else."""
    content = file["content"]
    # Words have blanks between them.
    if not isinstance(content, str) or " " in content:
        return False
    if "contentType" not in file and any(key in file for key in ("type", "disposition", "contentId")):
        return True
    return not _TEXT_TYPES.match(media_type) and (media_type != UNKNOWN_TYPE or len(content) >= _SURELY_BASE64)


def _is_utf8(encoding: str) -> bool:
    return encoding.lower().replace("-", "") in ("", "ascii", "utf8")


def _with_charset(media_type: str) -> str:
    """A text's reader would take it for ASCII, or guess."""
    known = not media_type.lower().startswith("text/") or "charset=" in media_type.lower()
    return media_type if known else f"{media_type}; charset=utf-8"
