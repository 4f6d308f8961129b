"""Values of the environment, read one by one: each kind with its own sentence about what is wrong with it."""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from worker.base.alerting import QuietHours
from worker.base.sandbox import Sandbox
from worker.errors import InvalidJob
from worker.mail.addresses import Address, parse_address
from worker.mail.job_headers import read_headers
from worker.mail.names import FieldNames
from worker.mail.pacing import Limit, parse_rate

#: Mailpit's, and MailHog's.
CATCHER_PORT = 1025

#: https://supabase.com/docs/guides/database/postgres/roles
_ROLES_OF_VISITORS = ("anon", "authenticated")
_OWN_PREFIXES = ("mail", "dramatiq")

Choice = TypeVar("Choice", bound=str)


class Values:
    """Reads values one by one and collects the mistakes, so that the user sees all of them at once."""

    def __init__(self, values: Mapping[str, str], path: Path) -> None:
        self.mistakes: list[str] = []
        self._values = values
        self._where = f"in {path} or the environment"

    def text(self, *names: str, default: str | None = None, secret: bool = False) -> str:
        """The first of `names` that is set; empty counts as missing."""
        name = self._present(*names)
        if name is None:
            if default is None:
                self._mistake(f"{' (or '.join(names)}{')' * (len(names) - 1)} is missing", names[0])
            return default or ""
        value = self._values[name].strip()
        if any(ord(character) < 32 or ord(character) == 127 for character in value):
            shown = "it" if secret else repr(value)
            self._mistake(f"{name} holds a line break or another control character ({shown})", name)
            return ""
        return value

    def integer(self, name: str, *, default: int, low: int, high: int) -> int:
        value = self.text(name, default=str(default))
        if not (value.isascii() and value.isdigit() and low <= int(value) <= high):
            self._mistake(f"{name} is {value!r}, but must be a whole number from {low} to {high}", name)
            return default
        return int(value)

    def choice(self, name: str, default: Choice, choices: tuple[Choice, ...]) -> Choice:
        value = self.text(name, default=default)
        for choice in choices:
            if choice.lower() == value.lower():
                return choice
        self._mistake(f"{name} is {value!r}, but must be one of {', '.join(choices)}", name)
        return default

    def rate(self, name: str) -> tuple[Limit, ...]:
        value = self.text(name, default="")
        try:
            return parse_rate(value)
        except ValueError as error:
            self._mistake(f"{name} holds {str(error)!r}, but must look like 10/s,500/h,5000/d", name)
            return ()

    def url(self, name: str, default: str | None) -> str:
        value = self.text(name, default=default).rstrip("/")
        url = _parse_url(value)
        if value and (url is None or url.scheme not in ("http", "https") or not url.host or url.rest):
            self._mistake(f"{name} must be an address like https://api.example.com", name)
        return value

    def identifier(self, name: str, default: str) -> str:
        value = self.text(name, default=default)
        if value != default and not value.isidentifier():
            self._mistake(f"{name} is {value!r}, but must be a table's or column's plain name", name)
        return value

    def address(self, name: str) -> Address | None:
        value = self.text(name, default="")
        if not value:
            return None
        try:
            return parse_address(value, name)
        except InvalidJob as error:
            self._mistake(str(error), name)
            return None

    def headers(self, name: str) -> dict[str, str]:
        """Header fields as a JSON object."""
        value = self.text(name, default="")
        if not value:
            return {}
        try:
            return dict(read_headers(json.loads(value)))
        except (ValueError, RecursionError):
            self._mistake(f'{name} must be a JSON object like {{"X-Priority":"3"}}', name)
        except InvalidJob as error:
            self._mistake(f"{name}: {error}", name)
        return {}

    def field_names(self, name: str) -> dict[str, str]:
        """`email=userEmail,html=emailBody` as what a mail is made of → the app's own name for it."""
        own: dict[str, str] = {}
        for pair in filter(None, (part.strip() for part in self.text(name, default="").split(","))):
            ours, _, theirs = (part.strip() for part in pair.partition("="))
            known = FieldNames().known(ours)
            if known is None or not re.fullmatch(r"[A-Za-z_][\w-]{0,99}", theirs):
                self._mistake(
                    f"{name} holds {pair!r}, but must look like email=userEmail,html=emailBody, with a name of"
                    " docs/jobs.md in front of each =",
                    name,
                )
            elif (other := FieldNames().known(theirs)) is not None and other[0] != known[0]:
                self._mistake(f"{name} calls {known[0]} {theirs}, but that is a name for {other[0]} already", name)
            elif known[0] in own:
                self._mistake(f"{name} names {known[0]} twice", name)
            else:
                own[known[0]] = theirs
        return own

    def hosts(self, name: str) -> tuple[str, ...]:
        """`files.example.com,*.cdn.example.com`"""
        hosts = tuple(part.strip().lower() for part in self.text(name, default="").split(",") if part.strip())
        for host in hosts:
            if not re.fullmatch(r"(\*\.)?[a-z0-9-]+(\.[a-z0-9-]+)+", host):
                self._mistake(f"{name} holds {host!r}, but must be host names, like files.example.com", name)
        return hosts

    def sandbox(self, name: str) -> Sandbox | None:
        """`redirect:ADDRESS`, `capture:/DIRECTORY` or `capture:smtp://HOST:PORT`."""
        value = self.text(name, default="")
        kind, _, target = value.partition(":")
        if not value:
            return None
        if kind == "redirect":
            try:
                return Sandbox(redirect_to=parse_address(target, name))
            except InvalidJob as error:
                self._mistake(str(error), name)
                return None
        if kind == "capture" and target.startswith("/"):
            return Sandbox(directory=Path(target))
        if "//" in target and "@" in target:
            # The value isn't shown: it may hold a password.
            self._mistake(
                f"{name} holds a user or a password, but a mail catcher gets mails without one:"
                " capture:smtp://HOST:PORT",
                name,
            )
            return None
        url = _parse_url(target)
        if kind == "capture" and url is not None and url.scheme == "smtp" and url.host and not (url.path or url.rest):
            return Sandbox(catcher=(url.host, url.port or CATCHER_PORT))
        self._mistake(
            f"{name} is {value!r}, but must be redirect:ADDRESS, capture:/DIRECTORY or capture:smtp://HOST:PORT", name
        )
        return None

    def queue_name(self, name: str, default: str, *, colon: bool = False) -> str:
        """A queue's name or its prefix; set and empty is empty."""
        if not self._values.get(name, default).strip():
            return ""
        value = self.text(name, default=default)
        if re.search(r"\s", value) or (":" in value and not colon):
            self._mistake(f"{name} is {value!r}, but must be a name without spaces or colons", name)
        elif colon and value in _OWN_PREFIXES:
            self._mistake(f"{name} is {value!r}, but that's what the worker's own keys begin with", name)
        return value

    def host(self, name: str) -> str:
        value = self.text(name)
        if "/" in value or " " in value or (value.count(":") == 1):
            self._mistake(f"{name} is {value!r}, but must be a host name alone, like smtp.zoho.com", name)
        return value

    def helo_name(self, name: str) -> str:
        """A full domain or an address literal (RFC 5321, 4.1.3); empty without one."""
        value = self.text(name, default="")
        if value and not re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+|\[[0-9A-Za-z:.]+\]", value):
            self._mistake(f"{name} is {value!r}, but must be a full host name, like mail1.example.com", name)
        return value

    def redis_url(self, *names: str) -> str:
        value = self.text(*names, secret=True)
        name = self._present(*names) or names[0]
        if not value:
            return value
        url = _parse_url(value)
        if url is None:
            self._mistake(
                f"{name} isn't a valid address: its password must have %2F for /, %23 for #, %3F for ?, %40 for @",
                name,
            )
        elif url.scheme in ("http", "https"):
            self._mistake(
                f"{name} is the REST address ({url.scheme}://{url.host}): copy the one that starts with rediss://", name
            )
        elif url.scheme not in ("redis", "rediss") or not url.host:
            self._mistake(
                f"{name} must look like rediss://default:PASSWORD@HOST:6379, but its scheme is {url.scheme!r}"
                f" and its host {url.host!r}",
                name,
            )
        elif not re.fullmatch(r"/?\d*", url.path) or url.rest:
            self._mistake(f"{name} may end with a database's number, like :6379/0, but with nothing else", name)
        return value

    def supabase_url(self, *names: str) -> str:
        value = self.text(*names).rstrip("/")
        name = self._present(*names) or names[0]
        if not value:
            return value
        url = _parse_url(value)
        if url is None or url.scheme not in ("http", "https") or not url.host or url.path or url.rest:
            self._mistake(f"{name} must be the project's address alone, like https://PROJECT.supabase.co", name)
        return value

    def supabase_key(self, *names: str) -> str:
        value = self.text(*names, secret=True)
        if value.startswith("sb_publishable_"):
            name = self._present(*names) or names[0]
            self._mistake(f"{name} is a publishable key, which can't write: use the secret key (sb_secret_…)", name)
        elif (role := jwt_claims(value).get("role")) in _ROLES_OF_VISITORS:
            name = self._present(*names) or names[0]
            self._mistake(
                f"{name} is the key of the role {role}, which row level security lets see nothing: use the secret key"
                " (sb_secret_…, or the service_role key of old)",
                name,
            )
        return value

    def secret_url(self, name: str, *schemes: str, needed: bool = False) -> str:
        """An address that isn't shown, since whoever has it may use it; empty without one."""
        value = self.text(name, default=None if needed else "", secret=True)
        url = _parse_url(value)
        if value and (url is None or url.scheme not in schemes or not url.host):
            self._mistake(f"{name} must be an address that begins with {schemes[0]}:// (it isn't shown here)", name)
            return ""
        return value

    def quiet_hours(self, name: str) -> QuietHours | None:
        """`22:00-07:00 Europe/Berlin`"""
        value = self.text(name, default="")
        try:
            return QuietHours.parse(value) if value else None
        except ValueError:
            self._mistake(f"{name} is {value!r}, but must look like 22:00-07:00 Europe/Berlin", name)
            return None

    def metrics_file(self, name: str) -> str:
        """A path at which node_exporter's textfile collector finds it; empty without one."""
        value = self.text(name, default="")
        if value and not re.fullmatch(r"/.*\.prom", value):
            self._mistake(
                f"{name} is {value!r}, but must be a full path that ends with .prom, like"
                " /var/log/mail-worker/metrics.prom",
                name,
            )
        return value

    def _present(self, *names: str) -> str | None:
        return next((name for name in names if self._values.get(name, "").strip()), None)

    def _mistake(self, sentence: str, name: str) -> None:
        self.mistakes.append(f"{sentence}: set {name} {self._where}.")


def jwt_claims(key: str) -> dict[str, object]:
    """What a Supabase key of old, a JWT (RFC 7519), says of itself; nothing if it isn't one."""
    parts = key.split(".")
    if len(parts) != 3:
        return {}
    try:
        payload = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return {}
    return payload if isinstance(payload, dict) else {}


@dataclass(frozen=True, slots=True)
class _Url:
    """What of a URL may be shown: no user and password. `rest` tells whether there's something behind a ? or #."""

    scheme: str
    host: str
    port: int | None
    path: str
    rest: bool


def _parse_url(value: str) -> _Url | None:
    """None when it isn't a URL at all, or its port isn't a number."""
    try:
        parts = urlsplit(value)
        return _Url(parts.scheme, parts.hostname or "", parts.port, parts.path, bool(parts.query or parts.fragment))
    except ValueError:
        return None
