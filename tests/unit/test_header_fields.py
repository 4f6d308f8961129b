"""Header fields: the standard library's reader, which shares no code with the writer, gets back what the app queued."""

import re
from datetime import UTC, datetime
from email import message_from_string, policy
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.utils import parseaddr
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.errors import InvalidJob
from worker.mail.job_headers import read_headers
from worker.mail.jobs import parse_job
from worker.mail.message import Mail, build_mail

JOB: dict[str, Any] = {"to": "zoe@example.com", "from": "news@sender.example", "subject": "Hello", "text": "Hi"}
CHARACTERS = st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"))
ENCODED_LOOKS = st.sampled_from(["=?utf-8?q?caf=C3=A9?=", "=?", "?=", "=?x", '"', "\\", "<", ">", "(", ",", "  "])
LENGTHS = st.sampled_from([20, 40, 80, 80, 200, 900, 1200])


@st.composite
def words(draw: st.DrawFn) -> str:
    """In any script or in ASCII alone, with and without blanks, up to some thousand characters."""
    alphabet = draw(st.sampled_from([CHARACTERS, st.characters(min_codepoint=33, max_codepoint=126)]))
    piece = draw(st.lists(st.text(alphabet, min_size=1, max_size=30) | ENCODED_LOOKS, min_size=1, max_size=8))
    text = draw(st.sampled_from(["", " "])).join(piece)
    return (text * (draw(LENGTHS) // len(text) + 1) if draw(st.booleans()) else text).strip()[:9000].strip()


@st.composite
def urls(draw: st.DrawFn) -> str:
    path = draw(st.text("abcXYZ019-_.~%/?&=+", max_size=40))
    return "https://a.example/" + (path * 100)[: draw(st.integers(0, 950))].replace("=?", "")


LOCAL = st.text("abcdefgh.+-_0123", min_size=1, max_size=64).filter(
    lambda local: ".." not in local and local.strip(".") == local
)


def mail_of(**changes: Any) -> Mail:
    return build_mail(parse_job({**JOB, **changes}), "id-1", date=datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC))


def read(mail: Mail) -> EmailMessage:
    head = mail.data.split(b"\r\n\r\n")[0]
    assert max(map(len, mail.data.split(b"\r\n"))) <= 998
    assert not re.search(rb"[\r\n]", mail.data.replace(b"\r\n", b""))
    assert head.isascii() or mail.needs_smtputf8
    assert not re.search(rb"\r\n[ \t]*\r\n", head)
    assert all(len(line) <= 76 for line in head.split(b"\r\n") if b"=?utf-8?b?" in line and b"List" not in line)
    message = message_from_string(mail.data.decode(), policy=policy.default)
    assert isinstance(message, EmailMessage)
    return message


def name_in(message: EmailMessage, field: str) -> str:
    """By the library's older reader: before Python 3.13 the newer one shows a blank between a name's two encoded words,
    though RFC 2047, 6.2 tells it not to."""
    (raw,) = (value for name, value in message.raw_items() if name == field)
    return str(make_header(decode_header(parseaddr(re.sub(r"\r?\n", "", str(raw)))[0])))


@settings(max_examples=2000, deadline=None)
@given(
    to=words(),
    sender=words(),
    local=LOCAL,
    subject=words(),
    header=words(),
    url=urls(),
    listed=st.lists(urls(), max_size=8),
)
def test_a_reader_gets_back_what_was_queued(
    to: str, sender: str, local: str, subject: str, header: str, url: str, listed: list[str]
) -> None:
    help_field = ", ".join(f"<{one}>" for one in listed)
    message = read(
        mail_of(
            to={"name": to, "address": f"{local}@b.example"},
            **{"from": {"name": sender, "address": "news@sender.example"}},
            replyTo=f"{local}@c.example",
            subject=subject,
            unsubscribeUrl=url,
            headers={"X-Words": header, "List-Help": help_field},
        )
    )
    for field, name, address in (
        ("To", to, f"{local}@b.example"),
        ("From", sender, "news@sender.example"),
        ("Reply-To", "", f"{local}@c.example"),
    ):
        assert [mailbox.addr_spec for mailbox in message[field].addresses] == [address]
        assert name_in(message, field) == name
    assert message["Subject"] == subject
    assert message.get("X-Words", "") == header
    assert message["List-Unsubscribe"] == f"<{url}>"
    assert message.get("List-Help", "") == help_field


def test_a_long_name_keeps_its_address() -> None:
    for name in ("x" * 900, "x" * 3000, "ж" * 900, '"' * 900, "two words " * 90):
        message = read(mail_of(to={"name": name, "address": "zoë@example.com"}))
        assert [mailbox.addr_spec for mailbox in message["To"].addresses] == ["zoë@example.com"]
        assert name_in(message, "To") == name.strip()


def test_what_looks_encoded_is_shown_as_it_was_written() -> None:
    looks = "=?utf-8?q?caf=C3=A9?="
    message = read(mail_of(subject=f"How {looks} works", to={"name": looks, "address": "a@b.example"}))
    assert message["Subject"] == f"How {looks} works"
    assert message["To"].addresses[0].display_name == looks


LONG_URL = "https://app.example/u?" + "x" * 900


@pytest.mark.parametrize("name", ["List-Unsubscribe", "list-help", "List-Archive", "Archived-At", "References"])
def test_the_apps_own_urls_stay_as_they_are(name: str) -> None:
    value = f"<{LONG_URL}>"
    assert f"\r\n{name}: {value}\r\n".encode() in mail_of(headers={name: value}).data
    # What fits no line is folded at its own blanks.
    several = f"<{LONG_URL}>, <mailto:leave@app.example>, <{LONG_URL}>"
    mail = mail_of(headers={name: several})
    assert f"<{LONG_URL}>, <mailto:leave@app.example>,\r\n <{LONG_URL}>\r\n".encode() in mail.data
    assert read(mail)[name] == several


def test_the_longest_url_has_a_line_of_its_own() -> None:
    url = "https://app.example/".ljust(995, "x")
    assert f"\r\nList-Unsubscribe:\r\n <{url}>\r\n".encode() in mail_of(unsubscribeUrl=url).data
    with pytest.raises(InvalidJob, match=r"unsubscribeUrl has 996 characters.* 995 .*can't be split"):
        mail_of(unsubscribeUrl=url + "x")
    with pytest.raises(InvalidJob, match=r"headers.List-Post holds 998 characters without a blank"):
        read_headers({"List-Post": f"<{url}x>"})


def test_the_words_beside_an_address_are_encoded_alone() -> None:
    message = read(mail_of(headers={"List-Id": '"Neues, für Zoë" <news.a.example>', "Errors-To": "Zoë <e@a.example>"}))
    assert message["List-Id"] == "Neues, für Zoë <news.a.example>"
    assert message["Errors-To"] == "Zoë <e@a.example>"
    for value in ("<https://a.example/ü>", "zoë@a.example", "https://a.example/ü"):
        with pytest.raises(InvalidJob, match=r"headers.List-Post holds an address or URL with non-ASCII"):
            read_headers({"List-Post": value})


def test_a_comment_ends_where_it_ends() -> None:
    listed = {
        "unsubscribe": {"url": "https://a.example/u", "comment": "Off (now :) or \\ never"},
        "id": {"url": "https://news.a.example", "comment": 'The "news" \\'},
    }
    message = read(mail_of(list=listed))
    assert message["List-Unsubscribe"] == r"<https://a.example/u> (Off \(now :\) or \\ never)"
    # An identifier, not a URL (RFC 2919).
    assert message["List-ID"] == r'"The \"news\" \\" <news.a.example>'


def test_a_field_is_told_once() -> None:
    message = read(mail_of(inReplyTo="new@a.example", headers={"in-reply-to": "<old@a.example>", "X-A": "b"}))
    assert message.get_all("In-Reply-To") == ["<new@a.example>"]
    assert message["X-A"] == "b"


def test_a_header_that_says_nothing_is_none() -> None:
    assert read_headers({"X-A": None, "X-B": "", "X-C": False, "X-D": True, "X-E": ["a", None]}) == (
        *(("X-D", "true"), ("X-E", "a")),
    )


def test_a_header_that_was_prepared_isnt_encoded_twice() -> None:
    value = {"prepared": True, "value": "=?utf-8?q?Fr=C3=BChling?="}
    assert read(mail_of(headers={"X-A": value, "X-B": {"value": "a"}}))["X-A"] == "Frühling"


def test_a_sender_may_have_a_name_and_need_smtputf8() -> None:
    mail = mail_of(sender="Zoë, Desk <zoë@example.com>")
    assert mail.needs_smtputf8
    sender = read(mail)["Sender"].address
    assert (sender.display_name, sender.addr_spec) == ("Zoë, Desk", "zoë@example.com")


def test_a_reply_to_may_need_smtputf8() -> None:
    mail = mail_of(replyTo="Zoë <zoë@example.com>")
    assert mail.needs_smtputf8
    assert read(mail)["Reply-To"].addresses[0].addr_spec == "zoë@example.com"
    assert not mail_of(replyTo="Zoë <zoe@example.com>").needs_smtputf8
