"""Mail addresses in the forms in which apps write them."""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from worker.errors import InvalidJob
from worker.mail.fields import line, shorten
from worker.mail.names import ADDRESS_KEYS

#: Of one field. Providers take 50 (Resend) to 1,000 (SendGrid, Mailgun) of a mail.
MAX_ADDRESSES = 50
MAX_LIST_CHARACTERS = 50_000
_LONGEST_ENTRY = 1_000

# Python's own reader drops blanks and comments inside an address, which makes another one of it. Nothing is dropped
# here: an address stands in the value as it's used.
_NAME_AND_ADDRESS = re.compile(r"(?P<name>.*)<(?P<email>[^<>]*)>")
_ADDRESS_AND_COMMENT = re.compile(r"(?P<email>\S+)\s+\((?P<name>[^()<>@]*)\)")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
# Whatever is quoted, or runs up to the next comma, semicolon or quote.
_PIECE = re.compile(r'"(?:[^"\\]|\\.)*"|[,;]|"|[^",;]+')
# RFC 5322, 3.4: `Team: a@b.example, c@d.example;`.
_GROUP = re.compile(r"[^:;,<>@]{1,200}:[^;]*;")
_LOCAL = re.compile(r"[^\x00-\x20\x7f\s()<>\[\]:;,@\\\"]+")
_DOMAIN = re.compile(r"(?!-)[\w-]{1,63}(\.(?!-)[\w-]{1,63})*|\[[0-9A-Za-z:.]+\]", re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """A mailbox. `email` has an ASCII domain; its local part may need SMTPUTF8 (RFC 6531)."""

    name: str
    email: str

    @property
    def domain(self) -> str:
        return self.email.rpartition("@")[2]


def parse_address(value: object, field: str) -> Address:
    """Reads `a@b.example`, `Name <a@b.example>`, `a@b.example (Name)`, nodemailer's `{name, address}` or SendGrid's
    `{name, email}`. A name needs no quotes, whatever is in it: `Acme, Inc. <news@acme.example>`.

    Raises:
        InvalidJob: when it isn't exactly one mailbox.
    """
    if isinstance(value, dict):
        if "group" in value:
            raise InvalidJob(f"{field} holds a group, which isn't sent to: queue its addresses: {shorten(value)}")
        given = [key for key in ADDRESS_KEYS if value.get(key)]
        if len({value[key] if isinstance(value[key], str) else key for key in given}) > 1:
            raise InvalidJob(f"{field} has {' and '.join(given)}, which differ: queue one of them: {shorten(value)}")
        if not given:
            raise InvalidJob(f"{field} has neither {' nor '.join(ADDRESS_KEYS)}: {shorten(value)}")
        key = given[0]
        name, email = line(value.get("name") or "", f"{field}.name"), line(value.get(key), f"{field}.{key}")
        return _address(name, email, field, {"name": name, key: email})
    return _parse_address(line(value, field), field)


def parse_addresses(value: object, field: str) -> tuple[Address, ...]:
    """Reads one mailbox or several: a list, or one string with commas or semicolons between them. Each address once.

    Raises:
        InvalidJob: when one of them isn't a mailbox, or there are too many.
    """
    found: list[Address] = []
    values = value if isinstance(value, list) else [value]
    if len(values) > MAX_ADDRESSES:
        raise _too_many(field, len(values))
    for one in values:
        if isinstance(one, str):
            found.extend(_parse_list(line(one, field, longest=MAX_LIST_CHARACTERS), field))
        else:
            found.append(parse_address(one, field))
    if len(found) == 1:
        return (found[0],)
    addresses = tuple({address.email: address for address in reversed(found)}.values())[::-1]
    if len(addresses) > MAX_ADDRESSES:
        raise _too_many(field, len(addresses))
    return addresses


def _parse_list(value: str, field: str) -> list[Address]:
    is_one = "," not in value and ";" not in value
    if is_one or len(value) <= _LONGEST_ENTRY:
        try:
            return [_parse_address(value, field)]
        except InvalidJob:
            if is_one:
                raise
    if value.count('"') > 4 * MAX_ADDRESSES:
        raise _not_a_list(value, field)
    addresses: list[Address] = []
    pending = ""
    for piece in (*_PIECE.findall(value), ","):
        if piece not in (",", ";"):
            pending += piece
            continue
        if len(pending) > _LONGEST_ENTRY:
            break
        try:
            if pending.strip():
                addresses.append(_parse_address(pending.strip(), field))
            pending = ""
        except InvalidJob:
            # A name may hold a comma: `Acme, Inc. <news@acme.example>`.
            pending += piece
    if pending:
        raise _not_a_list(value, field)
    return addresses


@lru_cache(maxsize=256)
def _parse_address(value: str, field: str) -> Address:
    # A campaign's sender is the same in each job.
    found = _NAME_AND_ADDRESS.fullmatch(value) or _ADDRESS_AND_COMMENT.fullmatch(value)
    if found is None:
        return _address("", value, field, value)
    name = found["name"].strip()
    if quoted := _QUOTED.fullmatch(name):
        name = re.sub(r"\\(.)", r"\1", quoted[1])
    elif "<" in name or ">" in name or ("@" in name and ("," in name or ";" in name)):
        raise _not_one(value, field)  # A list of several.
    return _address(name, found["email"].strip(), field, value)


def _address(name: str, email: str, field: str, value: object) -> Address:
    local, _, domain = email.rpartition("@")
    if local.endswith('"'):
        raise _not_one(email, field)
    if not _LOCAL.fullmatch(local):
        raise _not_one(value, field)
    domain = ascii_domain(domain, field)
    if not _DOMAIN.fullmatch(domain):
        raise _not_one(value, field)
    if len(local.encode()) > 64 or len(domain) > 253:  # RFC 5321, 4.5.3.1
        raise InvalidJob(f"{field} is too long for a mail address: {shorten(value)}")
    return Address(name, f"{local}@{domain}")


def _too_many(field: str, number: int) -> InvalidJob:
    return InvalidJob(f"{field} holds {number} addresses; at most {MAX_ADDRESSES} are sent to in one mail")


def _not_one(value: object, field: str) -> InvalidJob:
    return _no_address(value, field, "one mail address")


def _not_a_list(value: object, field: str) -> InvalidJob:
    return _no_address(value, field, "a list of mail addresses")


def _no_address(value: object, field: str, wanted: str) -> InvalidJob:
    text = value if isinstance(value, str) else ""
    if _GROUP.match(text):
        return InvalidJob(f"{field} holds a group, which isn't sent to: queue its addresses: {shorten(text)}")
    if '"@' in text:
        return InvalidJob(f"{field} holds an address with a quoted local part, which isn't sent to: {shorten(text)}")
    return InvalidJob(f"{field} isn't {wanted}: {shorten(value)}")


@lru_cache(maxsize=4096)
def ascii_domain(domain: str, field: str) -> str:
    """A domain's form in the DNS (IDNA 2008), in small letters.

    Raises:
        InvalidJob: it has none.
    """
    if domain.isascii():
        return domain.lower()
    import idna  # for the rare domain that needs it

    try:
        encoded = idna.encode(domain, uts46=True).decode("ascii")
        # UTS 46 drops what can't be seen, such as a soft hyphen; other forms of the same letters it may change.
        if idna.decode(encoded) == unicodedata.normalize("NFKC", domain.lower()).replace("\u3002", "."):
            return encoded
    except idna.IDNAError as error:
        raise InvalidJob(f"{field} has a domain that doesn't exist in ASCII form: {shorten(domain)}") from error
    raise InvalidJob(f"{field} has a domain with characters that can't be seen: {shorten(domain)}")


def unicode_domain(domain: str) -> str:
    """An ASCII domain as people write it; unchanged where that can't be."""
    import idna  # as above

    try:
        return str(idna.decode(domain))
    except idna.IDNAError:
        return domain
