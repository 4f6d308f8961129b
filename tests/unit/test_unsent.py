"""Nothing that an app queues is dropped in silence: it's sent, told as not sent, or refused with its name."""

import html
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from worker.errors import InvalidJob
from worker.mail.addresses import Address
from worker.mail.content import Placeholders
from worker.mail.jobs import Defaults, Job, parse_job
from worker.mail.names import use_own_names

LEAST: dict[str, Any] = {"to": "ann@example.org", "text": "Hello"}
LATER = datetime.now(UTC) + timedelta(days=2)


def job(placeholders: Placeholders = "none", **changes: Any) -> Job:
    return parse_job({**LEAST, **changes}, Defaults(Address("", "news@example.com"), placeholders=placeholders))


@pytest.mark.parametrize(
    ("fields", "unsent"),
    [
        ({"template": "welcome", "context": {"a": 1}}, ("template", "context")),
        ({"templateId": "welcome", "vars": {}}, ("templateId",)),
        ({"icalEvent": {"content": "BEGIN:VCALENDAR", "colour": "red"}}, ("icalEvent.colour",)),
        ({"tags": [{"name": "a", "value": "b", "colour": "red"}, {"name": "c", "colour": ""}]}, ("tags.colour",)),
        ({"categories": {"name": "a", "colour": "red"}}, ("categories.colour",)),
        ({"list": {"help": {"url": "h@x.example", "colour": "red"}}}, ("list.help.colour",)),
        ({"list": {"help": [[{"url": "h@x.example", "colour": "red"}]]}}, ("list.help.colour",)),
        ({"content": [{"type": "text/plain", "value": "Hello", "charset": "x"}]}, ("content.charset",)),
        ({"html": {"content": "<p>x", "contentType": "text/html"}}, ("html.contentType",)),
        ({"headers": {"X-A": {"value": "b", "colour": "red"}}}, ("headers.X-A.colour",)),
        ({"headers": [{"key": "X-A", "value": "b", "colour": "red"}]}, ("headers.colour",)),
        ({"cc": [{"email": "bob@example.org", "id": 7, "age": 30}]}, ("cc.age",)),
        ({"attachment": {"content": "x", "colour": "red", "size": 1}}, ("attachment.colour",)),
        ({"mailSettings": {"footer": {"enable": True}}}, ("mailSettings",)),
        ({"schedule.sendAt": "2099-01-01", "a.dryRun": True}, ("schedule.sendAt", "a.dryRun")),
    ],
    ids=str,
)
def test_what_isnt_sent_is_told(fields: dict[str, Any], unsent: tuple[str, ...]) -> None:
    assert job(**fields).unsent == unsent


@pytest.mark.parametrize("placeholders", ["name", "fields"])
def test_words_that_stand_in_the_mail_are_sent(placeholders: Placeholders) -> None:
    found = job(placeholders, text="Hello {{name}}", context={"name": "Ann", "other": 1})
    assert (found.text, found.unsent) == ("Hello Ann", ())


@pytest.mark.parametrize("name", ["sendAt", "send_at", "scheduledAt", "scheduled_at", "deliveryTime", "o:deliverytime"])
@pytest.mark.parametrize(
    "value",
    [
        LATER.isoformat(),
        LATER.isoformat().replace("+00:00", "Z"),
        LATER.strftime("%a, %d %b %Y %H:%M:%S +0000"),
        LATER.date().isoformat(),
        int(LATER.timestamp()),
        int(LATER.timestamp() * 1000),
        str(int(LATER.timestamp())),
        "in 1 hour",
        True,
        [1],
        float("nan"),
        "9" * 400,
    ],
    ids=str,
)
def test_no_mail_leaves_too_early(name: str, value: object) -> None:
    with pytest.raises(InvalidJob, match=f"{name} is .*, but a mail leaves as soon as .* give the job a delay"):
        parse_job({**LEAST, name: value}, Defaults(Address("", "news@example.com")))
    with pytest.raises(InvalidJob, match=rf"mail\.{name} is"):
        parse_job({"mail": {**LEAST, name: value}}, Defaults(Address("", "news@example.com")))


@pytest.mark.parametrize(
    "value",
    [None, False, "", 0, 1_700_000_000, "2024-05-01T10:00:00Z", "Wed, 01 May 2024 10:00:00 +0200", time.time() + 30],
    ids=str,
)
def test_a_time_that_has_come_is_nothing(value: object) -> None:
    assert job(sendAt=value, scheduled_at=value).unsent == ()


def test_a_time_that_stands_in_the_mail_is_one_of_its_words() -> None:
    found = job("fields", text="It comes at {{deliveryTime}}", deliveryTime=LATER.isoformat())
    assert found.text.endswith(LATER.isoformat())


@pytest.mark.parametrize(
    ("outer", "inner", "words"),
    [
        ({"sendAt": LATER.isoformat()}, {"sendAt": "2024-05-01T10:00:00Z"}, "sendAt is"),
        ({"sendAt": LATER.isoformat()}, {"sendAt": None}, f"sendAt is {LATER.isoformat()!r}"),
        ({"dryRun": True}, {"dryRun": False}, "dryRun is on"),
    ],
    ids=str,
)
def test_what_stands_beside_the_mail_counts_too(outer: dict[str, Any], inner: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidJob, match=f"^{re.escape(words)}"):
        parse_job({**outer, "mail": {**LEAST, **inner}}, Defaults(Address("", "news@example.com")))


def test_a_switch_may_lie_as_deep_as_a_reader_goes() -> None:
    switch: object = True
    for _ in range(5_000):
        switch = {"enable": switch}
    with pytest.raises(InvalidJob, match=r"^mailSettings is on"):
        job(mailSettings=switch)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"sandboxMode": True}, "sandboxMode"),
        ({"sandbox_mode": {"enable": True}}, "sandbox_mode"),
        ({"mail_settings": {"sandbox_mode": {"enable": True}}}, "mail_settings.sandbox_mode"),
        ({"mailSettings": {"footer": {}, "sandboxMode": {"enable": "true"}}}, "mailSettings.sandboxMode"),
        ({"o:testmode": "yes"}, "o:testmode"),
        ({"dryRun": 1}, "dryRun"),
    ],
    ids=str,
)
def test_no_trial_is_sent_for_real(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(InvalidJob, match=f"{name} is on, but the mail would leave for real"):
        job(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"sandboxMode": False},
        {"mailSettings": {"sandboxMode": {"enable": False}}},
        {"mail_settings": {}},
        {"o:testmode": "no", "dryRun": 0, "testMode": None},
    ],
    ids=str,
)
def test_a_trial_that_is_off_is_nothing(fields: dict[str, Any]) -> None:
    assert job(**fields).unsent == ()


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ({"filename": "a", "name": "b"}, "filename and name"),
        ({"contentType": "text/plain", "type": "text/html"}, "contentType and type"),
        ({"content_type": "text/plain", "mimetype": "text/html"}, "content_type and mimetype"),
        ({"contentDisposition": "inline", "disposition": "attachment"}, "contentDisposition and disposition"),
        ({"cid": "a", "content_id": "<b>"}, "cid and content_id"),
        ({"contentId": "a", "content_id": "b"}, "contentId and content_id"),
    ],
    ids=str,
)
def test_a_files_two_names_for_one_thing(file: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidJob, match=rf"attachments\[0\] has {words}, which say different things: queue one"):
        job(attachments=[{"content": "x", **file}])


def test_a_files_two_names_that_say_the_same() -> None:
    file: dict[str, Any] = {
        "content": "x",
        "filename": "a.txt",
        "name": "a.txt",
        "cid": "a",
        "contentId": "<a>",
        "contentType": "text/plain",
        "type": "Text/Plain; charset=us-ascii",
        "contentDisposition": "inline",
        "disposition": "INLINE",
    }
    [found] = job(attachments=[file]).attachments
    assert (found.filename, found.cid, found.inline) == ("a.txt", "a", True)
    assert found.content_type == "Text/Plain; charset=us-ascii"


@pytest.mark.parametrize("encoding", [{}, {"encoding": "base64"}])
@pytest.mark.parametrize("parameters", ["", ";filename=generated.pdf"])
def test_a_content_that_is_a_data_url(encoding: dict[str, str], parameters: str) -> None:
    """As canvases and PDF libraries give it."""
    [found] = job(
        attachments=[{"filename": "a.pdf", "content": f"data:application/pdf{parameters};base64,JVBERi0=", **encoding}]
    ).attachments
    assert (found.content_type, found.content) == ("application/pdf", b"%PDF-")


@pytest.mark.parametrize(
    "file", [{"content": "data: one, two"}, {"content": "data:text/plain,x", "encoding": "utf8"}], ids=str
)
def test_a_text_that_begins_like_a_data_url_is_one(file: dict[str, str]) -> None:
    [found] = job(attachments=[{"filename": "a.txt", **file}]).attachments
    assert found.content == file["content"].encode()


def test_a_wrong_data_url_is_refused() -> None:
    with pytest.raises(InvalidJob, match=r"attachments\[0\]\.content isn't base64"):
        job(attachments=[{"content": "data:image/png;base64,§"}])


def test_a_text_in_an_encoding() -> None:
    assert job(text="", html={"content": "PGI+eA==", "encoding": "base64"}).html == "<b>x"


@pytest.mark.parametrize(
    ("text", "unfilled"),
    [
        ("Hello {{ name }} {{#if a}}", ("{{ name }}", "{{#if a}}")),
        ("*|FNAME|* <%= name %>", ("*|FNAME|*", "<%= name %>")),
        ("${user.name} %recipient.name%", ("${user.name}", "%recipient.name%")),
        ("100 % of $5 {a} { {b} }", ()),
    ],
)
def test_a_placeholder_that_stays_is_told(text: str, unfilled: tuple[str, ...]) -> None:
    assert job(text=text).unfilled == unfilled
    assert job(subject="{{name}}", text="{{name}}").unfilled == ("{{name}}",)


def test_words_are_escaped_as_the_standard_library_does() -> None:
    words = """<a href="x">Ann & Bob's</a>"""
    assert job("fields", html="{{words}}", words=words).html == html.escape(words)


@pytest.mark.parametrize("subject", [{}, {"subject": None}, {"subject": []}], ids=str)
def test_a_campaigns_mail_has_a_subject(subject: dict[str, Any]) -> None:
    assert job(**subject).subject == ""
    with pytest.raises(InvalidJob, match=r'subject is missing, .* queue it as ""'):
        job(campaignId=7, **subject)
    assert job(campaignId=7, subject="").subject == ""


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        ({"data": {"mailOptions": LEAST}}, "data.mailOptions has one"),
        ({"one": LEAST, "two": LEAST, "user": {"name": "x"}}, "one and two have one"),
        ({"campaignId": 7, "job": {"data": {"mail": LEAST}}}, "job.data.mail has one"),
    ],
    ids=str,
)
def test_a_mail_where_nobody_looks_for_it_is_told(raw: dict[str, Any], where: str) -> None:
    with pytest.raises(InvalidJob, match=f"{where}, but a mail is the job itself or the only object in it"):
        parse_job(raw, Defaults(Address("", "news@example.com")))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"reply_to": 5}, "reply_to is a number, but"),
        ({"message": {"a": 1}, "text": None}, "message is an object, but"),
        ({"template": ["x"], "text": None}, "template is a list, but"),
        ({"categories": [None]}, "categories is null, but"),
        ({"attachment": {"path": "/srv/a.pdf"}}, r"attachment\[0\].path can't be sent"),
        ({"attachments": [{"url": True}]}, r"attachments\[0\].url is true, but"),
        ({"attachments": [{"type": "x", "content": "y"}]}, r"attachments\[0\].type isn't a media type"),
        ({"in_reply_to": "ü"}, "in_reply_to isn't a mail's Message-ID"),
        ({"campaign_id": {}, "campaignId": [1]}, "campaignId is a list, but"),
        ({"from_email": "a@x.example", "from": "b@x.example"}, "from and from_email say different things"),
    ],
    ids=str,
)
def test_a_sentence_has_the_apps_words(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidJob, match=f"^{words}"):
        job(**fields)


def test_a_missing_recipient_has_the_apps_own_name() -> None:
    use_own_names({"to": "userEmail"})
    try:
        with pytest.raises(InvalidJob, match=r"^userEmail is missing"):
            parse_job({"text": "x"}, Defaults(Address("", "news@example.com")))
    finally:
        use_own_names({})
