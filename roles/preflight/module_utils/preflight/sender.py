"""What receivers will think of the sender's domain: SPF (RFC 7208), DKIM (RFC 6376), DMARC (RFC 7489). Warnings only:
the records may be about to be made, and mails leave without them."""

from __future__ import annotations

from email.utils import parseaddr
from typing import Protocol

from .verdict import Verdict, listed, ok, warning

ABOUT = "sender"
#: RFC 7208, 4.6.4.
MOST_SPF_LOOKUPS = 10
_LOOKING_UP = ("include", "a", "mx", "ptr", "exists", "redirect")

#: The selectors that a provider uses unless it's told otherwise, by a word in the mail server's or transport's name.
USUAL_SELECTORS = {
    "resend": ["resend"],
    "sendgrid": ["s1", "s2"],
    "mailgun": ["k1", "mx", "pic", "mailo", "smtp", "email"],
    "zoho": ["zmail", "zoho"],
    "gmail": ["google"],
    "google": ["google"],
    "office365": ["selector1", "selector2"],
    "brevo": ["brevo1", "brevo2", "mail"],
}
#: Bounces, whose domain SPF is about, go to this subdomain, or to a domain of the provider's own ("").
BOUNCES_TO = {"resend": "send", "sendgrid": "", "postmark": "", "amazonaws": ""}


class NoAnswer(Exception):
    """DNS can't be asked."""


class LookUp(Protocol):
    """Asks for a name's TXT records."""

    def __call__(self, name: str) -> list[str]:
        """Empty when there are none; NoAnswer when nobody says."""


def domain_of(mail_from: str) -> str | None:
    """The domain of `Name <address>` or of an address."""
    domain = parseaddr(mail_from)[1].rpartition("@")[2].strip().rstrip(".").lower()
    return domain if "." in domain else None


def likely_selectors(selectors: list[str], provider: str) -> list[str]:
    """Those that are set, or the provider's usual ones."""
    if selectors:
        return selectors
    return next((usual for word, usual in USUAL_SELECTORS.items() if word in provider.lower()), [])


def look_at(
    domain: str, selectors: list[str], provider: str, look_up: LookUp, sending_domain: str = ""
) -> list[Verdict]:
    """Asks DNS and judges; one sentence if it can't be asked. `sending_domain` is the one that the provider sends and
    signs for, where it isn't the sender's own."""
    signer = sending_domain or domain
    try:
        return [
            _spf(signer, provider, look_up),
            dkim_verdict(signer, selectors, provider, look_up),
            dmarc_verdict(domain, dmarc_records(domain, look_up)),
        ]
    except NoAnswer as error:
        return [
            warning(
                ABOUT,
                f"DNS can't be asked about {domain} from this machine ({error}), so its SPF, DKIM and DMARC weren't"
                " looked at: check them at your provider's page, or set preflight_mail_from to '' to leave this out.",
            )
        ]


def _spf(domain: str, provider: str, look_up: LookUp) -> Verdict:
    records = look_up(domain)
    bounces_to = next((where for word, where in BOUNCES_TO.items() if word in provider.lower()), None)
    if bounces_to is None or _spf_records(records):
        return spf_verdict(domain, records, look_up)
    if not bounces_to:
        return ok(ABOUT, f"{domain} has no SPF record and needs none: bounces go to {provider}'s own domain.")
    return spf_verdict(f"{bounces_to}.{domain}", look_up(f"{bounces_to}.{domain}"), look_up)


def _spf_records(records: list[str]) -> list[str]:
    return [record for record in records if record.lower().split(" ")[0] == "v=spf1"]


def spf_verdict(domain: str, records: list[str], look_up: LookUp) -> Verdict:
    """Exactly one record, which lets only some send."""
    found = _spf_records(records)
    if not found:
        return warning(
            ABOUT, f"{domain} has no SPF record: add the TXT record that your provider gives (v=spf1 … ~all) to it."
        )
    if len(found) > 1:
        return warning(
            ABOUT, f"{domain} has {len(found)} SPF records, which counts as none: join them into one (v=spf1 … ~all)."
        )
    terms = found[0].lower().split()[1:]
    if "+all" in terms or "all" in terms:
        return warning(ABOUT, f"{domain}'s SPF record ends with +all, which lets anybody send: end it with ~all.")
    if not any(term in ("~all", "-all") or term.startswith("redirect=") for term in terms):
        return warning(ABOUT, f"{domain}'s SPF record has neither ~all nor -all: end it with ~all.")
    lookups = _spf_lookups(found[0], look_up, frozenset({domain}))
    if lookups > MOST_SPF_LOOKUPS:
        return warning(
            ABOUT,
            f"{domain}'s SPF record needs more than {MOST_SPF_LOOKUPS} DNS look-ups, which counts as an error: remove"
            " includes of providers that you don't use.",
        )
    return ok(ABOUT, f"{domain} has SPF ({found[0]}).")


def _spf_lookups(record: str, look_up: LookUp, seen: frozenset[str]) -> int:
    """How many look-ups a receiver makes; stops behind the limit."""
    count = 0
    for term in record.lower().split()[1:]:
        mechanism = term.lstrip("+-~?")
        name = mechanism.replace("=", ":").replace("/", ":").partition(":")[0]
        if name not in _LOOKING_UP:
            continue
        count += 1
        target = mechanism.replace("redirect=", "redirect:").partition(":")[2]
        if name in ("include", "redirect") and target and "%" not in target and target not in seen:
            for one in _spf_records(look_up(target))[:1]:
                count += _spf_lookups(one, look_up, seen | {target})
        if count > MOST_SPF_LOOKUPS:
            return count
    return count


def dkim_verdict(domain: str, selectors: list[str], provider: str, look_up: LookUp) -> Verdict:
    """Is there a key under one of the selectors?"""
    tried = likely_selectors(selectors, provider)
    if not tried:
        return warning(
            ABOUT,
            f"Whether {domain} has DKIM wasn't looked at: set preflight_dkim_selectors to the selectors that your"
            " provider shows (the part before ._domainkey).",
        )
    there = [one for one in tried if any(_has_key(record) for record in look_up(f"{one}._domainkey.{domain}"))]
    missing = [one for one in selectors if one not in there]
    if there and not missing:
        return ok(ABOUT, f"{domain} has DKIM ({listed([f'{one}._domainkey' for one in there])}).")
    names = listed([f"{one}._domainkey.{domain}" for one in missing or tried], "or")
    return warning(
        ABOUT,
        f"{domain} has no DKIM key at {names}: add the record that your provider gives, or set"
        " preflight_dkim_selectors to its own selectors.",
    )


def _has_key(record: str) -> bool:
    """`p=` with something behind it; empty is a revoked key (RFC 6376, 3.6.1)."""
    tags = dict(_tag(part) for part in record.split(";"))
    return bool(tags.get("p"))


def _tag(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name.strip().lower(), "".join(value.split())


def dmarc_records(domain: str, look_up: LookUp) -> list[str]:
    """The domain's own, or else that of the one above it (RFC 7489, 6.6.3, without a list of public suffixes)."""
    while True:
        if records := [one for one in look_up(f"_dmarc.{domain}") if one.replace(" ", "").startswith("v=DMARC1")]:
            return records
        _, _, domain = domain.partition(".")
        if "." not in domain:
            return []


def dmarc_verdict(domain: str, records: list[str]) -> Verdict:
    """Exactly one record with a policy."""
    if not records:
        return warning(
            ABOUT,
            f"{domain} has no DMARC record, which Gmail, Yahoo and Microsoft want of bulk senders: add the TXT record"
            f" _dmarc.{domain} (v=DMARC1; p=none).",
        )
    if len(records) > 1:
        return warning(ABOUT, f"{domain} has {len(records)} DMARC records, which counts as none: leave one.")
    policy = dict(_tag(part) for part in records[0].split(";")).get("p", "")
    if policy.lower() not in ("none", "quarantine", "reject"):
        return warning(
            ABOUT,
            f"{domain}'s DMARC record has no valid policy (p={policy}): write p=none, quarantine or reject into it.",
        )
    return ok(ABOUT, f"{domain} has DMARC (p={policy}).")
