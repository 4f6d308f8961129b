"""Templates: what they may hold, and what a job makes of one."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import InvalidJob
from worker.mail import text
from worker.mail.addresses import Address
from worker.mail.jobs import Defaults, Job, parse_job, template_of
from worker.mail.message import build_mail
from worker.mail.templates import Template, no_template, read_template
from worker.mail.text import text_from_html

DEFAULTS = Defaults(sender=Address("", "news@example.com"))
SPRING = read_template(
    "spring",
    {
        "subject": "Hello {{name}}",
        "html": "<h1>Hello {{ name }}</h1><p>to {{user.city}} <a href='https://x.example/?n={{token}}'>off</a>",
    },
)


def find(name: str) -> Template:
    return SPRING if name == "spring" else no_template(name)


def job(**changes: Any) -> Job:
    raw = {"to": "ann@example.org", "templateId": "spring", **changes}
    return parse_job(raw, DEFAULTS, find)


VARS = {"name": "Ann <b>", "user": {"city": "Zürich & Bern"}, "token": 7}


def test_each_place_gets_the_jobs_words() -> None:
    found = job(vars=VARS)
    assert found.subject == "Hello Ann <b>"
    assert "<h1>Hello Ann &lt;b&gt;</h1><p>to Zürich &amp; Bern <a href='https://x.example/?n=7'>" in found.html
    # As if it were made of the HTML.
    assert (
        found.text == text_from_html(found.html) == "Hello Ann <b>\n\nto Zürich & Bern off (https://x.example/?n=7)\n"
    )
    assert found.unsent == ()


@pytest.mark.parametrize("name", ["vars", "variables", "templateData", "template_data", "context", "data"])
def test_the_words_may_stand_in_objects_of_several_names(name: str) -> None:
    assert job(**{name: VARS}).subject == "Hello Ann <b>"


@pytest.mark.parametrize("name", ["templateId", "template_id", "template", "templateName"])
def test_a_template_may_be_named_in_several_ways(name: str) -> None:
    raw = {"to": "ann@example.org", name: "spring", "vars": VARS}
    assert template_of(raw) == "spring"
    assert parse_job(raw, DEFAULTS, find).subject == "Hello Ann <b>"


def test_the_words_may_stand_in_the_job_itself() -> None:
    assert job(name="Ann", user={"city": "Bern"}, token="t").subject == "Hello Ann"


def test_a_jobs_own_subject_counts() -> None:
    assert job(vars=VARS, subject="Mine").subject == "Mine"


def test_an_empty_word_is_one() -> None:
    assert job(vars={**VARS, "name": ""}).subject == "Hello"


@pytest.mark.parametrize("missing", ["name", "user", "token"])
def test_a_missing_word_is_refused(missing: str) -> None:
    words = {name: value for name, value in VARS.items() if name != missing}
    with pytest.raises(InvalidJob, match=f"the template spring needs {missing}"):
        job(vars=words)


def test_an_unknown_template_is_refused() -> None:
    with pytest.raises(
        InvalidJob, match="there's no template winter: add it with mail-worker template add winter FILE"
    ):
        job(templateId="winter")


def test_a_job_with_a_text_of_its_own_needs_no_template() -> None:
    raw = {"to": "ann@example.org", "template": "welcome", "context": {"a": 1}, "html": "<p>rendered by the app"}
    assert template_of(raw) == ""
    found = parse_job(raw, DEFAULTS, no_template)
    assert (found.html, found.unsent) == ("<p>rendered by the app", ("template", "context"))


def test_a_campaigns_mail_has_a_subject_from_somewhere() -> None:
    raw = {"campaignId": 7, "to": "ann@example.org", "templateId": "spring"}
    template = read_template("spring", {"html": "<p>x"})
    with pytest.raises(InvalidJob, match="subject is missing in the job and in the template spring, but"):
        parse_job(raw, DEFAULTS, lambda _: template)
    assert parse_job({**raw, "subject": ""}, DEFAULTS, lambda _: template).subject == ""


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"html": "{{#if x}}a{{/if}}"}, "holds '{{#if x}}"),
        ({"html": "{{{raw}}}"}, "only single names"),
        ({"html": "{{ a b }}"}, "only single names"),
        ({"html": "<p>{{name", "text": "x"}, "only single names"),
        ({"subject": "x"}, "has neither html nor text"),
        ({"html": 5}, "html is a number"),
        ([], "is a list"),
        ("{", "isn't JSON"),
    ],
    ids=str,
)
def test_what_is_no_template_gets_a_sentence(value: object, words: str) -> None:
    with pytest.raises(InvalidJob, match=words):
        read_template("spring", value)


@pytest.mark.parametrize("name", ["", "a b", "ä" * 101, "a\nb", "x" * 101])
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(InvalidJob, match="a template's name has"):
        read_template(name, {"html": "x"})


def test_the_text_part_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    template = read_template("t", {"html": "<p>Hello {{name}}"})
    read: list[str] = []

    def counted(html: str) -> str:
        read.append(html)
        return text_from_html(html)

    monkeypatch.setattr(text, "text_from_html", counted)
    for number in range(100):
        raw = {"to": "ann@example.org", "templateId": "t", "vars": {"name": f"<{number}>"}}
        found = parse_job(raw, DEFAULTS, lambda _: template)
        assert build_mail(found, "id").text == f"Hello <{number}>\n"
    assert len(read) == 1


def test_no_text_part_is_made_if_none_is_wanted() -> None:
    without = Defaults(sender=Address("", "news@example.com"), makes_text=False)
    assert parse_job({"to": "a@x.example", "templateId": "spring", "vars": VARS}, without, find).text == ""


@given(
    st.dictionaries(st.sampled_from(["name", "token", "user"]), st.text() | st.dictionaries(st.just("city"), st.text()))
)
def test_whatever_stands_in_the_words_stays_text(words: dict[str, Any]) -> None:
    try:
        found = job(vars=words)
    except InvalidJob:
        return
    assert found.html.count("<") == SPRING.html.count("<")
    assert build_mail(found, "id").data


def test_what_a_template_needs_is_told() -> None:
    assert SPRING.variables == ("name", "user.city", "token")


def test_a_link_that_begins_with_a_place_is_in_the_text() -> None:
    template = read_template("t", {"html": '<p>Hello, <a href="{{url}}">reset</a></p>'})
    raw = {"to": "a@x.example", "templateId": "t", "vars": {"url": "https://app.example/reset?x=1"}}
    found = parse_job(raw, DEFAULTS, lambda _: template)
    assert build_mail(found, "id").text == "Hello, reset (https://app.example/reset?x=1)\n"


def test_a_place_that_the_html_hides_isnt_asked_for() -> None:
    template = read_template("t", {"html": "<p>&#123;&#123;code}}</p>"})
    found = parse_job({"to": "a@x.example", "templateId": "t"}, DEFAULTS, lambda _: template)
    assert build_mail(found, "id").text == "{{code}}\n"


def test_a_message_beside_a_template_is_one_of_its_words() -> None:
    template = read_template("contact", {"html": "<p>From the form: {{message}}"})
    raw = {"to": "a@x.example", "templateId": "contact", "message": "my question"}
    assert parse_job(raw, DEFAULTS, lambda _: template).html == "<p>From the form: my question"
