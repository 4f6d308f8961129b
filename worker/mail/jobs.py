"""What a web app queues: one job, one recipient, one mail. Nothing here trusts its input."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape

from worker.errors import InvalidJob, InvalidRecipient, InvalidSender
from worker.mail.addresses import Address, parse_address
from worker.mail.fields import line, shorten, without_surrogates
from worker.mail.header_fields import LONGEST_WORD, check_field

MAX_BODY_CHARACTERS = 10_000_000
MAX_ID_CHARACTERS = 200
_LARGEST_WHOLE = 2**53
# Between < and >.
_LONGEST_URL = LONGEST_WORD - 2
_BLANKS = " \t\n\v\f\r"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_SNAKE_TO_CAMEL = {
    "reply_to": "replyTo",
    "campaign_id": "campaignId",
    "subscriber_id": "subscriberId",
    "unsubscribe_url": "unsubscribeUrl",
    "subscriber_name": "subscriberName",
}
# RFC 5322 field names, without those that the worker writes itself.
_HEADER_NAME = re.compile(r"[!-9;-~]{1,76}")
_RESERVED_HEADERS = frozenset(
    "bcc cc content-disposition content-transfer-encoding content-type date from message-id mime-version "
    "reply-to return-path sender subject to list-unsubscribe-post".split()
)
_NAME = re.compile(r"\{\{\s*name\s*\}\}")
#: Instead of a subscriber's name that is missing, as the web app's own cron has it.
NAMELESS = "Subscriber"
_BODY_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_BODY_CONTROL_BYTES = bytes(number for number in (*range(32), 127) if number not in b"\t\n\r")


@dataclass(frozen=True, slots=True)
class Job:
    """A checked job. At least one of `html` and `text` isn't empty; no header field holds a control character.
    `campaign_id` and `subscriber_id` are both set or both None (a mail outside any campaign)."""

    to: Address
    sender: Address
    reply_to: Address | None
    subject: str
    html: str
    text: str
    headers: Mapping[str, str]
    campaign_id: str | None
    subscriber_id: str | None
    unsubscribe_url: str | None


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a job gets that doesn't say it itself."""

    sender: Address | None = None
    reply_to: Address | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    #: `{{name}}` in html and text becomes the job's subscriberName.
    name_placeholder: bool = False


def recipient_key(raw: object) -> tuple[str, str] | None:
    """The campaign and subscriber of a job that may be broken otherwise, or None."""
    if not isinstance(raw, dict):
        return None
    try:
        fields = _normalise(raw)
        campaign_id, subscriber_id = _identifier(fields, "campaignId"), _identifier(fields, "subscriberId")
    except InvalidJob:
        return None
    return (campaign_id, subscriber_id) if campaign_id and subscriber_id else None


def parse_job(raw: object, defaults: Defaults = Defaults()) -> Job:  # it's frozen
    """Checks a job as the web app sent it; names may be camelCase or snake_case.

    Raises:
        InvalidRecipient, InvalidSender: that's wrong.
        InvalidJob: anything else; it names the field and what is wrong with it.
    """
    if not isinstance(raw, dict):
        raise InvalidJob(f"the job is a {type(raw).__name__}, but must be an object with to, subject and html")
    fields = _normalise(raw)
    campaign_id, subscriber_id = _identifier(fields, "campaignId"), _identifier(fields, "subscriberId")
    if (campaign_id is None) != (subscriber_id is None):
        raise InvalidJob("campaignId and subscriberId go together, but only one of them is set")
    sender, to = _sender(fields, defaults), _recipient(fields)
    html, text = _body(fields, "html"), _body(fields, "text")
    if not html and not text:
        raise InvalidJob("html and text are both missing")
    if defaults.name_placeholder:
        name = _subscriber_name(fields)
        html, text = _NAME.sub(lambda _: escape(name), html), _NAME.sub(lambda _: name, text)
    return Job(
        to=to,
        sender=sender,
        reply_to=_mailbox(fields, "replyTo") or defaults.reply_to,
        subject=line(fields.get("subject", ""), "subject"),
        html=html,
        text=text,
        headers=_with_defaults(parse_headers(fields.get("headers") or {}), defaults.headers),
        campaign_id=campaign_id,
        subscriber_id=subscriber_id,
        unsubscribe_url=_unsubscribe_url(fields),
    )


def _normalise(raw: dict[object, object]) -> dict[str, object]:
    """Snake_case names become camelCase; where both are there, the latter counts, unless it's empty."""
    fields = {name: value for name, value in raw.items() if isinstance(name, str)}
    for snake, camel in _SNAKE_TO_CAMEL.items():
        if snake in fields and fields.get(camel) in (None, ""):
            fields[camel] = fields[snake]
    return fields


def _sender(fields: Mapping[str, object], defaults: Defaults) -> Address:
    try:
        sender = _mailbox(fields, "from") or defaults.sender
    except InvalidJob as error:
        raise InvalidSender(str(error)) from None
    if sender is None:
        raise InvalidSender("from is missing, and no MAIL_FROM is set in the worker's settings")
    return sender


def _recipient(fields: Mapping[str, object]) -> Address:
    for name in ("to", "email"):
        value = fields.get(name)
        if isinstance(value, list) and len(value) > 1:
            raise InvalidJob(f"{name} holds {len(value)} addresses, but a job has one recipient: queue a job for each")
    try:
        to = _mailbox(fields, "to") or _mailbox(fields, "email")
    except InvalidJob as error:
        raise InvalidRecipient(str(error)) from None
    if to is not None:
        return to
    if "to" in fields or "email" in fields:
        raise InvalidRecipient("to (or email) is missing")
    raise InvalidJob("to (or email) is missing")


def _mailbox(fields: Mapping[str, object], name: str) -> Address | None:
    value = fields.get(name)
    if isinstance(value, list):
        if len(value) != 1:
            raise InvalidJob(f"{name} holds {len(value)} addresses instead of one")
        value = value[0]
    return None if value is None or value == "" else parse_address(value, name)


def _identifier(fields: Mapping[str, object], name: str) -> str | None:
    """lua/ids.lua reads it the same way, and must: by it a campaign is paused and cancelled."""
    value = fields.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InvalidJob(f"{name} is a {type(value).__name__}, but must be a string or a whole number")
    if isinstance(value, int) and abs(value) > _LARGEST_WHOLE:
        raise InvalidJob(f"{name} is a number beyond 2^53, which not every reader keeps whole: queue it as a string")
    text = without_surrogates(str(value).strip(_BLANKS))
    if not text or _CONTROL.search(text):
        raise InvalidJob(f"{name} is blank or holds a control character: {shorten(value)}")
    if len(text) > MAX_ID_CHARACTERS:
        raise InvalidJob(f"{name} is longer than {MAX_ID_CHARACTERS} characters")
    return text


def _body(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidJob(f"{name} is a {type(value).__name__}, but must be a string")
    if len(value) > MAX_BODY_CHARACTERS:
        raise InvalidJob(f"{name} has {len(value):,} characters; at most {MAX_BODY_CHARACTERS:,} are sent")
    text = without_surrogates(value)
    raw = text.encode("utf-8")
    # A regular expression takes ten times as long to find nothing.
    return text if len(raw.translate(None, _BODY_CONTROL_BYTES)) == len(raw) else _BODY_CONTROL.sub("", text)


def _subscriber_name(fields: Mapping[str, object]) -> str:
    value = fields.get("subscriberName")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        value = ""
    return without_surrogates(_BODY_CONTROL.sub("", str(value)).strip()) or NAMELESS


def _with_defaults(headers: dict[str, str], defaults: Mapping[str, str]) -> dict[str, str]:
    if not defaults:
        return headers
    own = {name.lower() for name in headers}
    return {**headers, **{name: value for name, value in defaults.items() if name.lower() not in own}}


def parse_headers(value: object) -> dict[str, str]:
    """Header fields that the worker doesn't write itself.

    Raises:
        InvalidJob: names the field and what is wrong with it.
    """
    if not isinstance(value, dict):
        raise InvalidJob(f"headers is a {type(value).__name__}, but must be an object of strings")
    headers = {}
    for name, content in value.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise InvalidJob(f"headers holds a name that isn't a mail header's: {shorten(name)}")
        if name.lower() in _RESERVED_HEADERS:
            raise InvalidJob(f"headers can't set {name}: the worker writes it")
        headers[name] = line(content, f"headers.{name}")
        check_field(name, headers[name])
    return headers


def _unsubscribe_url(fields: Mapping[str, object]) -> str | None:
    value = fields.get("unsubscribeUrl")
    if value is None or value == "":
        return None
    url = line(value, "unsubscribeUrl")
    # RFC 8058 asks for https; the URL stands between < and > in the header.
    if not re.fullmatch(r"https://[!-;=?-~]+", url):
        raise InvalidJob(f"unsubscribeUrl must be an https:// address without spaces: {shorten(url)}")
    if len(url) > _LONGEST_URL:
        raise InvalidJob(
            f"unsubscribeUrl has {len(url):,} characters, but a mail's line takes {_LONGEST_URL} (RFC 5322), and"
            f" a URL can't be split: {shorten(url)}"
        )
    return url
