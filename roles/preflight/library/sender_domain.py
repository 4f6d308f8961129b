#!/usr/bin/python
"""Looks up the sender's domain in DNS. Runs on the controller, which has dnspython. Changes nothing."""

from __future__ import annotations

DOCUMENTATION = r"""
module: sender_domain
short_description: Looks at SPF, DKIM and DMARC of the sender's domain
description:
  - Returns warnings, never failures.
  - Needs dnspython where it runs, which is the controller.
options:
  mail_from:
    description: The sender, C(Name <address>) or an address.
    type: str
    required: true
  selectors:
    description: DKIM selectors; empty for the usual ones of O(provider).
    type: list
    elements: str
    default: []
  provider:
    description: The mail server's name or the HTTP provider's.
    type: str
    default: ""
  sending_domain:
    description: The domain that the provider sends for, where it isn't the sender's own.
    type: str
    default: ""
  nameservers:
    description: Addresses of resolvers to ask, C(ADDRESS) or C(ADDRESS:PORT); empty for the system's own.
    type: list
    elements: str
    default: []
  timeout_seconds:
    description: How long to wait for one answer.
    type: float
    default: 3.0
author: mail-worker
"""

EXAMPLES = r"""
- name: Look up the sender's domain
  sender_domain:
    mail_from: News <news@example.com>
    provider: smtp.zoho.com
  delegate_to: localhost
"""

RETURN = r"""
verdicts:
  description: What was found, each with C(level) (ok or warning), C(about) and C(sentence).
  returned: always
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible.module_utils.preflight.sender import ABOUT, LookUp, NoAnswer, domain_of, look_at  # noqa: E402
from ansible.module_utils.preflight.verdict import Verdict, warning  # noqa: E402

try:
    import dns.exception
    import dns.resolver
except ImportError:
    HAS_DNSPYTHON = False
else:
    HAS_DNSPYTHON = True


def main() -> None:
    """Runs as a module."""
    module = AnsibleModule(
        argument_spec={
            "mail_from": {"type": "str", "required": True},
            "selectors": {"type": "list", "elements": "str", "default": []},
            "provider": {"type": "str", "default": ""},
            "sending_domain": {"type": "str", "default": ""},
            "nameservers": {"type": "list", "elements": "str", "default": []},
            "timeout_seconds": {"type": "float", "default": 3.0},
        },
        supports_check_mode=True,
    )
    module.exit_json(changed=False, verdicts=[verdict._asdict() for verdict in _verdicts(**module.params)])


def _verdicts(
    *,
    mail_from: str,
    selectors: list[str],
    provider: str,
    sending_domain: str,
    nameservers: list[str],
    timeout_seconds: float,
) -> list[Verdict]:
    domain = domain_of(mail_from)
    if domain is None:
        return [warning(ABOUT, f"worker_mail_from ({mail_from}) holds no domain: write Name <news@example.com>.")]
    if not HAS_DNSPYTHON:
        sentence = f"{domain} wasn't looked up, because dnspython is missing on this machine: run make setup."
        return [warning(ABOUT, sentence)]
    try:
        look_up = _look_up(nameservers, timeout_seconds)
    except ValueError:
        return [warning(ABOUT, "preflight_nameservers must hold addresses, such as 9.9.9.9: correct it.")]
    except NoAnswer:
        return [warning(ABOUT, f"{domain} wasn't looked up, because this machine has no resolver (/etc/resolv.conf).")]
    verdicts: list[Verdict] = look_at(domain, selectors, provider, look_up, sending_domain)
    return verdicts


def _look_up(nameservers: list[str], timeout_seconds: float) -> LookUp:
    try:
        resolver = dns.resolver.Resolver(configure=not nameservers)
    except dns.resolver.NoResolverConfiguration as error:
        raise NoAnswer from error
    if nameservers:
        host, _, port = nameservers[0].partition(":")
        resolver.nameservers = [host, *nameservers[1:]]
        resolver.port = int(port or 53)
    resolver.timeout, resolver.lifetime = timeout_seconds / 2, timeout_seconds

    def look_up(name: str) -> list[str]:
        try:
            answer = resolver.resolve(name, "TXT")
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return []
        except dns.resolver.NoNameservers as error:
            raise NoAnswer("the resolver refuses") from error
        except dns.exception.DNSException as error:
            raise NoAnswer(type(error).__name__) from error
        return [b"".join(record.strings).decode("utf-8", "replace") for record in answer]

    return look_up


if __name__ == "__main__":
    main()
