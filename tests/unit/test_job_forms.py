"""The forms in which public apps queue mails, and what the worker makes of each (docs/jobs.md)."""

import contextlib
import re
import time
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

import pytest

from worker.errors import InvalidJob, InvalidRecipient
from worker.mail.addresses import Address
from worker.mail.jobs import Defaults, Job, parse_job
from worker.mail.message import build_mail
from worker.mail.names import FieldNames, use_own_names
from worker.mail.shape import with_sender

DEFAULTS = Defaults(sender=Address("", "news@example.com"))
LEAST: dict[str, Any] = {"to": "ann@example.org", "text": "Hello"}


def job(**changes: Any) -> Job:
    return parse_job({**LEAST, **changes}, DEFAULTS)


def read(found: Job) -> EmailMessage:
    message = message_from_bytes(build_mail(found, "id").data, policy=policy.default)
    assert isinstance(message, EmailMessage)
    return message


@pytest.mark.parametrize("name", ["to", "email", "recipient", "toEmail", "to_email"])
@pytest.mark.parametrize(
    "value",
    [
        "Ann <ann@example.org>",
        {"name": "Ann", "address": "ann@example.org"},
        {"name": "Ann", "email": "ann@example.org"},
        ["Ann <ann@example.org>"],
        [{"name": "Ann", "email": "ann@example.org"}],
    ],
    ids=str,
)
def test_recipients(name: str, value: object) -> None:
    assert parse_job({name: value, "text": "x"}, DEFAULTS).to == (Address("Ann", "ann@example.org"),)


def test_several_recipients_each_once() -> None:
    found = job(to="a@x.example, B <b@x.example>", cc=["c@x.example", "a@x.example"], bcc="d@x.example;a@x.example")
    assert [one.email for one in found.recipients] == ["a@x.example", "b@x.example", "c@x.example", "d@x.example"]
    message = read(found)
    assert [one.addr_spec for one in message["To"].addresses] == ["a@x.example", "b@x.example"]
    assert message["Bcc"] is None


def test_a_mail_may_go_to_fifty() -> None:
    many = [f"r{number}@example.org" for number in range(50)]
    assert len(job(to=many).to) == 50
    assert [one.addr_spec for one in read(job(to=many))["To"].addresses] == many
    with pytest.raises(InvalidRecipient, match="holds 51 addresses"):
        job(to=[*many, "one@more.example"])


@pytest.mark.parametrize(
    ("fields", "name", "email"),
    [
        ({"from": "Acme, Inc. <a@x.example>"}, "Acme, Inc.", "a@x.example"),
        ({"from": {"name": "Acme", "email": "a@x.example"}}, "Acme", "a@x.example"),
        ({"fromName": "Acme", "fromEmail": "a@x.example"}, "Acme", "a@x.example"),
        ({"from_name": "Acme", "from_email": "a@x.example"}, "Acme", "a@x.example"),
        ({"fromName": "Acme"}, "Acme", "news@example.com"),
        ({"sender": "Acme <a@x.example>"}, "Acme", "a@x.example"),
        ({}, "", "news@example.com"),
    ],
    ids=str,
)
def test_senders(fields: dict[str, Any], name: str, email: str) -> None:
    assert job(**fields).sender == Address(name, email)


def test_a_sender_beside_the_author() -> None:
    message = read(job(**{"from": "a@x.example", "sender": "list@x.example"}))
    assert (message["From"], message["Sender"]) == ("a@x.example", "list@x.example")


@pytest.mark.parametrize(
    "fields",
    [
        {"replyTo": ["a@x.example", "b@x.example"]},
        {"replyToList": [{"email": "a@x.example"}, {"email": "b@x.example", "name": "B"}]},
        {"headers": {"reply-to": "a@x.example, b@x.example"}},
    ],
    ids=str,
)
def test_answers_go_to_several(fields: dict[str, Any]) -> None:
    assert [one.email for one in job(**fields).reply_to] == ["a@x.example", "b@x.example"]


BUFFER = {"type": "Buffer", "data": list("<p>Zoë</p>".encode())}


@pytest.mark.parametrize(
    ("fields", "html", "text"),
    [
        ({"html": "<p>Zoë</p>"}, "<p>Zoë</p>", ""),
        ({"htmlContent": "<p>Zoë</p>"}, "<p>Zoë</p>", ""),
        ({"html_content": "<p>Zoë</p>"}, "<p>Zoë</p>", ""),
        ({"html": BUFFER}, "<p>Zoë</p>", ""),
        ({"html": {"content": "<p>Zoë</p>"}}, "<p>Zoë</p>", ""),
        ({"body": "<p>Zoë</p>"}, "<p>Zoë</p>", ""),
        ({"body": BUFFER}, "<p>Zoë</p>", ""),
        (
            {"body": "a < b, <name>, <https://x.example>, <ann@x.example>"},
            "",
            "a < b, <name>, <https://x.example>, <ann@x.example>",
        ),
        ({"content": "Hello"}, "", "Hello"),
        ({"message": "Hello<br>you"}, "Hello<br>you", ""),
        ({"html": "<p>x</p>", "body": "plain"}, "<p>x</p>", "plain"),
        ({"text": "Hello", "html": ""}, "", "Hello"),
        ({"content": [{"type": "text/plain", "value": "a"}, {"type": "text/html", "value": "<b>b"}]}, "<b>b", "a"),
    ],
    ids=str,
)
def test_texts(fields: dict[str, Any], html: str, text: str) -> None:
    found = parse_job({"to": "ann@example.org", **fields}, DEFAULTS)
    assert (found.html, found.text) == (html, text)


PLACEHOLDERS = Defaults(sender=Address("", "news@example.com"), placeholders="fields")


def test_each_placeholder_is_the_jobs_own_field() -> None:
    raw = {
        "to": "ann@example.org",
        "subject": "Order {{ orderId }}",
        "html": "<p>{{name}} {{user.city}} {{user.city}}</p>",
        "text": "{{name}} {{orderId}}",
        "orderId": 7,
        "name": "<Ann> {{orderId}}",
        "user": {"city": "Zürich & Bern"},
    }
    found = parse_job(raw, PLACEHOLDERS)
    assert found.subject == "Order 7"
    assert found.html == "<p>&lt;Ann&gt; {{orderId}} Zürich &amp; Bern Zürich &amp; Bern</p>"
    assert found.text == "<Ann> {{orderId}} 7"
    assert found.unsent == ()


@pytest.mark.parametrize("value", [None, [], {}, True])
def test_a_placeholder_for_nothing_is_refused(value: object) -> None:
    with pytest.raises(InvalidJob, match=r"\{\{city\}\} stands in the mail, but the job has no city"):
        parse_job({**LEAST, "text": "in {{city}}", "city": value}, PLACEHOLDERS)


@pytest.mark.parametrize(
    ("file", "filename", "content_type", "content"),
    [
        ({"filename": "a.txt", "content": "Zoe"}, "a.txt", "text/plain", b"Zoe"),
        ({"filename": "a.csv", "content": "Zoë"}, "a.csv", "text/csv; charset=utf-8", "Zoë".encode()),
        (
            {"content": "ë", "type": "text/plain; Charset=x"},
            "attachment-1.txt",
            "text/plain; charset=utf-8",
            "ë".encode(),
        ),
        ({"href": "data:text/plain;charset=x,%EB"}, "attachment-1.txt", "text/plain; charset=x", b"\xeb"),
        ({"filename": "a.txt", "content": "Wm8="}, "a.txt", "text/plain", b"Wm8="),
        ({"filename": "a.txt", "content": "Wm8=", "encoding": "base64"}, "a.txt", "text/plain", b"Zo"),
        ({"filename": "a.bin", "content": "5a6f", "encoding": "hex"}, "a.bin", "application/octet-stream", b"Zo"),
        ({"filename": "a.pdf", "content": "Wm8="}, "a.pdf", "application/pdf", b"Zo"),
        ({"filename": "a.pdf", "content": "no base64!"}, "a.pdf", "application/pdf", b"no base64!"),
        ({"filename": "a.tar.gz", "content": "Wm8="}, "a.tar.gz", "application/gzip", b"Zo"),
        ({"filename": "a.csv", "content": "YSxi", "type": "text/csv"}, "a.csv", "text/csv", b"a,b"),
        ({"filename": "a.tex", "content": "Hello World"}, "a.tex", "application/x-tex", b"Hello World"),
        ({"filename": "LICENSE", "content": "test"}, "LICENSE", "application/octet-stream", b"test"),
        ({"filename": "a", "content": {"type": "Buffer", "data": [90, 111]}}, "a", "application/octet-stream", b"Zo"),
        ({"content": "Wm8", "type": "image/png", "disposition": "inline"}, "attachment-1.png", "image/png", b"Zo"),
        (
            {"filename": "a.docx", "path": "data:;base64,Wm8="},
            "a.docx",
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
            b"Zo",
        ),
        ({"href": "data:text/plain,a%20b"}, "attachment-1.txt", "text/plain", b"a b"),
        (
            {"filename": "a.csv", "content": "a,b", "content_type": "text/csv; charset=utf-8"},
            "a.csv",
            "text/csv; charset=utf-8",
            b"a,b",
        ),
    ],
    ids=str,
)
def test_attachments(file: dict[str, Any], filename: str, content_type: str, content: bytes) -> None:
    [found] = job(attachments=[file]).attachments
    assert (found.filename, found.content_type, found.content) == (filename, content_type, content)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"attachments": ["a"]}, r"attachments\[0\] is a string"),
        ({"attachments": [{"filename": "a"}]}, r"attachments\[0\] has neither content nor"),
        ({"attachments": [{"path": "/etc/passwd"}]}, "has no files of the app's"),
        ({"attachments": [{"href": "http://x.example/a"}]}, "queue the file's content"),
        ({"attachments": [{"href": "https://x.example/a"}]}, "leads to x.example, from which no files are fetched"),
        ({"attachments": [{"path": "https://files.example/a"}]}, "leads to files.example, from which"),
        ({"attachments": [{"content": "x", "contentType": "text/plain\r\nX: y"}]}, "line break"),
        ({"attachments": [{"content": "x", "contentType": "nonsense"}]}, "isn't a media type"),
        ({"attachments": [{"content": "x", "filename": "a\nb"}]}, "line break"),
        ({"attachments": [{"content": "x", "cid": "a b"}]}, "isn't a content id"),
        ({"attachments": [{"content": "§", "encoding": "base64"}]}, "isn't base64"),
        ({"attachments": [{"content": "x", "encoding": "rot13"}]}, "an encoding that nobody knows"),
        ({"attachments": [{"content": {"type": "Buffer", "data": [256]}}]}, "aren't a list of bytes"),
        ({"attachments": [{"content": {"type": "Buffer", "data": [True]}}]}, "aren't a list of bytes"),
        ({"attachments": [{"content": 5}]}, "is a number"),
        ({"attachments": [{"content": "x"}] * 101}, "holds 101 files"),
        ({"attachments": [{"content": "x" * 7_000_001, "filename": "a.txt"}]}, "have 7,000,001 bytes"),
        ({"icalEvent": {"content": "x", "method": "EAT"}}, "icalEvent.method"),
        ({"icalEvent": {"path": "/a.ics"}}, "icalEvent.path can't be sent"),
        ({"html": {"type": "Buffer", "data": [255]}}, "isn't UTF-8"),
        ({"raw": "From: a"}, "raw can't be sent"),
        ({"envelope": {"from": "a@x.example"}}, "envelope can't be sent"),
        ({"amp": "<html amp4email>"}, "amp can't be sent"),
        ({"headers": {"List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}}, "promises one click"),
        ({"headers": [{"key": "X-A"}]}, "each of it must be"),
        ({"priority": "urgent"}, "must be high, normal or low"),
        ({"references": "zoë@x.example"}, "references isn't a mail's Message-ID"),
        ({"messageId": "<a@b> <c@d>"}, "messageId isn't a mail's Message-ID"),
        ({"list": "x"}, "list is a string"),
        ({"tags": [""]}, "tags holds an empty one"),
        ({"list": {"help": ["h@x.example"] * 101}}, "list holds 101 fields; at most 100 are sent"),
        ({"tags": [{"name": "a", "value": "1"}, {"name": "a", "value": 2}]}, "tags.a and another of this name say"),
        ({"to": {"name": "x"}}, "to has neither address nor email"),
        (
            {"headers": {"X-A": {"prepared": True, "value": "=?utf-8?q?a=0D=0ABcc:_b@x.example?="}}},
            "holds a line break",
        ),
        ({"headers": {"X-A": {"prepared": True, "value": "=?foo?q?a?="}}}, "isn't encoded as RFC 2047"),
        ({"headers": {"X-A": {"prepared": True, "value": "=?utf-8?q?=FF?="}}}, "isn't encoded as RFC 2047"),
        ({"headers": {"X-A": {"prepared": True, "value": "=?utf-8?b?a?="}}}, "isn't encoded as RFC 2047"),
        ({"attachments": [{"path": "data:text/plainé,abc"}]}, "isn't a media type"),
        ({"recipient-variables": {"a": 1}}, "recipient-variables can't be sent: queue a job for each"),
        ({"isMultiple": True}, "isMultiple can't be sent"),
        ({"campaignId": 1, "subscriberId": 1, "cc": "b@x.example"}, "cc is set, but a campaign's mail"),
    ],
    ids=str,
)
def test_what_cant_be_sent_gets_a_sentence(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidJob, match=words):
        job(**fields)


def test_nothing_that_is_refused_is_refused_empty() -> None:
    assert job(raw=None, envelope={}, amp="", attachDataUrls=False).unsent == ()


@pytest.mark.parametrize(
    ("fields", "headers"),
    [
        ({"headers": {"X-A": "1"}}, {"X-A": ["1"]}),
        ({"headers": {"X-A": ["1", "2"]}}, {"X-A": ["1", "2"]}),
        ({"headers": {"X-A": 1}}, {"X-A": ["1"]}),
        ({"headers": [{"key": "X-A", "value": "1"}, {"name": "X-A", "value": "2"}]}, {"X-A": ["1", "2"]}),
        ({"inReplyTo": "a@b"}, {"In-Reply-To": ["<a@b>"]}),
        ({"references": ["<a@b>", "c@d"]}, {"References": ["<a@b> <c@d>"]}),
        ({"priority": "high"}, {"X-Priority": ["1 (Highest)"], "Importance": ["High"], "X-MSMail-Priority": ["High"]}),
        ({"priority": "normal"}, {}),
        ({"priority": 3}, {}),
        (
            {"list": {"unsubscribe": {"url": "https://x.example/u", "comment": "Off"}}},
            {"List-Unsubscribe": ["<https://x.example/u> (Off)"]},
        ),
        ({"list": {"help": "help@x.example?subject=help"}}, {"List-Help": ["<mailto:help@x.example?subject=help>"]}),
        (
            {"list": {"unsubscribe": ["a@x.example", ["b@x.example", "x.example/u"]]}},
            {"List-Unsubscribe": ["<mailto:a@x.example>, <mailto:b@x.example>, <http://x.example/u>"]},
        ),
        ({"list": {"id": {"url": "x.example", "comment": "Our list"}}}, {"List-ID": ['"Our list" <x.example>']}),
    ],
    ids=str,
)
def test_header_fields(fields: dict[str, Any], headers: dict[str, list[str]]) -> None:
    found = job(**fields)
    assert {name: [value for key, value in found.headers if key == name] for name, _ in found.headers} == headers
    message = read(found)
    for name, values in headers.items():
        assert message.get_all(name) == values


def test_one_click_as_every_guide_shows_it() -> None:
    headers = {
        "List-Unsubscribe": "<https://x.example/u>, <mailto:u@x.example>",
        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
    }
    message = read(job(headers=headers))
    assert {name: message[name] for name in headers} == headers


def test_an_apps_own_message_id() -> None:
    mail = build_mail(job(messageId="order-7@x.example"), "id")
    assert mail.message_id == "<order-7@x.example>"
    # Two mails may have it: a provider's key mustn't be the same.
    assert mail.identity != "order-7@x.example"


@pytest.mark.parametrize("wrapper", ["mailOptions", "data", "options", "email", "anything"])
def test_a_mail_within_an_object(wrapper: str) -> None:
    raw = {
        "type": "x",
        "campaignId": 7,
        "subscriberId": 1,
        wrapper: {"to": "ann@example.org", "subject": "S", "text": "T"},
    }
    found = parse_job(raw, DEFAULTS)
    assert (found.to[0].email, found.subject, found.campaign_id, found.unsent) == ("ann@example.org", "S", "7", ())


def test_what_isnt_sent_of_a_file_is_told() -> None:
    files = [{"filename": "a.txt", "content": "x", "content_type": "text/plain", "size": 1, "colour": "red"}]
    assert job(attachments=files).unsent == ("attachments.colour",)
    with pytest.raises(InvalidJob, match=r"attachments\[0\].headers can't be sent"):
        job(attachments=[{**files[0], "headers": {"X-A": "b"}}])


def test_a_data_url_may_be_long() -> None:
    url = "data:application/pdf;base64," + "JVBERi0x" * 5_000
    assert len(job(attachments=[{"filename": "a.pdf", "path": url}]).attachments[0].content) == 30_000


def test_what_isnt_sent_is_told() -> None:
    found = job(colour="red", userId=7, email=True, recipient="Ann", traceId="t", extra=None)
    assert found.unsent == ("colour", "email", "recipient")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"html": "<p>a", "htmlContent": "<p>b"}, "html and htmlContent say different things"),
        ({"html": "<p>a", "body": "<p>b"}, "html and body say different things"),
        ({"html_content": "<p>a", "message": BUFFER}, "html_content and message say different things"),
        ({"body": "other"}, "text and body say different things"),
        ({"body": "Hello", "content": "<p>b"}, "body and content say different things"),
        ({"textBody": "other"}, "text and textBody say different things"),
        ({"content": [{"type": "text/plain", "value": "other"}]}, "text and content say different things"),
        ({"content": [{"type": "text/html", "value": one} for one in "ab"]}, "two parts of one type"),
        ({"email": "bob@example.org"}, "to and email say different things.*worker_job_fields"),
        ({"toEmail": ["ann@example.org", "bob@example.org"]}, "to and toEmail say different things"),
        ({"from": "a@x.example", "fromEmail": "b@x.example"}, "from and fromEmail say different things"),
        ({"from": "A <a@x.example>", "fromName": "B"}, "fromName and the name in the sender's address say different"),
        ({"sender": "A <a@x.example>", "fromName": "B"}, "fromName and the name in the sender's address say different"),
        ({"from": "a@x.example", "fromEmail": "nobody"}, "fromEmail isn't one mail address"),
        ({"fromName": "A", "from_name": "B"}, "fromName and from_name say different things"),
        ({"replyTo": "a@x.example", "reply_to": "b@x.example"}, "replyTo and reply_to say different things"),
        ({"replyTo": "a@x.example", "headers": {"reply-to": "b@x.example"}}, "replyTo and headers.Reply-To say"),
        ({"attachments": [{"content": "a"}], "attachment": {"content": "b"}}, "attachments and attachment say"),
        ({"tags": ["a"], "categories": ["b"]}, "tags and categories say different things"),
        ({"campaignId": 1, "campaign_id": 2, "subscriberId": 1}, "campaignId and campaign_id hold different ids"),
        ({"campaignId": 1, "subscriberId": 1, "subscriber_id": 2}, "subscriberId and subscriber_id hold different ids"),
        (
            {"campaignId": 1, "subscriberId": 1, "subject": "", "email": "bob@example.org"},
            "to and email say different things",
        ),
    ],
    ids=str,
)
def test_of_two_different_things_neither_is_dropped(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidJob, match=words):
        job(**fields)


def test_two_fields_for_one_thing_within_an_object() -> None:
    raw = {"mail": {**LEAST, "email": "bob@example.org"}}
    with pytest.raises(InvalidJob, match=r"mail\.to and mail\.email say different things"):
        parse_job(raw, DEFAULTS)
    both = {"campaignId": 7, "mail": {**LEAST, "campaign_id": 8}}
    with pytest.raises(InvalidJob, match="campaign_id and campaignId hold different ids"):
        parse_job(both, DEFAULTS)


@pytest.mark.parametrize(
    "fields",
    [
        {"body": "Hello"},
        {"text_content": "Hello\r\n"},
        {"message": {"type": "Buffer", "data": list(b"Hello")}},
        {"html": "<p>a</p>", "body": "<p>a</p>\n", "htmlBody": "<p>a</p>"},
        {"email": "Ann Lee <ann@example.org>", "recipient": {"email": "ann@Example.ORG"}},
        {"from": "a@x.example", "fromEmail": "a@X.example", "fromName": "A"},
        {"from": "A <a@x.example>", "fromName": "A", "fromEmail": "a@x.example"},
        {"replyTo": "A <a@x.example>", "reply_to": ["a@x.example"], "headers": {"Reply-To": "a@x.example"}},
        {"campaignId": 7, "campaign_id": "7", "subscriberId": "s", "subscriber_id": "s ", "subject": "S"},
        {"campaignId": 7, "mail": {"campaignId": 7}, "subject": "S"},
        {"attachments": [{"content": "a"}], "attachment": [{"content": "a"}]},
        {"priority": "high", "headers": {"X-Priority": "1", "Importance": "high", "X-MSMail-Priority": "High"}},
    ],
    ids=str,
)
def test_the_same_said_twice_is_said_once(fields: dict[str, Any]) -> None:
    found = job(**fields)
    assert (found.to[0].email, found.text) == ("ann@example.org", "Hello")
    assert set(found.unsent) <= {"mail"}


def test_a_field_that_stands_in_the_mail_is_no_second_one() -> None:
    """As a contact form's jobs are: whose message it is stands in the text."""
    raw = {**LEAST, "text": "{{email}} writes: {{message}}", "email": "bob@example.org", "message": "Hi"}
    found = parse_job(raw, PLACEHOLDERS)
    assert (found.to[0].email, found.text, found.unsent) == ("ann@example.org", "bob@example.org writes: Hi", ())


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"priority": "high", "headers": {"X-Priority": "5"}}, "headers.X-Priority"),
        ({"inReplyTo": "<a@b>", "headers": {"in-reply-to": "<c@d>"}}, "headers.in-reply-to"),
        (
            {"unsubscribeUrl": "https://x.example/u", "headers": {"List-Unsubscribe": "<https://x.example/v>"}},
            "headers.List-Unsubscribe",
        ),
    ],
    ids=str,
)
def test_a_header_field_in_whose_place_another_goes_out_is_told(fields: dict[str, Any], name: str) -> None:
    assert job(**fields).unsent == (name,)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"from": ["a@x.example", "b@x.example"]}, "from holds 2 addresses instead of one"),
        ({"from": "a@x.example, b@x.example"}, "from holds 2 addresses instead of one"),
        ({"to": "Team: a@x.example, b@x.example;"}, "to holds a group, which isn't sent to"),
        ({"to": "undisclosed-recipients:;"}, "to holds a group"),
        ({"cc": {"name": "Team", "group": ["a@x.example"]}}, "cc holds a group"),
        ({"to": '"ann lee"@x.example'}, "to holds an address with a quoted local part"),
        ({"cc": 'a@x.example, "ann lee"@x.example'}, "cc holds an address with a quoted local part"),
        ({"to": {"address": '"ann lee"@x.example'}}, "to holds an address with a quoted local part"),
    ],
    ids=str,
)
def test_kinds_of_addresses_that_arent_sent_to(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidJob, match=words):
        job(**fields)


@pytest.mark.parametrize("wrapped", [False, True])
def test_another_sender_for_a_campaign_goes_before_all_its_names(wrapped: bool) -> None:
    """Of `mail-worker resume CAMPAIGN --from SENDER`."""
    mail = {**LEAST, "from": "nobody", "from_email": "b@x.example", "fromName": "B", "sender": "c@x.example"}
    raw = with_sender({"mail": mail} if wrapped else mail, "News <news@x.example>")
    found = parse_job(raw, DEFAULTS)
    assert (found.sender, found.own_sender) == (Address("News", "news@x.example"), None)


def test_names_of_ones_own() -> None:
    use_own_names({"to": "userEmail", "html": "emailBody", "campaignId": "mailingId"})
    try:
        raw = {
            "userEmail": "ann@example.org",
            "emailBody": "<p>x",
            "mailingId": 7,
            "email": "x@example.org",
            "subject": "",
        }
        found = parse_job({**raw, "html": "<p>y", "content": "<p>z", "campaignId": 8}, DEFAULTS)
        assert found.unsent == ("email", "html", "campaignId", "content")
        assert (found.to[0].email, found.html, found.campaign_id) == ("ann@example.org", "<p>x", "7")
        assert found.subscriber_id == "ann@example.org"
    finally:
        use_own_names({})


def test_a_name_stands_for_one_field_only() -> None:
    names = FieldNames()
    assert names.known("reply_to") == names.known("reply_to")
    assert names.known("replyTo") is not None
    assert names.known("nonsense") is None


def test_an_invitation_stands_in_the_mail_and_beside_it() -> None:
    message = read(job(html="<p>x", icalEvent={"method": "REQUEST", "content": "BEGIN:VCALENDAR\nEND:VCALENDAR\n"}))
    types = [part.get_content_type() for part in message.walk()]
    assert types == [
        *("multipart/mixed", "multipart/alternative", "text/plain", "text/html", "text/calendar", "application/ics")
    ]
    assert 'method="REQUEST"' in str(
        next(part for part in message.walk() if part.get_content_subtype() == "calendar")["Content-Type"]
    )


def test_files_alone_are_a_mail() -> None:
    message = read(
        parse_job({"to": "ann@example.org", "attachments": [{"content": "Wm8=", "type": "image/png"}]}, DEFAULTS)
    )
    assert [part.get_content_type() for part in message.walk()] == ["multipart/mixed", "text/plain", "image/png"]


@pytest.mark.parametrize(
    ("file", "disposition"),
    [
        ({"filename": "a.png", "cid": "a"}, "inline"),
        ({"filename": "a.png"}, "attachment"),
        ({"filename": "a.png", "cid": "a", "contentDisposition": "attachment"}, "attachment"),
        ({"filename": "a.pdf", "cid": "a"}, "attachment"),
        ({"filename": "a.pdf", "contentDisposition": "inline"}, "inline"),
    ],
    ids=str,
)
def test_pictures_of_the_html_are_shown_and_files_attached(file: dict[str, Any], disposition: str) -> None:
    message = read(job(attachments=[{**file, "content": "Wm8="}]))
    assert [part.get_content_disposition() for part in message.walk()][-1] == disposition


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        ("Subject: a\n\nHello\n", "message/rfc822"),
        ("Subject: a\n\nZoë\n", "application/octet-stream"),
        ("no mail", "application/octet-stream"),
        ("Subject: a\n\n" + "x" * 999, "application/octet-stream"),
        ("Subject: a\r\rb\n", "application/octet-stream"),
    ],
)
def test_a_mail_within_a_mail_is_never_in_base64(content: str, content_type: str) -> None:
    """RFC 2045, 6.4."""
    file = {"filename": "old.eml", "content": {"type": "Buffer", "data": list(content.encode())}}
    mail = build_mail(job(attachments=[file]), "id")
    part = list(message_from_bytes(mail.data, policy=policy.default).walk())[2]
    assert part.get_content_type() == content_type
    assert (part["Content-Transfer-Encoding"] == "7bit") == (content_type == "message/rfc822")
    assert b"\n" not in mail.data.replace(b"\r\n", b"")


def test_a_long_name_of_a_file_fits_its_lines() -> None:
    name = "größe " * 300 + ".pdf"
    mail = build_mail(job(attachments=[{"filename": name, "content": "Wm8="}]), "id")
    assert max(map(len, mail.data.split(b"\r\n"))) <= 998
    part = list(message_from_bytes(mail.data, policy=policy.default).walk())[-1]
    assert part.get_filename() == name


def test_pictures_stand_with_the_html() -> None:
    files = [{"filename": "a.png", "content": "Wm8=", "cid": "a"}, {"filename": "b.pdf", "content": "Wm8="}]
    types = [part.get_content_type() for part in read(job(html='<img src="cid:a">', attachments=files)).walk()]
    assert types == [
        *("multipart/mixed", "multipart/alternative", "text/plain"),
        *("multipart/related", "text/html", "image/png", "application/pdf"),
    ]


HOSTS = Defaults(sender=Address("", "news@example.com"), attachment_hosts=("files.example.com", "*.cdn.example.com"))


@pytest.mark.parametrize(
    "url", ["https://files.example.com/a/b%20c.pdf?s=1", "HTTPS://eu.CDN.example.com:443/a/b%20c.pdf"]
)
def test_a_file_on_an_allowed_host(url: str) -> None:
    [file] = parse_job({**LEAST, "attachments": [{"path": url}]}, HOSTS).attachments
    assert (file.url, file.filename, file.content_type) == (url, "b c.pdf", "application/pdf")


@pytest.mark.parametrize(
    "url",
    [
        "https://files.example.com.evil.example/a",
        "https://files.example.com@evil.example/a",
        "https://user:secret@files.example.com/a",
        "https://files.example.com:8443/a",
        "https://cdn.example.com/a",
        "https://evilcdn.example.com/a",
        "https://127.0.0.1/a",
        "https://[::1]/a",
        "https://files.example.com\\@evil.example/a",
        "https:///a",
        "https://fıles.example.com/a",
        "https://files.example.com:x/a",
    ],
)
def test_a_file_anywhere_else_is_refused(url: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        parse_job({**LEAST, "attachments": [{"path": url}]}, HOSTS)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "raw",
    [
        {"to": None, "from": {"email": "news@acme.example"}, "subject": "S", "html": "x"},
        {"to": "", "replyTo": {"email": "support@acme.example", "subject": "S"}},
        {"email": None, "createdBy": {"email": "admin@acme.example", "text": "bio"}},
        {"subject": "S", "html": "x", "user": {"email": "ann@example.org", "subject": "Maths"}},
        {"vars": {"email": "friend@example.org", "text": "t"}},
        {"subject": "S", "text": "x", "createdBy": {"email": "admin@acme.example"}},
    ],
    ids=str,
)
def test_people_who_stand_in_a_job_besides_get_no_mail(raw: dict[str, Any]) -> None:
    with pytest.raises(InvalidJob, match="missing"):
        parse_job(raw, DEFAULTS)


def test_a_fetched_files_name_is_no_header() -> None:
    url = "https://files.example.com/a%0D%0AContent-Type:%20text%2Fhtml%0D%0A%0D%0A%3Cb%3E.pdf"
    found = parse_job({**LEAST, "attachments": [{"path": url}]}, HOSTS)
    assert "\n" not in found.attachments[0].filename
    assert [part.get_content_type() for part in read(found).walk()][1:] == ["text/plain", "application/pdf"]


@pytest.mark.parametrize(
    "change",
    [
        {"from": "<" + " " * 9_000 + "x"},
        {"to": '\\"' * 9_000 + ","},
        {"to": "@" * 15_000 + "<a@b.example>"},
        {"body": "<p " * 1_000_000},
        {"headers": [[[[]]]]},
        {"content": [{"type": "text/plain", "value": str(number)} for number in range(200_000)]},
    ],
    ids=["blanks", "quotes", "signs", "tags", "lists", "parts"],
)
def test_hostile_values_end_soon(change: dict[str, Any]) -> None:
    began = time.process_time()
    with contextlib.suppress(InvalidJob):
        parse_job({"to": "ann@example.org", **change}, DEFAULTS)
    # Of seconds and minutes before.
    assert time.process_time() - began < 2


def test_the_queues_name_for_a_job_is_nobodys() -> None:
    raw = {"name": "send-email", "data": {"to": "ann@example.org", "html": "Hello {{name}}"}}
    assert parse_job(raw, Defaults(DEFAULTS.sender, placeholders="name")).html == "Hello Subscriber"


def test_a_name_goes_with_an_author_who_has_none() -> None:
    assert job(**{"from": "news@acme.example", "fromName": "Acme"}).sender == Address("Acme", "news@acme.example")


def test_a_filled_subject_has_a_lines_limit_too() -> None:
    with pytest.raises(InvalidJob, match="subject is longer than 10,000 characters"):
        parse_job({**LEAST, "subject": "{{words}}" * 20, "words": "x" * 600}, PLACEHOLDERS)


def test_filled_places_have_a_texts_limit_too() -> None:
    raw = {**LEAST, "text": "{{words}}" * 200, "words": "x" * 60_000}
    with pytest.raises(InvalidJob, match="the mail has 12,000,000 characters"):
        parse_job(raw, PLACEHOLDERS)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"to": {"email": "a@example.org", "address": "b@example.org"}}, "which differ: queue one of them"),
        ({"attachments": [{"content": "a", "path": "data:text/plain,b"}]}, "attachments[0] has content and path"),
        ({"attachments": [{"href": "data:,a", "path": "data:,b"}]}, "attachments[0] has href and path"),
        ({"attachments": [{"content": "a", "cid": "a", "contentId": "b"}]}, "attachments[0] has cid and contentId"),
    ],
)
def test_one_thing_said_twice_within_a_field(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidJob, match=re.escape(words)):
        job(**changes)


def test_a_tag_said_twice_is_said_once() -> None:
    assert job(tags=["a", {"name": "a", "value": "1"}, "a", {"name": "a", "value": 1}]).tags == (("a", ""), ("a", "1"))


def test_an_empty_list_header_is_none() -> None:
    found = job(list={"unsubscribe": "", "help": None, "owner": {"url": "", "comment": "x"}})
    assert not [name for name, _ in found.headers if name.startswith("List-")]
