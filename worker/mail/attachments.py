"""Attachments as nodemailer, Resend's and SendGrid's clients have them, and nodemailer's calendar events."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from worker.errors import InvalidJob
from worker.mail.buffers import is_buffer, is_data_url, read_content, read_data_url
from worker.mail.fields import MAX_HEADER_CHARACTERS, kind, line, shorten
from worker.mail.media_types import UNKNOWN_TYPE, extension_of, media_type_of
from worker.mail.names import both_spellings

#: Of all attachments of a mail together, before base64 makes a third more of them.
MAX_ATTACHED_BYTES = 7_000_000
MAX_ATTACHMENTS = 100
MAX_NAME_CHARACTERS = 255
MAX_TYPE_CHARACTERS = 200
MAX_HREF_CHARACTERS = 2_000
#: A data URL holds the whole file.
MOST_URL_CHARACTERS = 10_000_000
#: What apps tell of a file besides, and a reader doesn't see.
HARMLESS_FILE_KEYS = frozenset("size checksum fieldname originalname id key lastModified related".split())
_MEDIA_TYPE = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+(\s*;\s*[\w.+-]+=(\"[^\"\\\r\n]*\"|[^\s;\"]+))*")
_CHARSET = re.compile(r"\s*;\s*charset=(\"[^\"]*\"|[^\s;]*)", re.IGNORECASE)
_CID = re.compile(r"[!#-;=?-~]{1,200}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_METHODS = ("PUBLISH", "REQUEST", "REPLY", "ADD", "CANCEL", "REFRESH", "COUNTER", "DECLINECOUNTER")
_TEXT_TYPES = re.compile(r"text/|application/(json|xml|javascript|x-sh|yaml|rtf|sql|x-ndjson)|.*\+(xml|json)")
#: What is told of a file → the names for it, of which the first one counts. Each is taken in snake_case too.
_NAMES: Mapping[str, tuple[str, ...]] = {
    field: both_spellings(names.split())
    for field, names in {
        "filename": "filename name",
        "contentType": "contentType type mimeType mimetype",
        "cid": "cid contentId",
        "contentDisposition": "contentDisposition disposition",
        "encoding": "encoding",
        "href": "href url path",
    }.items()
}
_REFUSED = both_spellings(("raw", "headers", "httpHeaders"))
FILE_KEYS = (*(key for keys in _NAMES.values() for key in keys), "content", "contentTransferEncoding", *_REFUSED)
#: By these names it's SendGrid's client, unless one of nodemailer's is there.
_NODEMAILERS = both_spellings(("contentType",))
_SENDGRIDS = both_spellings(("type", "disposition", "contentId"))
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


def read_attachments(value: object, hosts: Collection[str] = (), name: str = "attachments") -> tuple[Attachment, ...]:
    """A job's attachments.

    Args:
        hosts: from which files may be fetched; `*.example.com` is all below example.com.
        name: the field's in the job.

    Raises:
        InvalidJob: it names the attachment and what is wrong with it.
    """
    if value is None:
        return ()
    values = value if isinstance(value, list) else [value]
    if len(values) > MAX_ATTACHMENTS:
        raise InvalidJob(f"{name} holds {len(values)} files; at most {MAX_ATTACHMENTS} are sent")
    files = tuple(_attachment(one, name, number, hosts) for number, one in enumerate(values))
    check_size(files)
    return files


def check_size(files: tuple[Attachment, ...]) -> None:
    """Asks whether a mail may have so much attached to it.

    Raises:
        InvalidJob: it mayn't.
    """
    if (size := sum(len(one.content) for one in files)) > MAX_ATTACHED_BYTES:
        raise InvalidJob(f"attachments have {size:,} bytes; at most {MAX_ATTACHED_BYTES:,} are sent: link to the files")


def read_event(value: object, name: str = "icalEvent") -> CalendarEvent | None:
    """nodemailer's `icalEvent`: a string, or `{method, filename, content, encoding}`.

    Raises:
        InvalidJob: it isn't one.
    """
    if value is None:
        return None
    event = value if isinstance(value, dict) and not is_buffer(value) else {"content": value}
    if refused := next((key for key in ("path", "href", "raw") if event.get(key)), ""):
        raise InvalidJob(f"{name}.{refused} can't be sent: queue the event itself as {name}.content")
    content = read_content(event.get("content"), _text(event, "encoding", name), f"{name}.content")
    method = (_text(event, "method", name) or "PUBLISH").upper()
    if method not in _METHODS:
        raise InvalidJob(f"{name}.method is {shorten(method)}, but must be one of {', '.join(_METHODS)} (RFC 5546)")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidJob(f"{name}.content isn't UTF-8 text") from None
    return CalendarEvent(method, text, _text(event, "filename", name) or "invite.ics")


def _attachment(file: object, field: str, number: int, hosts: Collection[str]) -> Attachment:
    name = f"{field}[{number}]"
    if not isinstance(file, dict):
        raise InvalidJob(f"{name} is {kind(file)}, but must be an object with filename and content")
    if refused := next((key for key in _REFUSED if file.get(key)), ""):
        raise InvalidJob(f"{name}.{refused} can't be sent: queue the file's content, with a contentType and a cid")
    nameless = file.get("filename") is False
    filename, _ = ("", "") if nameless else _told(file, "filename", name)
    media_type, type_key = _told(file, "contentType", name)
    cid, cid_key = _told(file, "cid", name)
    disposition, _ = _told(file, "contentDisposition", name)
    encoding, _ = _told(file, "encoding", name)
    where, where_key = _told(file, "href", name, MOST_URL_CHARACTERS)
    cid = cid.strip("<>")
    if cid and not _CID.fullmatch(cid):
        raise InvalidJob(f"{cid_key} isn't a content id like logo@example.com: {shorten(cid)}")
    words, words_key, url, content = file.get("content"), f"{name}.content", "", b""
    if where and words not in (None, "", where):
        raise InvalidJob(f"{name} has content and {where_key.rpartition('.')[2]}: queue one of them")
    if isinstance(words, str) and encoding.lower() in ("", "base64") and is_data_url(words):
        # As canvases and PDF libraries write a file.
        where, where_key, words = words, words_key, None
    if where:
        data = read_data_url(where, where_key)
        if data is not None:
            media_type, content = media_type or data[0], data[1]
        elif where.lower().startswith("https://"):
            url = _allowed(where, where_key, hosts)
            filename = filename or ("" if nameless else _name_in(where))
        else:
            raise InvalidJob(
                f"{where_key} can't be sent: the worker has no files of the app's: queue the file's content, or an"
                f" https:// address: {shorten(where.partition('?')[0])}"
            )
    elif words is not None:
        guessed = media_type or media_type_of(filename)
        content = read_content(words, encoding, words_key, may_be_base64=_may_be_base64(file, guessed))
        if isinstance(words, str) and not words.isascii() and _is_utf8(encoding):
            media_type = _with_charset(guessed)
    else:
        raise InvalidJob(f"{name} has neither content nor an https:// address in href")
    if not nameless:
        filename = filename or f"attachment-{number + 1}{extension_of(media_type)}"
    media_type = media_type or media_type_of(filename)
    if not _MEDIA_TYPE.fullmatch(media_type) or len(media_type) > MAX_TYPE_CHARACTERS or not media_type.isascii():
        raise InvalidJob(f"{type_key} isn't a media type like application/pdf: {shorten(media_type)}")
    # Pictures within the HTML, and mails, are shown; other files are there to be opened.
    shown = (cid and media_type.lower().startswith("image/")) or media_type.lower() == "message/rfc822"
    disposition = disposition or ("inline" if shown else "attachment")
    return Attachment(filename, media_type, content, cid, inline=disposition.lower() == "inline", url=url)


def _told(
    file: Mapping[object, object], field: str, name: str, longest: int = MAX_HEADER_CHARACTERS
) -> tuple[str, str]:
    """What the app says of it, empty if nothing; and the name that it wrote.

    Raises:
        InvalidJob: it says different things, of which one would be dropped.
    """
    told = [
        (line(file[key], f"{name}.{key}", longest), key)
        for key in _NAMES[field]
        if file.get(key) is not None and file[key] is not False and file[key] != ""
    ]
    if not told:
        return "", f"{name}.{field}"
    for text, key in told[1:]:
        if _gist(text, field) != _gist(told[0][0], field):
            raise InvalidJob(f"{name} has {told[0][1]} and {key}, which say different things: queue one of them")
    # Of `text/csv` and `text/csv; charset=utf-8` the latter.
    text, key = max(told, key=lambda one: len(one[0])) if field == "contentType" else told[0]
    return text, f"{name}.{key}"


def _gist(text: str, field: str) -> str:
    if field == "contentType":
        return text.partition(";")[0].strip().lower()
    return text.strip("<>") if field == "cid" else text.lower() if field in ("contentDisposition", "encoding") else text


def _name_in(url: str) -> str:
    # Whoever named the file may have put line breaks into it.
    return _CONTROL.sub("", unquote(urlsplit(url).path.rpartition("/")[2]))[:MAX_NAME_CHARACTERS]


def _allowed(url: str, key: str, hosts: Collection[str]) -> str:
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        host, port = "", None
    plain = len(url) <= MAX_HREF_CHARACTERS and url.isascii()
    if not plain or not host or port not in (None, 443) or parts.username is not None:
        raise InvalidJob(f"{key} isn't a plain https:// address, without a user, a password and a port")
    if not any(host == one or (one.startswith("*.") and host.endswith(one[1:])) for one in hosts):
        raise InvalidJob(
            f"{key} leads to {host}, from which no files are fetched: queue the file's content, or name the host"
            " in worker_attachment_hosts"
        )
    return url


def _text(event: Mapping[object, object], key: str, name: str) -> str:
    value = event.get(key)
    return "" if value is None or value is False else line(value, f"{name}.{key}")


def _may_be_base64(file: Mapping[object, object], media_type: str) -> bool:
    """Resend's and SendGrid's clients queue base64 and don't say so; a picture or PDF is never plain letters. By
    SendGrid's own names it's nothing else."""
    content = file["content"]
    # Words have blanks between them.
    if not isinstance(content, str) or " " in content:
        return False
    if not any(key in file for key in _NODEMAILERS) and any(key in file for key in _SENDGRIDS):
        return True
    return not _TEXT_TYPES.match(media_type) and (media_type != UNKNOWN_TYPE or len(content) >= _SURELY_BASE64)


def _is_utf8(encoding: str) -> bool:
    return encoding.lower().replace("-", "") in ("", "ascii", "utf8")


def _with_charset(media_type: str) -> str:
    """A text's reader would take it for ASCII, or guess. Another charset that the app has named isn't this text's."""
    if not media_type.lower().startswith("text/"):
        return media_type
    return f"{_CHARSET.sub('', media_type)}; charset=utf-8"
