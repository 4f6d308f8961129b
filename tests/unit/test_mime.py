"""Any mail that a job can ask for comes back as it was queued: by the standard library's reader, and by the npm package
postal-mime, which shares no code with it or with the writer."""

import base64
import re
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.utils import getaddresses
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from testbed.node_lines import NodeLines
from worker.mail.jobs import parse_job
from worker.mail.message import Mail, build_mail

Message = dict[str, Any]

#: One script at a time, and all together.
SCRIPTS = st.sampled_from(
    [
        st.characters(min_codepoint=32, max_codepoint=126),
        st.characters(min_codepoint=0xA0, max_codepoint=0x24F, exclude_categories=["Cc"]),
        st.characters(min_codepoint=0x370, max_codepoint=0x5FF, exclude_categories=["Cn"]),
        st.characters(min_codepoint=0x600, max_codepoint=0x6FF, exclude_categories=("Cc", "Cn")),
        st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF),
        st.characters(min_codepoint=0x1F300, max_codepoint=0x1F64F),
        st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")),
    ]
)
SPECIALS = st.sampled_from(
    ['"', "\\", ";", ",", "'", "%20", "(", ")", "<", ">", "@", "=", "?=", ":", ".", "  ", "*0*="]
)


@st.composite
def lines(draw: st.DrawFn) -> str:
    """One line of words, as a header has it."""
    words = st.text(draw(SCRIPTS), min_size=1, max_size=12) | SPECIALS
    found = draw(st.sampled_from(["", " "])).join(draw(st.lists(words, min_size=1, max_size=6)))
    # Readers take it for an encoded word in places where none may stand.
    return (found * draw(st.sampled_from([1, 1, 1, 2, 30])))[:1500].replace("=?", "= ?").strip()


@st.composite
def texts(draw: st.DrawFn) -> str:
    """Lines of any length, with any line ends."""
    line = st.text(draw(SCRIPTS), max_size=60) | st.sampled_from(
        [".", "..", ".x", "From me", "--", "--=_0_", "=", "=3D", " trailing \t", "", "x" * 80, "ü" * 600, "y" * 3000]
    )
    ends = st.sampled_from(["\n", "\r\n", "\r", "\n\n"])
    return "".join(piece for pair in draw(st.lists(st.tuples(line, ends), max_size=8)) for piece in pair) + draw(line)


LOCAL = st.from_regex(r"[a-z0-9!#$%&'*+/=^_`{|}~-]{1,20}(\.[a-z0-9+_-]{1,20})?", fullmatch=True)
DOMAINS = st.sampled_from(["a.example", "b.example", "xn--bcher-kva.example"])
LOCAL_UTF8 = st.sampled_from(["zoë", "почта", "用户"])


@st.composite
def addresses(draw: st.DrawFn, *, ascii_only: bool = False) -> Message:
    local = draw(LOCAL if ascii_only else st.one_of(LOCAL, LOCAL, LOCAL, LOCAL_UTF8))
    return {"name": draw(st.just("") | lines()), "address": f"{local}@{draw(DOMAINS)}"}


def several(least: int = 0) -> st.SearchStrategy[list[Message]]:
    return st.lists(addresses(), min_size=least, max_size=4, unique_by=lambda one: one["address"])


TYPES = st.sampled_from(
    [
        *("", "text/plain", "text/html; charset=utf-8", "text/csv; charset=iso-8859-1", "image/png", "application/pdf"),
        *("application/x-acme; version=2", 'text/x-a; b="c d;e"', "message/rfc822", "multipart/mixed", "audio/ogg"),
    ]
)
MAILS = st.sampled_from(
    [b"Subject: a\r\n\r\nHello\r\n", b"Subject: a\n\nHello", b"\xff", b"Subject: a\r\n\r\n\xc3\xbc"]
)
CONTENTS = st.one_of(st.binary(max_size=200), st.sampled_from([b"", b"\r\n.\r\n", b"--=_0_", b"x" * 2000]), MAILS)


@st.composite
def files(draw: st.DrawFn) -> Message:
    kind = draw(TYPES)
    # Each reader has its own opinion of what only begins like a mail.
    content = draw(MAILS if kind == "message/rfc822" else CONTENTS)
    file: Message = {"content": {"type": "Buffer", "data": list(content)}}
    if name := draw(st.just("") | lines()):
        file["filename"] = name
    if kind:
        file["contentType"] = kind
    if cid := draw(st.just("") | st.from_regex(r"[A-Za-z0-9_.+-]{1,30}(@a\.example)?", fullmatch=True)):
        file["cid"] = cid
    if disposition := draw(st.sampled_from(["", "", "inline", "attachment"])):
        file["contentDisposition"] = disposition
    return file


@st.composite
def messages(draw: st.DrawFn) -> Message:
    message: Message = {
        "from": draw(addresses()),
        "to": draw(several(1)),
        "subject": draw(st.just("") | lines()),
        "headers": [
            {"key": f"X-{number}", "value": one} for number, one in enumerate(draw(st.lists(lines(), max_size=3)))
        ],
        "attachments": draw(st.lists(files(), max_size=4)),
    }
    for name, strategy in (
        ("cc", several()),
        ("replyTo", several()),
        ("sender", st.none() | addresses()),
        ("text", st.none() | texts()),
        ("html", st.none() | texts()),
        ("icalEvent", st.none() | events()),
    ):
        if value := draw(strategy):
            message[name] = value
    if not any(message.get(name) for name in ("text", "html", "icalEvent", "attachments")):
        message["text"] = "Hello"
    return message


@st.composite
def events(draw: st.DrawFn) -> Message:
    return {
        "method": draw(st.sampled_from(["REQUEST", "CANCEL", "publish"])),
        "content": "BEGIN:VCALENDAR\r\n" + draw(texts()),
        "filename": draw(lines()) or "invite.ics",
    }


@pytest.fixture(scope="module")
def postal_mime() -> Iterator[NodeLines]:
    with NodeLines("read_mail.mjs") as program:
        yield program


LEAST: Message = {
    "from": {"name": "", "address": "news@a.example"},
    "to": [{"name": "", "address": "ann@b.example"}],
    "subject": "",
    "headers": [],
    "attachments": [],
    "text": "Hello",
}


def attached(content: bytes, **changes: str) -> Message:
    return {"content": {"type": "Buffer", "data": list(content)}, **changes}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(messages())
@example(LEAST)
# What this test, or nodemailer's, once found.
@example({**LEAST, "attachments": [attached(b"no mail", contentType="message/rfc822")]})
@example({**LEAST, "attachments": [attached(b"\n", contentType="message/rfc822")]})
@example({**LEAST, "attachments": [attached(b"x", contentType="multipart/mixed")]})
@example({**LEAST, "attachments": [attached(b"x", filename="größe " * 200)]})
@example({**LEAST, "attachments": [attached(b"x", filename="x" * 1400)]})
@example({**LEAST, "icalEvent": {"content": "BEGIN:VCALENDAR", "filename": '""'}})
@example({**LEAST, "sender": {"name": "Zoë, Desk", "address": "zoë@a.example"}})
def test_any_mail_comes_back(postal_mime: NodeLines, message: Message) -> None:
    mail = build_mail(parse_job(message), "id", makes_text=False)
    check_lines(mail)
    check_by_the_standard_library(mail)
    check_by_postal_mime(mail, postal_mime.ask(base64.b64encode(mail.data).decode()))


def check_lines(mail: Mail) -> None:
    assert max(map(len, mail.data.split(b"\r\n"))) <= 998
    assert not re.search(rb"[\r\n]", mail.data.replace(b"\r\n", b""))
    head, _, body = mail.data.partition(b"\r\n\r\n")
    assert head.isascii() or mail.needs_smtputf8
    assert body.isascii()
    # No line of a header is all blanks (RFC 5322, 3.2.2).
    assert not re.search(rb"\r\n[ \t]+\r\n", head)


def same_line_ends(text: str) -> str:
    return re.sub(r"\r\n|\r", "\n", text)


def check_by_the_standard_library(mail: Mail) -> None:
    job = mail.job
    message = message_from_bytes(mail.data, policy=policy.default)
    assert isinstance(message, EmailMessage)
    assert not [defect for part in message.walk() for defect in part.defects]
    assert message["Subject"] == job.subject
    for name, people in (
        ("From", [job.sender]),
        ("Sender", [job.own_sender] if job.own_sender else []),
        ("To", job.to),
        ("Cc", job.cc),
        ("Reply-To", job.reply_to),
    ):
        raw = [value for key, value in message_from_bytes(mail.data).raw_items() if key == name]
        assert len(raw) == (1 if people else 0)
        assert [person for one in raw for person in read_people(str(one))] == [(one.name, one.email) for one in people]
    assert [(key, str(value)) for key, value in message.items() if key.startswith("X-")] == list(job.headers)
    parts = [part for part in walk(message) if part.get_content_maintype() != "multipart"]
    texts_found = [(part.get_content_subtype(), body_of(part)) for part in parts if part["Content-Disposition"] is None]
    expected = [("plain", job.text), ("html", job.html), ("calendar", job.event.content if job.event else "")]
    assert texts_found == [(kind, same_line_ends(text)) for kind, text in expected if text]
    # Not by get_filename, which takes off quotes that are the name's own.
    found = [
        (
            part["Content-Disposition"].params.get("filename", ""),
            str(part["Content-ID"] or "").strip("<>"),
            payload(part),
        )
        for part in parts
        if part["Content-Disposition"] is not None
    ]
    assert sorted(found) == sorted(files_of(mail))


def walk(part: EmailMessage) -> Iterator[EmailMessage]:
    """Without what is in a mail within the mail."""
    yield part
    if part.get_content_maintype() == "multipart":
        for one in part.iter_parts():
            assert isinstance(one, EmailMessage)
            yield from walk(one)


def read_people(raw: str) -> list[tuple[str, str]]:
    """By the library's older reader: before Python 3.13 the newer one shows a blank between two encoded words."""
    raw = raw.encode("ascii", "surrogateescape").decode("utf-8")
    return [(str(make_header(decode_header(name))), email) for name, email in getaddresses([re.sub(r"\r?\n", "", raw)])]


def body_of(part: EmailMessage) -> str:
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    return content.decode("utf-8").replace("\r\n", "\n")


def payload(part: EmailMessage) -> bytes:
    if part.get_content_type() == "message/rfc822":
        [inner] = part.iter_parts()
        return inner.as_bytes(policy=policy.SMTP).rstrip()
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    return content


def files_of(mail: Mail, *, event: bool = True) -> list[tuple[str, str, bytes]]:
    """Name, cid and content of all that is attached."""
    found = [(one.filename, one.cid, canonical(one.content_type, one.content)) for one in mail.job.attachments]
    if event and mail.job.event is not None:
        found.append((mail.job.event.filename, "", mail.job.event.content.encode()))
    return found


def canonical(content_type: str, content: bytes) -> bytes:
    """A mail within a mail has a mail's line ends."""
    return (
        content.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n").rstrip()
        if stays_a_mail(content_type, content)
        else content
    )


def stays_a_mail(content_type: str, content: bytes) -> bool:
    return content_type == "message/rfc822" and content.startswith(b"Subject:") and content.isascii()


def check_by_postal_mime(mail: Mail, read: Message) -> None:
    job = mail.job
    assert read.get("subject", "") == job.subject
    for name, people in (
        ("from", [job.sender]),
        ("sender", [job.own_sender] if job.own_sender else []),
        ("to", job.to),
        ("cc", job.cc),
        ("replyTo", job.reply_to),
    ):
        found = read.get(name) or []
        found = found if isinstance(found, list) else [found]
        assert [(one["name"], one["address"]) for one in found] == [(one.name, one.email) for one in people]
    # It puts files of text that are shown into the text.
    if not any(one.inline and one.content_type.startswith("text/") for one in job.attachments):
        for kind, text in (("text", job.text), ("html", job.html)):
            assert same_line_ends(read.get(kind, "")).rstrip("\n") == same_line_ends(text).rstrip("\n")
        found_files = [
            (
                one["filename"] or "",
                one.get("contentId", "").strip("<>"),
                canonical(one["mimeType"], base64.b64decode(one["content"])),
            )
            for one in read["attachments"]
            # It changes the line ends of events.
            if one["mimeType"] not in ("text/calendar", "application/ics")
        ]
        assert sorted(found_files) == sorted(files_of(mail, event=False))
        events = [one for one in read["attachments"] if one["mimeType"] in ("text/calendar", "application/ics")]
        assert [one.get("method") for one in events] == ([job.event.method, None] if job.event else [])
