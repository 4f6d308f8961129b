"""A mail's texts, in the forms in which apps queue them, with what belongs in their placeholders."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from worker.errors import InvalidJob
from worker.mail.buffers import is_buffer, read_content
from worker.mail.fields import MAX_HEADER_CHARACTERS, encoded, escape_html, kind, line, shorten, without_surrogates

MAX_BODY_CHARACTERS = 10_000_000
#: In so many characters at its beginning a text shows whether it's HTML.
LOOKED_AT_CHARACTERS = 100_000
#: Instead of a subscriber's name that is missing, as the web app's own cron has it.
NAMELESS = "Subscriber"

Placeholders = Literal["none", "name", "fields"]

_BODY_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_BODY_CONTROL_BYTES = bytes(number for number in (*range(32), 127) if number not in b"\t\n\r")
# Plain text may hold `<name>` or `<https://…>`, so only HTML's own elements count.
_HTML = re.compile(
    r"<!doctype html|<!--|</?(?:a|abbr|article|b|blockquote|body|br|button|center|code|dd|div|dl|dt|em|font|footer"
    r"|form|h[1-6]|head|header|hr|html|i|img|li|link|main|meta|ol|p|pre|s|section|small|span|strike|strong|style|sub"
    r"|sup|table|tbody|td|tfoot|th|thead|title|tr|u|ul)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(r"\{\{\s*([A-Za-z_][\w.]*)\s*\}\}")
_BEGINS_PLACE = re.compile(r"\{\{|\*\||<%|\$\{|%recipient")
_PLACE = re.compile(
    r"\{\{[^{}\n]{1,60}\}\}|\*\|[\w:]{1,60}\|\*|<%[^%>\n]{1,60}%>|\$\{[\w.]{1,60}\}|%recipient\.[\w.]{1,60}%", re.ASCII
)
_NAME = re.compile(r"\{\{\s*(name)\s*\}\}")


@dataclass(frozen=True, slots=True)
class Content:
    """At least one of `html` and `text` isn't empty."""

    subject: str
    html: str
    text: str


def read_texts(fields: Mapping[str, object], names: Mapping[str, str]) -> tuple[str, str, str]:
    """HTML, plain text, and which of the two the body contradicts: `html`, `text`, or nothing.

    Args:
        names: what the app calls each.

    Raises:
        InvalidJob: there's neither, or one isn't a text.
    """
    html, text = (read_text(fields.get(name), names.get(name, name)) for name in ("html", "text"))
    contradicted = ""
    if "body" in fields:
        body, name = fields["body"], names["body"]
        for words, is_html in _parts(body, name) if isinstance(body, list) else [_body(body, name)]:
            kept = html if is_html else text
            if kept and not same_words(kept, words):
                contradicted = "html" if is_html else "text"
            elif is_html:
                html = kept or words
            else:
                text = kept or words
    if not html and not text:
        if not {"attachments", "icalEvent"} & fields.keys():
            raise InvalidJob("html and text are both missing")
        # Files alone: programs show what they are attached to, and the providers' APIs want a text.
        text = "\n"
    return html, text, contradicted


def same_words(one: str, other: str) -> bool:
    """Whether they differ by blanks and line ends at most."""
    return one == other or one.split() == other.split()


def read_text(value: object, name: str) -> str:
    """A text, a Buffer of one, or an object with one as its `content`; empty if there's none.

    Raises:
        InvalidJob: it's none of these, or too long.
    """
    if value is None:
        return ""
    encoding = ""
    if isinstance(value, dict) and not is_buffer(value) and "content" in value:
        encoding = line(value.get("encoding") or "", f"{name}.encoding")
        value = value["content"]
    if is_buffer(value) or (encoding and isinstance(value, str)):
        try:
            value = read_content(value, encoding, name).decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidJob(f"{name} isn't UTF-8 text") from None
    if not isinstance(value, str):
        raise InvalidJob(f"{name} is {kind(value)}, but must be a string")
    if len(value) > MAX_BODY_CHARACTERS:
        raise InvalidJob(f"{name} has {len(value):,} characters; at most {MAX_BODY_CHARACTERS:,} are sent")
    text, raw = encoded(value)
    # A regular expression takes ten times as long to find nothing.
    return text if len(raw.translate(None, _BODY_CONTROL_BYTES)) == len(raw) else _BODY_CONTROL.sub("", text)


def _body(value: object, name: str) -> tuple[str, bool]:
    words = read_text(value, name)
    return words, _HTML.search(words, 0, LOOKED_AT_CHARACTERS) is not None


def _parts(body: list[object], name: str) -> list[tuple[str, bool]]:
    """SendGrid's `content`, a list of `{type, value}`: each text once, and whether it's HTML."""
    found: dict[bool, str] = {}
    for part in body:
        media_type = part.get("type") if isinstance(part, dict) else None
        if not isinstance(part, dict) or media_type not in ("text/html", "text/plain"):
            raise InvalidJob(f"{name} holds a part that is neither text/plain nor text/html: {shorten(media_type)}")
        words, is_html = read_text(part.get("value"), f"{name}.value"), media_type == "text/html"
        if words and found.setdefault(is_html, words) != words:
            raise InvalidJob(f"{name} holds two parts of one type, which say different things: queue one of them")
    return [(words, is_html) for is_html, words in found.items()]


def fill(content: Content, placeholders: Placeholders, data: Mapping[str, object], used: set[str]) -> Content:
    """The content with the job's own words in its placeholders, escaped in HTML: `{{name}}` alone, or each field.

    Args:
        used: gets the names of the fields that stand in the mail.

    Raises:
        InvalidJob: the job has no such field.
    """
    match placeholders:
        case "none":
            return content
        case "name":
            return Content(
                content.subject,
                _NAME.sub(_replacement(data, escape_html, used), content.html),
                _NAME.sub(_replacement(data, str, used), content.text),
            )
        case "fields":
            return Content(
                *(
                    _PLACEHOLDER.sub(_replacement(data, how, used), text)
                    for text, how in ((content.subject, one_line), (content.html, escape_html), (content.text, str))
                )
            )


def _replacement(
    data: Mapping[str, object], how: Callable[[str], str], used: set[str]
) -> Callable[[re.Match[str]], str]:
    def replace(found: re.Match[str]) -> str:
        used.add(found[1].partition(".")[0])
        return how(_words(data, found[1]))

    return replace


def _words(data: Mapping[str, object], path: str) -> str:
    if path == "name":
        found = word(data, "subscriberName") or word(data, "subscriber_name") or word(data, "name") or ""
        return found.strip() or NAMELESS
    words = word(data, path)
    if words is None:
        raise InvalidJob(f"{{{{{path}}}}} stands in the mail, but the job has no {path} with a text or a number")
    return words


def unfilled(*texts: str) -> tuple[str, ...]:
    """What looks like a placeholder still, in the words of this worker or of a mail service's templates."""
    found = (one for text in texts if _BEGINS_PLACE.search(text) for one in _PLACE.findall(text))
    return tuple(dict.fromkeys(found))


def check_length(content: Content) -> None:
    """Asks whether a mail may be so long, once its places are filled.

    Raises:
        InvalidJob: it mayn't.
    """
    if len(content.subject) > MAX_HEADER_CHARACTERS:
        raise InvalidJob(f"subject is longer than {MAX_HEADER_CHARACTERS:,} characters")
    if (longest := max(len(content.html), len(content.text))) > MAX_BODY_CHARACTERS:
        raise InvalidJob(f"the mail has {longest:,} characters; at most {MAX_BODY_CHARACTERS:,} are sent")


def word(data: Mapping[str, object], path: str) -> str | None:
    """What a placeholder stands for; `a.b` is b in the object a. None if that's no text or number."""
    value: object = data
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict | Mapping) else None
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return None
    return without_surrogates(_BODY_CONTROL.sub("", str(value)))


def one_line(text: str) -> str:
    """The text with a blank for each break."""
    return " ".join(text.split())
