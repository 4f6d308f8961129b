"""What a web app queues: one job, one mail. Nothing here trusts its input."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from worker.errors import InvalidJob, InvalidRecipient, InvalidSender
from worker.mail.addresses import Address, parse_address, parse_addresses
from worker.mail.attachments import Attachment, CalendarEvent, read_attachments, read_event
from worker.mail.content import Content, Placeholders, check_length, fill, read_texts, same_words, unfilled
from worker.mail.fields import line, shorten
from worker.mail.job_headers import (
    Fields,
    named_fields,
    overruled_names,
    read_headers,
    read_message_id,
    reply_to_of,
    with_named,
)
from worker.mail.names import field_names
from worker.mail.shape import Shape, Unsent, deeper, ids_of, read_shape
from worker.mail.templates import FindTemplate, no_template
from worker.mail.twins import contradiction, untold_twins
from worker.mail.unsent import unsent_names
from worker.mail.unsubscribing import check_one_click, read_unsubscribe_url, with_unsubscribing

MAX_TAGS = 10
MAX_TAG_CHARACTERS = 100


@dataclass(frozen=True, slots=True)
class Job:
    """A checked job. At least one of `html` and `text` isn't empty; no header field holds a control character.
    `campaign_id` and `subscriber_id` are both set, and `to` is one, or both None (a mail outside any campaign)."""

    to: tuple[Address, ...]
    sender: Address
    subject: str
    html: str = ""
    text: str = ""
    cc: tuple[Address, ...] = ()
    bcc: tuple[Address, ...] = ()
    reply_to: tuple[Address, ...] = ()
    #: Who sent it for the author, where both are told (RFC 5322, 3.6.2): the field Sender.
    own_sender: Address | None = None
    #: Those of the app and of its settings, without what the worker writes itself.
    headers: Fields = ()
    attachments: tuple[Attachment, ...] = ()
    event: CalendarEvent | None = None
    #: Names, or names with a value, for providers that have them.
    tags: tuple[tuple[str, str], ...] = ()
    #: The app's own; empty without one.
    message_id: str = ""
    campaign_id: str | None = None
    subscriber_id: str | None = None
    #: Names of fields that aren't sent, and aren't known to be harmless.
    unsent: tuple[str, ...] = field(default=(), compare=False)

    @property
    def unfilled(self) -> tuple[str, ...]:
        """What looks like a placeholder, and goes out as it stands."""
        names = (one.name for one in (self.sender, *self.to, *self.cc, *self.reply_to))
        return unfilled(self.subject, self.html, self.text, *names, *(value for _, value in self.headers))

    @property
    def recipients(self) -> tuple[Address, ...]:
        """Whom the mail goes to, each once."""
        return tuple({address.email: address for address in (*self.to, *self.cc, *self.bcc)}.values())


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a job gets that doesn't say it itself, and how it's read."""

    sender: Address | None = None
    reply_to: Address | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    placeholders: Placeholders = "none"
    #: From which attachments may be fetched.
    attachment_hosts: tuple[str, ...] = ()
    #: Whether a template's text part is made from its HTML.
    makes_text: bool = True


def parse_job(raw: object, defaults: Defaults = Defaults(), find: FindTemplate = no_template) -> Job:  # it's frozen
    """Checks a job as the web app sent it, in any of the forms of docs/jobs.md.

    Args:
        find: gives a template by its name.

    Raises:
        InvalidRecipient, InvalidSender: that's wrong.
        InvalidJob: anything else; it names the field and what is wrong with it.
    """
    shape = read_shape(raw)
    fields = shape.fields
    campaign_id, subscriber_id = ids_of(shape)
    sender = _sender(shape, defaults)
    to = _recipients(shape, one=campaign_id is not None)
    cc, bcc = _copies(shape, "cc"), _copies(shape, "bcc")
    if campaign_id is not None and (cc or bcc):
        raise InvalidJob(
            f"{shape.called('cc' if cc else 'bcc')} is set, but a campaign's mail goes to its subscriber alone"
        )
    used: set[str] = set()
    content = _content(shape, defaults, find, used)
    template = _template_name(shape)
    if campaign_id is not None and not content.subject and not shape.is_left_empty("subject"):
        where = f" in the job and in the template {template}" if template else ""
        raise InvalidJob(
            f'subject is missing{where}, but a campaign\'s mail has one: for a mail without one, queue it as ""'
        )
    untold = untold_twins(shape, used, has_template=bool(template))
    headers, reply_to, unsent = _headers(shape, defaults)
    return Job(
        to=to,
        sender=sender,
        subject=content.subject,
        html=content.html,
        text=content.text,
        cc=cc,
        bcc=bcc,
        own_sender=_own_sender(shape),
        reply_to=_reply_to(shape, reply_to, defaults),
        headers=headers,
        attachments=read_attachments(fields.get("attachments"), defaults.attachment_hosts, shape.called("attachments")),
        event=read_event(fields.get("icalEvent"), shape.called("icalEvent")),
        tags=_tags(fields.get("tags"), shape.called("tags")),
        message_id=read_message_id(fields.get("messageId"), shape.called("messageId")),
        campaign_id=campaign_id,
        subscriber_id=subscriber_id,
        unsent=(*unsent_names(shape, used, has_template=bool(template)), *untold, *unsent),
    )


def template_of(raw: object) -> str:
    """The name of the template that a job needs; empty if it has a text of its own, or can't become a mail."""
    if not isinstance(raw, dict):
        return ""
    names = field_names().templates
    if names.isdisjoint(raw) and all(names.isdisjoint(part) for part in raw.values() if isinstance(part, dict)):
        return ""
    try:
        return _template_name(read_shape(raw))
    except InvalidJob:
        return ""


def _template_name(shape: Shape) -> str:
    fields = shape.fields
    # A `message` beside a template's name is one of its words.
    words = shape.names.get("body", "").rpartition(".")[2] == "message"
    if "templateId" not in fields or "html" in fields or "text" in fields or ("body" in fields and not words):
        return ""
    value = fields["templateId"]
    return line(str(value) if isinstance(value, int) else value, shape.names["templateId"])


def _content(shape: Shape, defaults: Defaults, find: FindTemplate, used: set[str]) -> Content:
    fields = shape.fields
    subject = line(fields.get("subject", ""), shape.called("subject"))
    if name := _template_name(shape):
        content = find(name).fill(_words(shape), used, makes_text=defaults.makes_text)
        content = replace(content, subject=subject or content.subject)
    else:
        html, text, contradicted = read_texts(fields, shape.names)
        content = Content(subject, html, text)
        if defaults.placeholders != "none" and any("{{" in text for text in (subject, content.html, content.text)):
            content = fill(content, defaults.placeholders, _words(shape), used)
        if contradicted and (name := shape.names["body"].rpartition(".")[2]) not in used:
            if not shape.is_own(contradicted):
                raise contradiction(shape.names[contradicted], shape.names["body"])
            shape.unsent.append(Unsent(shape.names["body"], name, fields["body"]))
    check_length(content)
    return content


def _words(shape: Shape) -> dict[str, object]:
    own = shape.fields.get("vars")
    words = {**shape.data, **own} if isinstance(own, dict) else shape.data
    # In the app's own name for it; and one that is there is as good as a `name`.
    if (name := shape.fields.get("subscriberName")) is not None:
        words["subscriberName"] = name
        words.setdefault("name", name)
    return words


def redirected(job: Job, address: Address) -> Job:
    """The job's mail for somebody else alone. Whom it was for stands in X-Original-To, but of those who were to get it
    unseen (Bcc) the number alone: a mail is passed on."""
    seen = dict.fromkeys(one.email for one in (*job.to, *job.cc))
    unseen = len(job.recipients) - len(seen)
    original = ", ".join(seen) + (f" (and {unseen} in Bcc)" if unseen else "")
    headers = (*job.headers, ("X-Original-To", original))
    return replace(job, to=(address,), cc=(), bcc=(), headers=headers)


def _sender(shape: Shape, defaults: Defaults) -> Address:
    try:
        name = line(shape.fields.get("fromName", ""), shape.called("fromName"))
        sender, address = _mailbox(shape, "from"), _mailbox(shape, "fromEmail")
        if sender is not None and address is not None:
            if sender.email != address.email:
                raise contradiction(shape.called("from"), shape.called("fromEmail"))
            sender = sender if sender.name else address
        sender = sender or address or _mailbox(shape, "sender")
        if name and sender is not None and sender.name and not same_words(name, sender.name):
            raise contradiction(shape.called("fromName"), "the name in the sender's address")
    except InvalidJob as error:
        raise InvalidSender(str(error)) from None
    sender = sender or defaults.sender
    if sender is None:
        raise InvalidSender("from is missing, and no MAIL_FROM is set in the worker's settings")
    return Address(name, sender.email) if name else sender


def _headers(shape: Shape, defaults: Defaults) -> tuple[Fields, object, tuple[str, ...]]:
    """The job's own header fields, what its Reply-To among them says, and the names of those that aren't sent."""
    fields, called = shape.fields, shape.called("headers")
    headers: Fields = ()
    reply_to: object = None
    overruled: tuple[str, ...] = ()
    if "headers" in fields:
        headers, reply_to = reply_to_of(read_headers(fields["headers"], called))
    if named := named_fields(fields, shape.called):
        overruled = overruled_names(named, headers, called)
        headers = with_named(named, headers)
    url = read_unsubscribe_url(fields.get("unsubscribeUrl"), shape.called("unsubscribeUrl"))
    headers, unsent = with_unsubscribing(named, headers, url, shape.called)
    headers = _with_defaults(headers, defaults.headers)
    check_one_click(headers)
    return headers, reply_to, (*overruled, *unsent)


def _own_sender(shape: Shape) -> Address | None:
    fields = shape.fields
    return _mailbox(shape, "sender") if "sender" in fields and ("from" in fields or "fromEmail" in fields) else None


def _recipients(shape: Shape, *, one: bool) -> tuple[Address, ...]:
    value = shape.fields.get("to")
    name = shape.called("to")
    if value is None:
        own = field_names().own("to")
        words = f"{own[0] if own else 'to (or email)'} is missing{deeper(shape)}"
        # An app that names the field has a recipient without an address.
        raise InvalidRecipient(words) if {"to", "email"} & shape.data.keys() else InvalidJob(words)
    try:
        addresses = parse_addresses(value, name)
    except InvalidJob as error:
        raise InvalidRecipient(str(error)) from None
    if one and len(addresses) > 1:
        raise InvalidJob(
            f"{name} holds {len(addresses)} addresses, but a campaign's job has one recipient: queue a job for each"
        )
    return addresses


def _copies(shape: Shape, field: str) -> tuple[Address, ...]:
    return parse_addresses(shape.fields[field], shape.names[field]) if field in shape.fields else ()


def _mailbox(shape: Shape, field: str) -> Address | None:
    value, name = shape.fields.get(field), shape.called(field)
    if isinstance(value, list):
        if len(value) != 1:
            raise InvalidJob(f"{name} holds {len(value)} addresses instead of one")
        value = value[0]
    if value is None or value == "":
        return None
    try:
        return parse_address(value, name)
    except InvalidJob:
        if not isinstance(value, str) or (number := len(parse_addresses(value, name))) < 2:
            raise
        raise InvalidJob(f"{name} holds {number} addresses instead of one") from None


def _reply_to(shape: Shape, among_headers: object, defaults: Defaults) -> tuple[Address, ...]:
    value, other_name = shape.fields.get("replyTo"), f"{shape.called('headers')}.Reply-To"
    if value is None and among_headers is None:
        return () if defaults.reply_to is None else (defaults.reply_to,)
    name = other_name if value is None else shape.names["replyTo"]
    found = parse_addresses(among_headers if value is None else value, name)
    if value is not None and among_headers is not None:
        others = parse_addresses(among_headers, other_name)
        if {one.email for one in found} != {one.email for one in others}:
            raise contradiction(name, other_name)
    return found


def _with_defaults(headers: Fields, defaults: Mapping[str, str]) -> Fields:
    if not defaults:
        return headers
    own = {name.lower() for name, _ in headers}
    return (*headers, *((name, value) for name, value in defaults.items() if name.lower() not in own))


def _tags(value: object, field: str) -> tuple[tuple[str, str], ...]:
    """`["a", "b"]`, Resend's `[{name, value}]`, or one of them."""
    if value is None:
        return ()
    tags = []
    for one in value if isinstance(value, list) else [value]:
        name, content = (one.get("name"), one.get("value", "")) if isinstance(one, dict) else (one, "")
        tags.append((line(name, field), line(str(content) if isinstance(content, int) else content, field)))
        if not tags[-1][0] or any(len(part) > MAX_TAG_CHARACTERS for part in tags[-1]):
            raise InvalidJob(
                f"{field} holds an empty one, or one of over {MAX_TAG_CHARACTERS} characters: {shorten(one)}"
            )
    if len(tags) > MAX_TAGS:
        raise InvalidJob(f"{field} holds {len(tags)}; at most {MAX_TAGS} are sent")
    values: dict[str, str] = {}
    for name, content in tags:
        # The providers' APIs have each name once.
        if content and values.setdefault(name, content) != content:
            raise contradiction(f"{field}.{name}", "another of this name")
    return tuple(dict.fromkeys(tags))
