"""Mail addresses in the forms in which apps write them."""

import re
from dataclasses import dataclass
from email.utils import getaddresses
from functools import lru_cache

from worker.errors import InvalidJob
from worker.mail.fields import line, shorten


@dataclass(frozen=True, slots=True)
class Address:
    """A mailbox. `email` has an ASCII domain; its local part may need SMTPUTF8 (RFC 6531)."""

    name: str
    email: str

    @property
    def domain(self) -> str:
        return self.email.rpartition("@")[2]


def parse_address(value: object, field: str) -> Address:
    """Reads `a@b.example`, `Name <a@b.example>` or nodemailer's `{name, address}`.

    Raises:
        InvalidJob: when it isn't exactly one mailbox.
    """
    if isinstance(value, dict):
        name, email = line(value.get("name") or "", f"{field}.name"), line(value.get("address"), f"{field}.address")
        return _address(name, email, field)
    return _parse_address(line(value, field), field)


@lru_cache(maxsize=256)
def _parse_address(value: str, field: str) -> Address:
    # A campaign's sender is the same in each job.
    found = getaddresses([value])
    name, email = found[0] if len(found) == 1 else ("", "")
    return _address(name, email, field, value)


def _address(name: str, email: str, field: str, value: object = None) -> Address:
    value = {"name": name, "address": email} if value is None else value
    local, _, domain = email.rpartition("@")
    if not local or not domain or re.search(r"[\x00-\x1f\x7f\s<>,;\"]", email) or "@" in local:
        raise InvalidJob(f"{field} isn't one mail address: {shorten(value)}")
    if len(local.encode()) > 64 or len(domain) > 253:  # RFC 5321, 4.5.3.1
        raise InvalidJob(f"{field} is too long for a mail address: {shorten(value)}")
    return Address(name, f"{local}@{_ascii_domain(domain, field)}")


@lru_cache(maxsize=4096)
def _ascii_domain(domain: str, field: str) -> str:
    if domain.isascii():
        return domain.lower()
    import idna  # for the rare domain that needs it

    try:
        return idna.encode(domain, uts46=True).decode("ascii")
    except idna.IDNAError as error:
        raise InvalidJob(f"{field} has a domain that doesn't exist in ASCII form: {shorten(domain)}") from error
