"""What the preflight says about the sender's domain, by DNS records as they are in the wild."""

import pytest

from preflight import sender
from preflight.verdict import Verdict

KEY = "v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQ"
GOOD = {
    "example.com": ["google-site-verification=x", "v=spf1 include:_spf.resend.example ~all"],
    "_spf.resend.example": ["v=spf1 ip4:192.0.2.0/24 -all"],
    "resend._domainkey.example.com": [KEY],
    "_dmarc.example.com": ["v=DMARC1; p=none; rua=mailto:x@example.com"],
}
MANY = {f"{n}.spf.example": ["v=spf1 a mx ~all"] for n in range(4)}

CASES: dict[str, tuple[dict[str, list[str]], str]] = {
    "no SPF": ({"example.com": []}, "send.example.com has no SPF record: add the TXT record that your provider gives"),
    "two SPF": (
        {"example.com": ["v=spf1 ~all", "v=spf1 mx ~all"]},
        "example.com has 2 SPF records, which counts as none: join them into one",
    ),
    "anybody": ({"example.com": ["v=spf1 +all"]}, "example.com's SPF record ends with +all, which lets anybody send"),
    "neutral": ({"example.com": ["v=spf1 mx ?all"]}, "example.com's SPF record has neither ~all nor -all: end it"),
    "too many look-ups": (
        {"example.com": [f"v=spf1 {' '.join(f'include:{name}' for name in MANY)} ~all"], **MANY},
        "example.com's SPF record needs more than 10 DNS look-ups, which counts as an error",
    ),
    "no DKIM": (
        {"resend._domainkey.example.com": []},
        "example.com has no DKIM key at resend._domainkey.example.com: add the record that your provider gives, or set"
        " preflight_dkim_selectors",
    ),
    "revoked DKIM": ({"resend._domainkey.example.com": ["v=DKIM1; p="]}, "example.com has no DKIM key at resend."),
    "no DMARC": ({"_dmarc.example.com": []}, "example.com has no DMARC record, which Gmail, Yahoo and Microsoft want"),
    "two DMARC": (
        {"_dmarc.example.com": ["v=DMARC1; p=none", "v=DMARC1; p=reject"]},
        "example.com has 2 DMARC records, which counts as none: leave one.",
    ),
    "DMARC without a policy": (
        {"_dmarc.example.com": ["v=DMARC1; rua=mailto:x@example.com"]},
        "example.com's DMARC record has no valid policy (p=)",
    ),
}


@pytest.mark.parametrize(
    ("provider", "records", "level"),
    [
        ("resend", {"send.example.com": ["v=spf1 include:amazonses.com ~all"]}, "ok"),
        ("resend", {}, "warning"),
        ("sendgrid", {}, "ok"),
        ("email-smtp.eu-central-1.amazonaws.com", {}, "ok"),
        ("smtp.example", {}, "warning"),
    ],
)
def test_spf_is_about_where_bounces_go(provider: str, records: dict[str, list[str]], level: str) -> None:
    assert look(records, provider=provider)[0].level == level


def test_a_domain_that_the_provider_sends_for() -> None:
    records = {
        "mg.example.com": ["v=spf1 include:mailgun.org ~all"],
        "k1._domainkey.mg.example.com": [KEY],
        "_dmarc.example.com": ["v=DMARC1; p=none"],
    }
    found = sender.look_at("example.com", [], "mailgun", lambda name: records.get(name, []), "mg.example.com")
    assert [verdict.level for verdict in found] == ["ok"] * 3


def look(records: dict[str, list[str]], domain: str = "example.com", provider: str = "resend") -> list[Verdict]:
    return sender.look_at(domain, [], provider, lambda name: records.get(name, []))


def test_a_domain_that_is_well() -> None:
    assert [verdict.level for verdict in look(GOOD)] == ["ok"] * 3


@pytest.mark.parametrize("name", CASES)
def test_one_thing_wrong_at_a_time(name: str) -> None:
    changes, sentence = CASES[name]
    [verdict] = [verdict for verdict in look({**GOOD, **changes}) if verdict.level != "ok"]
    assert verdict.level == "warning"
    assert verdict.sentence.startswith(sentence)


def test_dmarc_of_the_domain_above_counts() -> None:
    assert look(GOOD, "news.example.com")[2].level == "ok"


def test_an_unknown_provider_has_no_usual_selectors() -> None:
    verdict = look(GOOD, provider="10.0.0.1")[1]
    assert verdict.sentence.startswith("Whether example.com has DKIM wasn't looked at: set preflight_dkim_selectors to")


def test_set_selectors_must_all_be_there() -> None:
    [_, dkim, _] = sender.look_at("example.com", ["resend", "own"], "", lambda name: GOOD.get(name, []))
    assert dkim.sentence.startswith("example.com has no DKIM key at own._domainkey.example.com:")


def test_no_dns_is_one_sentence() -> None:
    def look_up(name: str) -> list[str]:
        raise sender.NoAnswer("LifetimeTimeout")

    [verdict] = sender.look_at("example.com", [], "resend", look_up)
    assert verdict.level == "warning"
    assert verdict.sentence.startswith("DNS can't be asked about example.com from this machine (LifetimeTimeout)")


@pytest.mark.parametrize(
    ("mail_from", "domain"),
    [("Zoë 'Z' <news@Example.org>", "example.org"), ("news@example.org", "example.org"), ("root", None), ("", None)],
)
def test_the_domain_of_a_sender(mail_from: str, domain: str | None) -> None:
    assert sender.domain_of(mail_from) == domain
