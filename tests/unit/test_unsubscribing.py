"""List-Unsubscribe: in each way in which apps write it, and never two of them (RFC 2369, RFC 8058)."""

from typing import Any

import pytest

from worker.errors import InvalidJob
from worker.mail.addresses import Address
from worker.mail.jobs import Defaults, Job, parse_job

URL = "https://x.example/u"
POST = {"List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}


def job(**fields: Any) -> Job:
    return parse_job({"to": "ann@example.org", "text": "x", **fields}, Defaults(Address("", "news@example.com")))


def values(found: Job, name: str = "List-Unsubscribe") -> list[str]:
    return [value for key, value in found.headers if key == name]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (f"<{URL}>", f"<{URL}>"),
        (URL, f"<{URL}>"),
        (f"< {URL} >", f"<{URL}>"),
        ("<https://x.example\t/u>", None),
        ("<http://x.example/u>", "<http://x.example/u>"),
        (f"off@x.example, {URL}", f"<mailto:off@x.example>, <{URL}>"),
        (f"{URL} mailto:off@x.example?subject=a%20b", f"<{URL}>, <mailto:off@x.example?subject=a%20b>"),
        (f"<{URL}?a=1,2>,<off@x.example> (write us)", f"<{URL}?a=1,2>, <mailto:off@x.example> (write us)"),
        ([f"<{URL}>", "<mailto:off@x.example>"], f"<{URL}>, <mailto:off@x.example>"),
    ],
    ids=str,
)
def test_the_header_in_each_form(value: object, written: str | None) -> None:
    headers = {"list-unsubscribe": value}
    if written is None:
        with pytest.raises(InvalidJob, match="line break or another control character"):
            job(headers=headers)
        return
    assert values(job(headers=headers)) == [written]


@pytest.mark.parametrize(
    "value", ["nonsense", "<>", "<a b>", f"<{URL}", f"<{URL}>; <{URL}>", f"click <{URL}>", "<x.example/u>"]
)
def test_what_no_mail_program_reads_is_refused(value: str) -> None:
    with pytest.raises(InvalidJob, match=r"headers\.List-Unsubscribe must be addresses in < and >"):
        job(headers={"List-Unsubscribe": value})


def test_one_click_wants_an_address_for_it() -> None:
    assert values(job(headers={"List-Unsubscribe": URL, **POST})) == [f"<{URL}>"]
    with pytest.raises(InvalidJob, match="promises one click, but there's no List-Unsubscribe with an https://"):
        job(headers={"List-Unsubscribe": "<http://x.example/u>", **POST})
    with pytest.raises(InvalidJob, match="must be List-Unsubscribe=One-Click"):
        job(headers={"List-Unsubscribe": URL, "List-Unsubscribe-Post": "yes"})


@pytest.mark.parametrize(
    ("fields", "written", "unsent"),
    [
        ({}, f"<{URL}>", ()),
        ({"headers": {"List-Unsubscribe": URL}}, f"<{URL}>", ()),
        ({"headers": {"List-Unsubscribe": "<mailto:a@b.example>"}}, f"<{URL}>, <mailto:a@b.example>", ()),
        (
            {"headers": {"List-Unsubscribe": "<https://x.example/v>, <mailto:a@b.example>"}},
            f"<{URL}>, <mailto:a@b.example>",
            ("headers.List-Unsubscribe",),
        ),
        ({"headers": {"List-Unsubscribe-Post": "yes"}}, f"<{URL}>", ("headers.List-Unsubscribe-Post",)),
        (
            {"list": {"unsubscribe": ["a@b.example", {"url": URL, "comment": "Off"}]}},
            f"<mailto:a@b.example>, <{URL}> (Off)",
            (),
        ),
    ],
    ids=str,
)
def test_an_address_stands_beside_what_else_is_there(
    fields: dict[str, Any], written: str, unsent: tuple[str, ...]
) -> None:
    found = job(unsubscribeUrl=URL, **fields)
    assert (values(found), values(found, "List-Unsubscribe-Post"), found.unsent) == (
        [written],
        ["List-Unsubscribe=One-Click"],
        unsent,
    )


def test_two_addresses_that_differ() -> None:
    with pytest.raises(InvalidJob, match=r"unsubscribe_url and list\.unsubscribe say different things"):
        job(unsubscribe_url=URL, list={"unsubscribe": "https://x.example/v"})
