"""Mails: read back with the standard library's parser, which the builder doesn't use."""

import time
from dataclasses import replace
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import InvalidJob
from worker.mail.addresses import Address
from worker.mail.jobs import parse_job
from worker.mail.message import Mail, build_mail
from worker.mail.text import text_from_html

JOB: dict[str, Any] = {
    "to": {"name": "Zoë, “the” Ångström", "address": "zoe@example.com"},
    "from": "News <news@sender.example>",
    "subject": "Grüße an Zoë — ein sehr langer Betreff, der gewiss nicht in eine Zeile von 78 Zeichen passt ✓",
    "html": "<h1>Grüße</h1><p>Zu <a href='https://example.com/a'>den Preisen</a></p>",
    "campaignId": "c1",
    "subscriberId": "s1",
}


def mail_of(**changes: Any) -> Mail:
    return build_mail(parse_job({**JOB, **changes}), "id-1", date=datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC))


def parsed(mail: Mail) -> EmailMessage:
    message = message_from_bytes(mail.data, policy=policy.default)
    assert isinstance(message, EmailMessage)
    assert not message.defects
    return message


def body_of(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    assert isinstance(part, EmailMessage)
    return str(part.get_content()).replace("\r\n", "\n")


def test_the_reader_sees_what_the_app_wrote() -> None:
    message = parsed(mail_of())
    assert message["Subject"] == JOB["subject"]
    assert message["To"].addresses[0].display_name == JOB["to"]["name"]
    assert message["To"].addresses[0].addr_spec == "zoe@example.com"
    assert message["From"] == "News <news@sender.example>"
    assert message["Date"] == "Mon, 04 May 2026 03:02:01 +0000"
    assert message["MIME-Version"] == "1.0"
    assert message.get_content_type() == "multipart/alternative"
    assert body_of(message, "html") == JOB["html"]


def test_a_text_part_is_made_from_the_html() -> None:
    assert body_of(parsed(mail_of()), "plain") == "Grüße\n\nZu den Preisen (https://example.com/a)\n"
    assert body_of(parsed(mail_of(text="Own words\n")), "plain") == "Own words\n"


def test_a_job_without_html_is_plain_text() -> None:
    message = parsed(mail_of(html="", text="Only text"))
    assert message.get_content_type() == "text/plain"
    assert str(message.get_content()).strip() == "Only text"


def test_html_alone_where_no_text_is_made() -> None:
    message = parsed(replace(mail_of(), makes_text=False))
    assert message.get_content_type() == "text/html"
    assert str(message.get_content()).strip() == JOB["html"]
    # What was queued stays.
    own = parsed(replace(mail_of(text="Own words\n"), makes_text=False))
    assert (own.get_content_type(), body_of(own, "plain")) == ("multipart/alternative", "Own words\n")
    only = parsed(replace(mail_of(html="", text="Only text"), makes_text=False))
    assert only.get_content_type() == "text/plain"


def test_unsubscribing_with_one_click() -> None:
    message = parsed(
        mail_of(unsubscribeUrl="https://example.com/u?x=1", headers={"List-Unsubscribe": "<mailto:a@b.c>"})
    )
    assert message.get_all("List-Unsubscribe") == ["<https://example.com/u?x=1>, <mailto:a@b.c>"]
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"


def test_own_headers_and_reply_to() -> None:
    message = parsed(mail_of(headers={"X-Campaign": "Frühling"}, replyTo="team@example.com"))
    assert message["X-Campaign"] == "Frühling"
    assert message["Reply-To"] == "team@example.com"


def test_the_message_id_depends_on_the_recipient_alone() -> None:
    job = parse_job(JOB)
    first, again = build_mail(job, "one"), build_mail(job, "two")
    assert first.message_id == again.message_id
    assert first.message_id.endswith("@sender.example>")
    assert build_mail(parse_job({**JOB, "subscriberId": "s2"}), "one").message_id != first.message_id
    single = parse_job({**JOB, "campaignId": None, "subscriberId": None})
    assert build_mail(single, "one").message_id != build_mail(single, "two").message_id


def test_lines_are_within_the_limits_of_rfc_5322() -> None:
    mail = mail_of(subject="x" * 3000, html="y" * 3000 + "ü" * 3000, headers={"X-Long": "z " * 2000})
    lines = mail.data.split(b"\r\n")
    assert max(map(len, lines)) <= 998
    assert b"\n" not in mail.data.replace(b"\r\n", b"")
    assert mail.data.isascii()
    message = parsed(mail)
    assert message["Subject"] == "x" * 3000


def test_an_address_that_needs_smtputf8_goes_out_as_it_is() -> None:
    mail = mail_of(to={"name": "Zoë", "address": "zoë@example.com"})
    assert mail.needs_smtputf8
    assert "\r\n <zoë@example.com>\r\n".encode() in mail.data
    assert parsed(mail)["To"].addresses[0].display_name == "Zoë"


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r", exclude_categories=("Cc", "Cs")), max_size=300)


@given(TEXT, TEXT, st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")) | st.just("\n")))
def test_any_subject_name_and_body_come_back(subject: str, name: str, html: str) -> None:
    try:
        job = parse_job({**JOB, "subject": subject, "to": {"name": name, "address": "a@b.example"}, "html": f"<{html}"})
    except InvalidJob:
        return
    mail = build_mail(job, "id")
    assert b"\n" not in mail.data.replace(b"\r\n", b"")
    assert max(map(len, mail.data.split(b"\r\n"))) <= 998
    message = message_from_bytes(mail.data, policy=policy.default)
    assert isinstance(message, EmailMessage)
    assert message["To"].addresses[0].addr_spec == "a@b.example"
    assert body_of(message, "html") == f"<{html}"


def test_hostile_html_ends_soon() -> None:
    assert "deep" in text_from_html("<div>" * 20_000 + "deep")
    # What takes a parser seconds and hundreds of megabytes is read without one.
    assert text_from_html("<p>x &amp; <b" * 400_000 + "<<<").startswith("x & <b x & <b")
    assert text_from_html("<script>alert(1)</script><style>p{}</style>") == "\n"
    assert text_from_html("<ul><li>one<li>two</ul><p>a<br>b") == "- one\n- two\n\na\nb\n"


@pytest.mark.parametrize("piece", ["<p><b c={}>", '<p><font color="#{}">'])
def test_html_that_a_parser_would_multiply_is_read_without_one(piece: str) -> None:
    began = time.process_time()
    assert text_from_html("".join(piece.format(number) for number in range(3_000)) + "end").endswith("end\n")
    assert time.process_time() - began < 1


def test_an_address_shows_its_domain() -> None:
    assert Address("", "a@b.example").domain == "b.example"
