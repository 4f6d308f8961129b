"""The only module that reads the environment."""

import base64
import hashlib
import json
import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar, get_args
from urllib.parse import urlsplit

from dotenv import dotenv_values

from worker.errors import InvalidJob, SettingsError
from worker.mail.addresses import Address, parse_address
from worker.mail.content import Placeholders
from worker.mail.job_headers import read_headers
from worker.mail.jobs import Defaults
from worker.mail.names import FieldNames
from worker.mail.pacing import Limit, parse_rate

ENV_FILE_VARIABLE = "MAIL_WORKER_ENV_FILE"
DEFAULT_ENV_FILE = Path("/etc/mail-worker/worker.env")

#: Mailpit's, and MailHog's.
CATCHER_PORT = 1025
IMPLICIT_TLS_PORT = 465
#: https://supabase.com/docs/guides/database/postgres/roles
_ROLES_OF_VISITORS = ("anon", "authenticated")
_OWN_PREFIXES = ("mail", "dramatiq")

SmtpAuth = Literal["auto", "plain", "login", "xoauth2"]
TRANSPORTS = ("smtp", "resend", "sendgrid", "mailgun")


Read = TypeVar("Read")
Choice = TypeVar("Choice", bound=str)


class Secret(str):
    """A string that doesn't show itself in a repr, and so in no traceback, log of a dataclass or assertion either."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


@dataclass(frozen=True, slots=True)
class JobSettings:
    """By what jobs become mails."""

    defaults: Defaults
    #: What a mail is made of → the app's own name for it in its jobs.
    own_names: dict[str, str]
    #: Whether a text part is made for jobs that have HTML alone.
    makes_text: bool


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Where all mails go instead of their recipients: one of these."""

    redirect_to: Address | None = None
    directory: Path | None = None
    #: Host and port of a mail catcher.
    catcher: tuple[str, int] = ("", 0)

    def __str__(self) -> str:
        if self.redirect_to is not None:
            return f"all mails go to {self.redirect_to.email}, and not to their recipients"
        where = str(self.directory) if self.directory is not None else ":".join(map(str, self.catcher))
        return f"all mails are caught in {where}, and nobody gets one"


@dataclass(frozen=True, slots=True)
class Settings:
    """All that a process needs to know. Each field's environment variables stand in `_read`."""

    redis_url: Secret
    supabase_url: str
    supabase_key: Secret
    transport: str
    smtp_host: str
    smtp_port: int
    smtp_user: str
    smtp_password: Secret
    smtp_auth: SmtpAuth
    smtp_mails_per_connection: int
    #: What EHLO says; empty is the host's full name, or its address.
    smtp_helo_name: str
    oauth_token_url: str
    oauth_client_id: str
    oauth_client_secret: Secret
    oauth_refresh_token: Secret
    api_key: Secret
    api_url: str
    mailgun_domain: str
    sandbox: Sandbox | None
    mail_rate: tuple[Limit, ...]
    max_connections: int
    hold_uncertain: bool
    pause_above_percent: int
    account_pause_seconds: int
    dead_after_seconds: int
    jobs: JobSettings
    #: Empty: there's no such queue.
    bullmq_queue: str
    bullmq_prefix: str
    bullmq_keep_completed: int
    bullmq_keep_failed: int
    concurrency: int
    max_memory_mb: int
    stop_timeout_seconds: int
    retry_hours: int
    max_attempts: int
    log_level: str
    campaigns_table: str
    campaign_id_column: str
    campaign_status_column: str
    recipients_table: str
    recipient_campaign_column: str
    recipient_subscriber_column: str
    recipient_sent_column: str
    recipient_sent_at_column: str
    #: Empty: a failed recipient's reason stays in the ledger.
    recipient_error_column: str
    host_name: str = field(default_factory=socket.gethostname)

    @property
    def mail_from(self) -> Address | None:
        """The sender of mails whose jobs name none."""
        return self.jobs.defaults.sender

    @property
    def bullmq(self) -> str:
        """What the keys of the app's BullMQ queue begin with, `PREFIX:QUEUE`; empty without one."""
        return f"{self.bullmq_prefix}:{self.bullmq_queue}" if self.bullmq_queue else ""

    @property
    def shown_smtp_user(self) -> str:
        """The user for sentences and names. Some providers (Postmark) take the secret token as the user as well."""
        if self.smtp_user != self.smtp_password:
            return self.smtp_user
        return f"token-{hashlib.sha256(self.smtp_user.encode()).hexdigest()[:12]}"

    @property
    def smtp_implicit_tls(self) -> bool:
        """Port 465 speaks TLS from the first byte, every other port STARTTLS (RFC 8314)."""
        return self.smtp_port == IMPLICIT_TLS_PORT


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Reads the environment, and below it the file that `MAIL_WORKER_ENV_FILE` names.

    Raises:
        SettingsError: with every mistake at once; values are shown only where they can't be secret.
    """
    return _load(_read, environ)


def load_job_settings(environ: Mapping[str, str] | None = None) -> JobSettings:
    """Those alone by which jobs become mails; no service needs to be set.

    Raises:
        SettingsError: with every mistake at once.
    """
    return _load(_jobs, environ)


def _load(read: Callable[["_Reader"], Read], environ: Mapping[str, str] | None) -> Read:
    environ = os.environ if environ is None else environ
    path = Path(environ.get(ENV_FILE_VARIABLE) or DEFAULT_ENV_FILE)
    reader = _Reader({**_read_file(path, required=ENV_FILE_VARIABLE in environ), **environ}, path)
    settings = read(reader)
    if reader.mistakes:
        raise SettingsError(reader.mistakes)
    return settings


def _read_file(path: Path, *, required: bool) -> dict[str, str]:
    try:
        # Without interpolation a password may hold `${…}`.
        with path.open(encoding="utf-8") as stream:
            values = dotenv_values(stream=stream, interpolate=False)
    except FileNotFoundError:
        if required:
            raise SettingsError([f"{path} doesn't exist: {ENV_FILE_VARIABLE} names it."]) from None
        return {}
    except PermissionError:
        raise SettingsError([f"{path} can't be read by this user: use sudo, or join its group."]) from None
    except UnicodeDecodeError:
        raise SettingsError([f"{path} isn't UTF-8 text: write it anew with ansible-playbook."]) from None
    return {name: value for name, value in values.items() if value is not None}


def _read(reader: "_Reader") -> Settings:
    transport = _transport(reader)
    smtp = transport == "smtp"
    auth = reader.choice("SMTP_AUTH", "auto", get_args(SmtpAuth))
    xoauth2 = smtp and auth == "xoauth2"

    def needed(name: str, condition: bool, *, secret: bool = False) -> str:
        return reader.text(name, default=None if condition else "", secret=secret)

    return Settings(
        redis_url=Secret(reader.redis_url("REDIS_URL", "UPSTASH_REDIS_URL")),
        supabase_url=reader.supabase_url("SUPABASE_URL", "NEXT_PUBLIC_SUPABASE_URL"),
        supabase_key=Secret(reader.supabase_key("SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY")),
        transport=transport,
        smtp_host=reader.host("SMTP_HOST") if smtp else "",
        smtp_port=reader.integer("SMTP_PORT", default=IMPLICIT_TLS_PORT, low=1, high=65535),
        smtp_user=needed("SMTP_USER", smtp),
        smtp_password=Secret(needed("SMTP_PASS", smtp and not xoauth2, secret=True)),
        smtp_auth=auth,
        smtp_mails_per_connection=reader.integer("SMTP_MAILS_PER_CONNECTION", default=100, low=1, high=100_000),
        smtp_helo_name=reader.helo_name("SMTP_HELO_NAME"),
        oauth_token_url=reader.url("SMTP_OAUTH_TOKEN_URL", default=None if xoauth2 else ""),
        oauth_client_id=needed("SMTP_OAUTH_CLIENT_ID", xoauth2),
        oauth_client_secret=Secret(reader.text("SMTP_OAUTH_CLIENT_SECRET", default="", secret=True)),
        oauth_refresh_token=Secret(needed("SMTP_OAUTH_REFRESH_TOKEN", xoauth2, secret=True)),
        api_key=Secret("" if smtp else reader.text(f"{transport.upper()}_API_KEY", secret=True)),
        api_url=reader.url("MAIL_API_URL", default=""),
        mailgun_domain=needed("MAILGUN_DOMAIN", transport == "mailgun"),
        sandbox=reader.sandbox("MAIL_SANDBOX"),
        mail_rate=reader.rate("MAIL_RATE"),
        max_connections=reader.integer("MAIL_CONNECTIONS", default=0, low=0, high=10_000),
        hold_uncertain=reader.choice("MAIL_ON_UNCERTAIN", "resend", ("resend", "hold")) == "hold",
        pause_above_percent=reader.integer("MAIL_PAUSE_ABOVE_PERCENT", default=20, low=1, high=100),
        account_pause_seconds=reader.integer("MAIL_ACCOUNT_PAUSE_SECONDS", default=60, low=1, high=86_400),
        dead_after_seconds=reader.integer("WORKER_DEAD_AFTER_SECONDS", default=36, low=4, high=600),
        jobs=_jobs(reader),
        bullmq_queue=reader.queue_name("BULLMQ_QUEUE", "mail-queue"),
        bullmq_prefix=reader.queue_name("BULLMQ_PREFIX", "bull", colon=True) or "bull",
        bullmq_keep_completed=reader.integer("BULLMQ_KEEP_COMPLETED", default=1000, low=0, high=1_000_000),
        bullmq_keep_failed=reader.integer("BULLMQ_KEEP_FAILED", default=5000, low=1, high=1_000_000),
        concurrency=reader.integer("WORKER_CONCURRENCY", default=5, low=1, high=500),
        max_memory_mb=reader.integer("WORKER_MAX_MEMORY_MB", default=0, low=0, high=1_000_000),
        stop_timeout_seconds=reader.integer("WORKER_STOP_TIMEOUT_SECONDS", default=30, low=1, high=3600),
        retry_hours=reader.integer("MAIL_RETRY_HOURS", default=24, low=0, high=168),
        max_attempts=reader.integer("MAIL_MAX_ATTEMPTS", default=5, low=1, high=50),
        log_level=reader.choice("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR")),
        campaigns_table=reader.identifier("SUPABASE_CAMPAIGNS_TABLE", "campaigns"),
        campaign_id_column=reader.identifier("SUPABASE_CAMPAIGN_ID_COLUMN", "id"),
        campaign_status_column=reader.identifier("SUPABASE_CAMPAIGN_STATUS_COLUMN", "status"),
        recipients_table=reader.identifier("SUPABASE_RECIPIENTS_TABLE", "campaign_subscribers"),
        recipient_campaign_column=reader.identifier("SUPABASE_RECIPIENT_CAMPAIGN_COLUMN", "campaign_id"),
        recipient_subscriber_column=reader.identifier("SUPABASE_RECIPIENT_SUBSCRIBER_COLUMN", "subscriber_id"),
        recipient_sent_column=reader.identifier("SUPABASE_RECIPIENT_SENT_COLUMN", "sent"),
        recipient_sent_at_column=reader.identifier("SUPABASE_RECIPIENT_SENT_AT_COLUMN", "sent_at"),
        recipient_error_column=reader.identifier("SUPABASE_RECIPIENT_ERROR_COLUMN", ""),
    )


def _jobs(reader: "_Reader") -> JobSettings:
    makes_text = reader.choice("MAIL_TEXT_PART", "auto", ("auto", "none")) == "auto"
    return JobSettings(
        Defaults(
            sender=_sender(reader),
            reply_to=reader.address("MAIL_REPLY_TO"),
            headers=reader.headers("MAIL_HEADERS"),
            placeholders=reader.choice("MAIL_PLACEHOLDERS", "name", get_args(Placeholders)),
            attachment_hosts=reader.hosts("MAIL_ATTACHMENT_HOSTS"),
            makes_text=makes_text,
        ),
        own_names=reader.field_names("MAIL_FIELDS"),
        makes_text=makes_text,
    )


def _transport(reader: "_Reader") -> str:
    """`auto` takes the first provider that an API key is there for, and SMTP without any."""
    chosen = reader.choice("MAIL_TRANSPORT", "auto", ("auto", *TRANSPORTS))
    if chosen != "auto":
        return chosen
    return next(
        (name for name in TRANSPORTS[1:] if reader.text(f"{name.upper()}_API_KEY", default="", secret=True)), "smtp"
    )


def _sender(reader: "_Reader") -> Address | None:
    """The first of those that there are; SMTP_USER where it's an address."""
    sender = reader.address("MAIL_FROM") or reader.address("FROM_EMAIL")
    if sender is None:
        try:
            sender = parse_address(reader.text("SMTP_USER", default=""), "SMTP_USER")
        except InvalidJob:
            return None
    return sender


class _Reader:
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
        url = _parse_url(target)
        if kind == "capture" and target.startswith("/"):
            return Sandbox(directory=Path(target))
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
        elif (role := _jwt_role(value)) in _ROLES_OF_VISITORS:
            name = self._present(*names) or names[0]
            self._mistake(
                f"{name} is the key of the role {role}, which row level security lets see nothing: use the secret key"
                " (sb_secret_…, or the service_role key of old)",
                name,
            )
        return value

    def _present(self, *names: str) -> str | None:
        return next((name for name in names if self._values.get(name, "").strip()), None)

    def _mistake(self, sentence: str, name: str) -> None:
        self.mistakes.append(f"{sentence}: set {name} {self._where}.")


def _jwt_role(key: str) -> str:
    """The role in a Supabase key of old, a JWT (RFC 7519); empty if it isn't one."""
    parts = key.split(".")
    if len(parts) != 3:
        return ""
    try:
        payload = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return ""
    return str(payload.get("role", "")) if isinstance(payload, dict) else ""


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
