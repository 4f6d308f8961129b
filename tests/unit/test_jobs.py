"""Jobs: what the web app sends, in either spelling, and everything that it must never send."""

import unicodedata
from typing import Any

import idna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import InvalidJob
from worker.mail.addresses import Address, parse_address
from worker.mail.jobs import Defaults, parse_job
from worker.mail.shape import recipient_key

CAMEL: dict[str, Any] = {
    "to": "zoe@example.com",
    "from": "News <news@example.com>",
    "replyTo": "team@example.com",
    "subject": "Grüße",
    "html": "<p>Hallo</p>",
    "headers": {"X-Campaign": "spring"},
    "campaignId": "c1",
    "subscriberId": 7,
    "unsubscribeUrl": "https://example.com/u?x=1",
}
SNAKE = {
    "reply_to": "team@example.com",
    "campaign_id": "c1",
    "subscriber_id": 7,
    "unsubscribe_url": "https://example.com/u?x=1",
}


def test_both_spellings_are_the_same_job() -> None:
    snake = {name: value for name, value in CAMEL.items() if name.islower()} | SNAKE
    assert parse_job(snake) == parse_job(CAMEL)
    assert parse_job(CAMEL).subscriber_id == "7"


@pytest.mark.parametrize(
    "value",
    [
        "Zoë Ångström <zoe@example.com>",
        {"name": "Zoë Ångström", "address": "zoe@example.com"},
        ["Zoë Ångström <zoe@example.com>"],
    ],
)
def test_a_recipient_in_each_of_its_forms(value: object) -> None:
    assert parse_job({**CAMEL, "to": value}).to == (Address("Zoë Ångström", "zoe@example.com"),)


def test_the_domain_becomes_ascii() -> None:
    assert parse_address("a@Bücher.example", "to").email == "a@xn--bcher-kva.example"


def test_the_default_sender_stands_in() -> None:
    sender = Address("", "default@example.com")
    job = {name: value for name, value in CAMEL.items() if name != "from"}
    assert parse_job(job, Defaults(sender=sender)).sender == sender
    with pytest.raises(InvalidJob, match="no MAIL_FROM"):
        parse_job(job)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"to": None}, r"to \(or email\) is missing"),
        ({"to": "nobody"}, "to isn't one mail address"),
        ({"to": "a@example.com, b@example.com"}, "to holds 2 addresses"),
        ({"to": ["a@example.com", "b@example.com"]}, "holds 2 addresses"),
        ({"to": "a@example.com\r\nBcc: b@example.com"}, "to holds a line break"),
        ({"to": "a" * 65 + "@example.com"}, "too long"),
        ({"to": 5}, "to is a number"),
        ({"subject": "Hi\nBcc: b@example.com"}, "subject holds a line break"),
        ({"subject": ["Hi"]}, "subject is a list"),
        ({"html": None, "text": ""}, "both missing"),
        ({"html": 1}, "html is a number"),
        ({"headers": {"X-A": "b\r\nBcc: b@example.com"}}, "headers.X-A holds a line break"),
        ({"headers": {"Bcc": "b@example.com"}}, "headers can't set Bcc"),
        ({"headers": {"X A": "b"}}, "isn't a mail header"),
        ({"headers": ["X-A"]}, "headers is a list, so each"),
        ({"unsubscribeUrl": "http://example.com"}, "must be an https:// address"),
        ({"unsubscribeUrl": "https://example.com/>\u00fc"}, "must be an https:// address"),
        ({"campaignId": None}, "go together"),
        ({"campaignId": {"a": 1}}, "campaignId is an object"),
        ({"campaignId": True}, "campaignId is true"),
    ],
)
def test_a_broken_job_names_its_field(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidJob, match=words):
        parse_job({**CAMEL, **change})


def test_a_broken_job_still_tells_its_recipient() -> None:
    assert recipient_key({**CAMEL, "to": 5}) == ("c1", "7")
    assert recipient_key({"to": "a@example.com"}) is None
    assert recipient_key("rubbish") is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*CAMEL, *SNAKE]), JSON) | JSON)
def test_no_json_ends_in_a_traceback(raw: object) -> None:
    recipient_key(raw)
    with pytest.raises(InvalidJob):
        parse_job({**raw, "to": None} if isinstance(raw, dict) else raw)


@pytest.mark.parametrize(
    ("value", "name", "email"),
    [
        ("ann@example.org <ann@example.org>", "ann@example.org", "ann@example.org"),
        ("John [VIP] <john@example.org>", "John [VIP]", "john@example.org"),
        ('"Smith, John" <john@example.org>', "Smith, John", "john@example.org"),
        (r'"John \"Jo\" Smith" <john@example.org>', 'John "Jo" Smith', "john@example.org"),
        ("Acme, Inc. <news@example.com>", "Acme, Inc.", "news@example.com"),
        ("Support @ Acme < help@example.com >", "Support @ Acme", "help@example.com"),
        ("<ann@example.org>", "", "ann@example.org"),
        ("ann@example.org (Ann)", "Ann", "ann@example.org"),
    ],
)
def test_a_name_needs_no_quotes(value: str, name: str, email: str) -> None:
    assert parse_address(value, "to") == Address(name, email)


@pytest.mark.parametrize(
    "value",
    [
        "john@ex ample.com",
        "jo hn@example.com",
        "john@exam(ple).com",
        "john@exam\N{SOFT HYPHEN}ple.com",
        "john@exam\N{ZERO WIDTH SPACE}ple.com",
        "john@example..com",
        "john@-example.com",
        '"john smith"@example.com',
        "john@example.com ann@example.com",
        "Team: john@example.com;",
        "John <john@example.com>, Ann <ann@example.com>",
        'John <john@example.com>, "Ann" <ann@example.com>',
        "ann@example.com, John <john@example.com>",
        "John <john@example.com",
        {"address": "john@exam(ple).com"},
        {"address": "john@ex\N{NO-BREAK SPACE}ample.com"},
    ],
)
def test_junk_is_no_address(value: object) -> None:
    with pytest.raises(InvalidJob, match=r"one mail address|can't be seen|in ASCII form|isn't sent to"):
        parse_address(value, "to")


#: Addresses and what surrounds them, in pieces that a reader may be tempted to drop.
PIECES = st.lists(
    st.sampled_from(
        ["ann", "@", "example", ".com", "Acme", ",", ";", ":", "<", ">", "(", ")", "[", "]", '"', "\\", " "]
    )
    | st.text(max_size=3)
).map("".join)


@given(st.text() | PIECES | PIECES.map(lambda text: f"{text} <ann@example.com>"))
def test_an_address_stands_in_its_value(value: str) -> None:
    try:
        address = parse_address(value, "to")
    except InvalidJob:
        return
    local, _, domain = address.email.rpartition("@")
    shown = idna.decode(domain) if "xn--" in domain and "xn--" not in value.lower() else domain
    assert f"{local}@" in value
    assert f"@{shown}" in unicodedata.normalize("NFKC", value.lower()).replace("\u3002", ".")
    assert address.email.count("@") == 1
    assert domain.isascii()
    assert not any(character.isspace() or character in '<>,;"()' for character in address.email)


APPS: dict[str, Any] = {
    "campaignId": 7,
    "subscriberId": 12,
    "email": "ann@example.com",
    "subject": "Hello {{name}}",
    "html": "<p>Hello {{name}}, {{ name }} &amp; {{other}}</p>",
    "subscriberName": "Ann <b>\\1",
}
PLACEHOLDER = Defaults(sender=Address("", "default@example.com"), placeholders="name")


def test_the_job_of_the_web_app_that_used_bullmq() -> None:
    job = parse_job(APPS, PLACEHOLDER)
    assert (job.to[0].email, job.campaign_id, job.subscriber_id) == ("ann@example.com", "7", "12")
    assert job.html == "<p>Hello Ann &lt;b&gt;\\1, Ann &lt;b&gt;\\1 &amp; {{other}}</p>"
    assert job.subject == "Hello {{name}}"


@pytest.mark.parametrize("name", [None, "", "  ", [], {}, True])
def test_a_subscriber_without_a_name(name: object) -> None:
    assert parse_job({**APPS, "html": "Hi {{name}}", "subscriberName": name}, PLACEHOLDER).html == "Hi Subscriber"


def test_the_placeholder_stays_where_it_is_switched_off() -> None:
    assert "{{name}}" in parse_job(APPS, Defaults(sender=Address("", "default@example.com"))).html


def test_the_name_in_a_text_part_is_not_html() -> None:
    assert parse_job({**APPS, "text": "Hi {{name}}"}, PLACEHOLDER).text == "Hi Ann <b>\\1"


def test_what_the_settings_add_a_job_may_say_itself() -> None:
    reply_to = Address("", "reply@example.com")
    defaults = Defaults(Address("", "a@example.com"), reply_to, {"X-Priority": "3", "X-Campaign": "all"})
    job = parse_job(APPS, defaults)
    assert (job.reply_to, dict(job.headers)) == ((reply_to,), {"X-Priority": "3", "X-Campaign": "all"})
    job = parse_job({**CAMEL, "headers": {"x-campaign": "own"}}, defaults)
    assert job.reply_to == (Address("", "team@example.com"),)
    assert [one for one in job.headers if "nsub" not in one[0]] == [("x-campaign", "own"), ("X-Priority", "3")]
