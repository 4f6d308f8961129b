"""What nodemailer makes of a message, the worker makes of the job that holds it. Both mails are read by the standard
library, which shares no code with either."""

import base64
import re
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.utils import getaddresses
from typing import Any

import pytest

from testbed.node_lines import NodeLines
from worker.mail.jobs import parse_job
from worker.mail.message import Mail, build_mail

Message = dict[str, Any]
#: A mail as a reader sees it: each thing's name → what it is.
View = dict[str, object]

#: What differs in each mail on purpose, and isn't compared.
NEVER_COMPARED = {
    "date": "the worker's, at each try anew",
    "mime-version": "1.0 in both",
    "content-type": "compared as the tree of parts and their names",
    "content-transfer-encoding": "a reader sees what is decoded: nodemailer sends 7bit where the worker sends"
    " quoted-printable",
}
#: What differs in some mails on purpose.
NO_SUBJECT = "an empty Subject rather than none, which filters of spam count against a mail"
EACH_ONCE = "an address is told once"
ASCII_DOMAIN = "a domain is in ASCII beside a local part that isn't, too: servers look it up so"
BASE64_GUESSED = (
    "Resend's and SendGrid's clients queue base64 and don't say so; nodemailer's own message has an encoding"
)
ONE_CLICK = "nodemailer makes a URL of it, with which no mailbox provider shows its button"
CHARSET_KEPT = "the charset is told where it's known: nodemailer does so for text/plain alone, without a data URL"
EXTENSION = "nodemailer knows no extension for it, and leaves the dot"
NO_8BIT = "a server may know no 8BITMIME, and base64 is forbidden there (RFC 2045, 6.4): it's a file instead"

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
PDF = b"%PDF-1.4\n" + bytes(range(256))


def buffer(content: bytes) -> Message:
    return {"type": "Buffer", "data": list(content)}


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


LEAST: Message = {"from": "news@example.com", "to": "ann@example.org", "subject": "Order", "text": "Hello\n"}
PAGE: Message = {"text": "Hello Ann\n", "html": '<p>Hello <img src="cid:logo"> Zoë</p>'}
LOGO: Message = {"filename": "logo.png", "content": buffer(PNG), "cid": "logo"}
INVOICE: Message = {"filename": "invoice.pdf", "content": encoded(PDF), "encoding": "base64"}
EVENT = "BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nSUMMARY:Zoë\r\nEND:VCALENDAR\r\n"


def file(**changes: object) -> Message:
    return {"attachments": [{"filename": "a.txt", "content": "Thank you.", **changes}]}


#: What a message has beside or instead of LEAST → the names of what differs, and why.
MESSAGES: dict[str, tuple[Message, dict[str, str]]] = {
    "text alone": ({}, {}),
    "html alone": ({"text": None, "html": "<p>Hello\n<b>Zoë</b></p>"}, {}),
    "text and html": (PAGE, {}),
    "empty text": ({"text": "", "html": "<p>Hello</p>"}, {}),
    "texts as Buffers": ({"text": buffer("Zoë".encode()), "html": buffer("<p>Zoë".encode())}, {}),
    "texts as objects": ({"text": {"content": "Zoë"}, "html": {"content": "<p>Zoë"}}, {}),
    "all line ends": ({"text": "a\nb\r\nc\n\n.\n..\nFrom me\n trailing \t\n"}, {}),
    "long lines": ({"text": "x" * 3000 + " ü" * 2000, "html": "<p>" + "y z " * 2000}, {}),
    "no subject": ({"subject": None}, {"subject": NO_SUBJECT}),
    "long subject": ({"subject": "Your order of last week is on its way " * 8}, {}),
    "long word": ({"subject": "x" * 400}, {}),
    "long subject in another script": ({"subject": "Ваш заказ уже в пути, спасибо за покупку 🎉 " * 6}, {}),
    "subject of specials": ({"subject": 'Re: "a" <b> (c) =20 =?x, 100 % _ ?='}, {}),
    "names": ({"from": "Acme News <news@example.com>", "to": '"Lee, Ann" <ann@example.org>'}, {}),
    "name with a comma": ({"from": {"name": "Acme, Inc.", "address": "news@example.com"}}, {}),
    "names of specials": (
        {"from": {"name": 'A "B" \\ (C) <d>; e@f', "address": "news@example.com"}, "to": "O'Hara <ann@example.org>"},
        {},
    ),
    "names in other scripts": (
        {
            "from": {"name": "Müller & Söhne GmbH", "address": "news@example.com"},
            "to": ["Zoë Ångström <zoe@example.org>", {"name": "山田太郎", "address": "taro@example.org"}],
            "replyTo": "Служба поддержки пользователей интернет-магазина <desk@example.com>",
        },
        {},
    ),
    "several of each": (
        {
            "to": ["ann@example.org", "Bob <bob@example.org>"],
            "cc": 'carol@example.org, "Dan, D." <dan@example.org>',
            "bcc": "log@example.com",
            "replyTo": ["desk@example.com", {"name": "Boss", "address": "boss@example.com"}],
        },
        {},
    ),
    "the same twice": ({"to": "ann@example.org, Ann <ann@example.org>"}, {"to": EACH_ONCE}),
    "fifty recipients": ({"to": [f"Person {number} <p{number}@example.org>" for number in range(50)]}, {}),
    "sender": ({"sender": "Zoë at Acme <zoe@example.com>"}, {}),
    "sender without a name": ({"sender": "list@example.com"}, {}),
    "domain in another script": ({"to": "Ann <ann@bücher.example>"}, {}),
    "address in another script": ({"to": "Zoë <zoë@example.org>", "sender": "Jörg <jörg@example.com>"}, {}),
    "address and domain in another script": (
        {"to": "zoë@bücher.example"},
        {"to": ASCII_DOMAIN, "envelope": ASCII_DOMAIN},
    ),
    "headers": ({"headers": {"X-Campaign": "spring", "x-words": "Frühling " * 20, "X-Number": 7}}, {}),
    "headers several times": ({"headers": {"X-A": ["one", "two"], "X-B": "three"}}, {}),
    "headers as a list": ({"headers": [{"key": "X-A", "value": "one"}, {"key": "X-A", "value": "two"}]}, {}),
    "headers that say nothing": ({"headers": {"X-A": None, "X-B": "", "X-C": True, "X-D": ["a", None]}}, {}),
    "headers as objects": ({"headers": {"X-A": {"prepared": True, "value": "a  b"}, "X-B": {"value": "ü"}}}, {}),
    "unsubscribing": (
        {
            "headers": {
                "List-Unsubscribe": "<https://app.example.com/u?a=1&b=2>, <mailto:off@example.com?subject=off>",
                "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
            }
        },
        {},
    ),
    "list": (
        {
            "list": {
                "help": "help@example.com?subject=help",
                "unsubscribe": {"url": "https://app.example.com/u/1", "comment": "Unsubscribe"},
                "subscribe": ["s@example.com", {"url": "app.example.com/s", "comment": "On"}],
                "post": [["https://app.example.com/p", {"url": "p@example.com", "comment": "Post"}]],
                "id": {"url": "news.example.com", "comment": "Our news"},
            }
        },
        {},
    ),
    "list with comments of specials": (
        {
            "list": {
                "unsubscribe": {"url": "https://app.example.com/u", "comment": "Off (now :) or \\ never"},
                "help": {"url": "h@example.com", "comment": "Hilfe für Zoë"},
                "id": {"url": "https://news.example.com", "comment": 'The "news" \\'},
            }
        },
        {},
    ),
    "list id in another script": ({"list": {"id": {"url": "news.example.com", "comment": "Für Zoë"}}}, {}),
    "one click in list": (
        {"list": {"unsubscribe": "https://app.example.com/u", "unsubscribe-post": "List-Unsubscribe=One-Click"}},
        {"field list-unsubscribe-post": ONE_CLICK},
    ),
    "high priority": ({"priority": "high"}, {}),
    "low priority": ({"priority": "low", "headers": {"Importance": "High", "X-A": "b"}}, {}),
    "normal priority": ({"priority": "normal"}, {}),
    "a thread": ({"inReplyTo": "<a@example.com>", "references": ["<a@example.com>", "<b@example.com>"]}, {}),
    "a thread without brackets": ({"inReplyTo": "a@example.com", "references": "a@example.com b@example.com"}, {}),
    "a thread among the headers": (
        {"headers": {"In-Reply-To": "a@example.com", "References": "a@example.com b@example.com"}},
        {},
    ),
    "a thread told twice": (
        {
            "inReplyTo": "<a@example.com>",
            "headers": {"In-Reply-To": "<old@example.com>", "References": "<r@x.example>"},
        },
        {},
    ),
    "a long thread": ({"references": [f"<{number}.{'x' * 40}@example.com>" for number in range(40)]}, {}),
    "message id": ({"messageId": "<order-7@example.com>"}, {}),
    "message id without brackets": ({"messageId": "order-7@example.com"}, {}),
    "file of text": (file(), {}),
    "file of text in another script": (file(content="Grüße, Zoë"), {}),
    "file of text whose charset is another": (
        file(content="Grüße", contentType="text/plain; charset=iso-8859-1; format=flowed"),
        {},
    ),
    "table in another script": (
        file(filename="a.csv", content="größe;1\r\n"),
        {"part 1 charset": CHARSET_KEPT},
    ),
    "file of text in base64": (file(content="R3LDvMOfZQ==", encoding="base64"), {}),
    "file in base64": ({"attachments": [INVOICE]}, {}),
    "file in hex": (file(filename="a.bin", content="00ff0d0a", encoding="hex"), {}),
    "file in latin1": (
        file(content="Gr\u00fc\u00dfe", encoding="latin1", contentType="text/plain; charset=iso-8859-1"),
        {},
    ),
    "file in utf16le": (file(content="Grüße", encoding="utf16le", contentType="text/plain; charset=utf-16le"), {}),
    "file as a Buffer": (file(filename="a.bin", content=buffer(bytes(range(256)))), {}),
    "empty file": (file(content=""), {}),
    "file as a data URL": (file(filename="a.png", content=None, path=f"data:image/png;base64,{encoded(PNG)}"), {}),
    "file as a data URL of text": (
        file(content=None, path="data:text/plain;charset=utf-8,Gr%C3%BC%C3%9Fe"),
        {"part 1 charset": CHARSET_KEPT},
    ),
    "picture in base64 that doesn't say so": (
        file(filename="a.png", content=encoded(PNG)),
        {"part 1 content": BASE64_GUESSED},
    ),
    "file with a type of its own": (file(filename="a.dat", contentType="application/x-acme; version=2"), {}),
    "files without a name": (
        {
            "attachments": [
                {"content": "Thank you.", "contentType": "text/plain"},
                {"content": encoded(PDF), "encoding": "base64", "contentType": "application/pdf"},
                {"content": "x"},
                {"content": "x", "filename": False},
            ]
        },
        {"part 3 filename": EXTENSION, "part 3 name": EXTENSION},
    ),
    "file shown in the mail": (file(contentDisposition="inline"), {}),
    "names of files": (
        {
            "attachments": [
                {"filename": name, "content": "x"}
                for name in (
                    *('a "b" c.txt', "a;b.txt", "a\\b.txt", "it's.txt", "a=b,c.txt", "100%.txt", "a (1).txt", "-a.txt"),
                    *("größe.txt", "Счёт за сентябрь.pdf", "請求書.pdf", "🎉.png", "a'b%ü.txt", "ends with \\"),
                )
            ]
        },
        {},
    ),
    "long names of files": (
        {
            "attachments": [
                {"filename": name * 6 + ".pdf", "content": "x"}
                for name in ("A very long name of a file; ", "Счёт за сентябрь, ", "請求書", "x" * 40)
            ]
        },
        {},
    ),
    "picture in the html": ({**PAGE, "attachments": [LOGO]}, {}),
    "picture in the html alone": ({**PAGE, "text": None, "attachments": [LOGO]}, {}),
    "picture in the html and a file": ({**PAGE, "attachments": [INVOICE, LOGO]}, {}),
    "two pictures in the html": ({**PAGE, "attachments": [LOGO, {**LOGO, "cid": "<b@example.com>"}]}, {}),
    "picture that is attached": ({**PAGE, "attachments": [{**LOGO, "contentDisposition": "attachment"}]}, {}),
    "picture without a cid": ({**PAGE, "attachments": [{**LOGO, "cid": None}]}, {}),
    "picture with a cid without html": ({"attachments": [LOGO, INVOICE]}, {}),
    "file with a cid": ({**PAGE, "attachments": [LOGO, {**INVOICE, "cid": "invoice"}]}, {}),
    "file with a cid without html": ({"attachments": [{**INVOICE, "cid": "invoice"}]}, {}),
    "invitation": ({"icalEvent": {"method": "REQUEST", "filename": "lunch.ics", "content": EVENT}}, {}),
    "invitation as text": ({**PAGE, "icalEvent": EVENT}, {}),
    "invitation in small letters": ({**PAGE, "icalEvent": {"method": "cancel", "content": EVENT}}, {}),
    "invitation as a Buffer": ({"icalEvent": {"content": buffer(EVENT.encode())}}, {}),
    "invitation in base64": ({"icalEvent": {"content": encoded(EVENT.encode()), "encoding": "base64"}}, {}),
    "invitation, picture and file": ({**PAGE, "icalEvent": EVENT, "attachments": [INVOICE, LOGO]}, {}),
    "another mail": (file(filename="old.eml", content="Subject: Hi\r\nFrom: a@example.com\r\n\r\nHello\r\n"), {}),
    "another mail in UTF-8": (
        file(filename="old.eml", content="Subject: Hi\r\n\r\nGrüße\r\n"),
        {"tree": NO_8BIT, "part 1 disposition": NO_8BIT},
    ),
}


@pytest.fixture(scope="module")
def nodemailer() -> Iterator[NodeLines]:
    with NodeLines("compose.mjs") as program:
        yield program


def message_of(changes: Message) -> Message:
    message = {name: value for name, value in {**LEAST, **changes}.items() if value is not None}
    if "attachments" in message:
        message["attachments"] = [
            {name: value for name, value in one.items() if value is not None} for one in message["attachments"]
        ]
    return message


def ours(message: Message) -> Mail:
    return build_mail(parse_job(message), "id", makes_text=False)


@pytest.mark.parametrize("name", MESSAGES)
def test_the_mail_is_nodemailers(name: str, nodemailer: NodeLines) -> None:
    changes, expected = MESSAGES[name]
    message = message_of(changes)
    mail, theirs = ours(message), nodemailer.ask(message)
    own = {**view(mail.data), "envelope": [mail.sender, *mail.recipients]}
    other = {
        **view(base64.b64decode(theirs["mail"])),
        "envelope": [theirs["envelope"]["from"], *theirs["envelope"]["to"]],
    }
    if "messageId" not in message:
        # The worker's is the same at each try.
        other["field message-id"] = own["field message-id"]
    different = {
        key: (own.get(key), other.get(key)) for key in own.keys() | other.keys() if own.get(key) != other.get(key)
    }
    assert {key: pair for key, pair in different.items() if key not in expected} == {}
    assert expected.keys() <= different.keys()


@pytest.mark.parametrize("changes", [{"attachments": [INVOICE]}, {"icalEvent": EVENT}], ids=["file", "invitation"])
def test_files_alone_have_an_empty_text_before_them(changes: Message, nodemailer: NodeLines) -> None:
    """Programs show what they are attached to, and the providers' APIs want a text."""
    message = message_of({"messageId": "a@example.com", "text": "", **changes})
    theirs = nodemailer.ask({**message, "text": "\n"})
    assert view(ours(message).data) == view(base64.b64decode(theirs["mail"]))


def test_the_text_is_made_from_the_html(nodemailer: NodeLines) -> None:
    message = message_of({**PAGE, "text": None, "messageId": "a@example.com", "attachments": [INVOICE, LOGO]})
    theirs = nodemailer.ask({**message, "text": "Hello Zoë\n"})
    assert view(build_mail(parse_job(message), "id").data) == view(base64.b64decode(theirs["mail"]))


def view(raw: bytes) -> View:
    message = message_from_bytes(raw, policy=policy.default)
    assert isinstance(message, EmailMessage)
    # nodemailer folds before a long first word, and keeps blanks around all.
    seen: View = {"subject": None if message["Subject"] is None else message["Subject"].strip()}
    fields: dict[str, list[str]] = {}
    for name, value in message.raw_items():
        if name.lower() not in NEVER_COMPARED:
            fields.setdefault(name.lower(), []).append(re.sub(r"\r?\n", "", str(value)))
    for name, values in fields.items():
        if name in ("from", "sender", "reply-to", "to", "cc"):
            seen[name] = [(decoded(person), address) for person, address in getaddresses(values)]
        elif name not in ("subject", "content-disposition", "content-id"):
            seen[f"field {name}"] = [decoded(value) for value in values]
    seen["tree"] = tree(message)
    for number, part in enumerate(leaves(message)):
        seen |= {f"part {number} {key}": value for key, value in part_view(part).items()}
    return seen


def decoded(value: str) -> str:
    """By the library's older reader: before Python 3.13 the newer one shows a blank between two encoded words."""
    return " ".join(str(make_header(decode_header(value))).split(" ")).strip()


def tree(part: EmailMessage) -> object:
    if part.get_content_maintype() != "multipart":
        return part.get_content_type()
    return [part.get_content_type(), part.get_param("type"), *(tree(one) for one in parts_of(part))]


def leaves(part: EmailMessage) -> Iterator[EmailMessage]:
    if part.get_content_maintype() != "multipart":
        yield part
        return
    for one in parts_of(part):
        yield from leaves(one)


def parts_of(part: EmailMessage) -> list[EmailMessage]:
    return [one for one in part.get_payload() if isinstance(one, EmailMessage)]


def part_view(part: EmailMessage) -> View:
    if part.get_content_maintype() == "message":
        [inner] = parts_of(part)
        content: object = inner.as_bytes(policy=policy.SMTP)
    else:
        content = part.get_payload(decode=True)
    is_text = part.get_content_maintype() == "text"
    assert isinstance(content, bytes)
    own = {"charset", "name", "boundary", "format"}
    return {
        "filename": part.get_filename(),
        "name": None if (name := part.get_param("name")) is None else decoded(str(name)),
        "cid": part["Content-ID"],
        "disposition": part.get_content_disposition(),
        "parameters": {key: value for key, value in part.get_params([])[1:] if key not in own},
        "charset": "utf-8" if is_text and content.isascii() else part.get_content_charset(),
        # A text's line ends are the mail's.
        "content": content.replace(b"\r\n", b"\n").rstrip(b"\n") if is_text else content,
    }
