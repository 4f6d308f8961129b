"""The only module that reads the environment."""

import hashlib
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar, get_args

from dotenv import dotenv_values

from worker.base.alerting import AlertSettings
from worker.base.sandbox import Sandbox
from worker.base.values import Values
from worker.errors import InvalidJob, SettingsError
from worker.mail.addresses import Address, parse_address
from worker.mail.content import Placeholders
from worker.mail.jobs import Defaults
from worker.mail.pacing import Limit

ENV_FILE_VARIABLE = "MAIL_WORKER_ENV_FILE"
DEFAULT_ENV_FILE = Path("/etc/mail-worker/worker.env")

IMPLICIT_TLS_PORT = 465

SmtpAuth = Literal["auto", "plain", "login", "xoauth2"]
TRANSPORTS = ("smtp", "resend", "sendgrid", "mailgun")

Read = TypeVar("Read")


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
    log_format: Literal["text", "json"]
    #: Whether JSON has recipients' addresses as they are.
    log_addresses: Literal["hashed", "plain"]
    alerts: AlertSettings
    #: Where metrics are offered, on loopback; 0: nowhere.
    metrics_port: int
    #: Where they are written once a minute; empty: nowhere.
    metrics_file: str
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
    #: Of the app, with its subscribers' addresses: `mail-worker why` alone reads it.
    subscribers_table: str
    subscriber_id_column: str
    subscriber_address_column: str
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
    def account_name(self) -> str:
        """What the sending account's keys in Redis are called. Processes with the same credentials share one."""
        if self.sandbox is not None and self.sandbox.redirect_to is None:
            return "sandbox"
        if self.transport == "smtp":
            return f"smtp:{self.shown_smtp_user}@{self.smtp_host}"
        # Two keys of one provider account have one quota, but nothing tells that they belong together.
        return f"{self.transport}:{hashlib.sha256(self.api_key.encode()).hexdigest()[:12]}"

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


def _load(read: Callable[["Values"], Read], environ: Mapping[str, str] | None) -> Read:
    environ = os.environ if environ is None else environ
    path = Path(environ.get(ENV_FILE_VARIABLE) or DEFAULT_ENV_FILE)
    reader = Values({**_read_file(path, required=ENV_FILE_VARIABLE in environ), **environ}, path)
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


def _read(reader: "Values") -> Settings:
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
        log_format=reader.choice("LOG_FORMAT", "text", get_args(Literal["text", "json"])),
        log_addresses=reader.choice("LOG_ADDRESSES", "hashed", get_args(Literal["hashed", "plain"])),
        alerts=_alerts(reader),
        metrics_port=reader.integer("METRICS_PORT", default=0, low=0, high=65535),
        metrics_file=reader.metrics_file("METRICS_FILE"),
        campaigns_table=reader.identifier("SUPABASE_CAMPAIGNS_TABLE", "campaigns"),
        campaign_id_column=reader.identifier("SUPABASE_CAMPAIGN_ID_COLUMN", "id"),
        campaign_status_column=reader.identifier("SUPABASE_CAMPAIGN_STATUS_COLUMN", "status"),
        recipients_table=reader.identifier("SUPABASE_RECIPIENTS_TABLE", "campaign_subscribers"),
        recipient_campaign_column=reader.identifier("SUPABASE_RECIPIENT_CAMPAIGN_COLUMN", "campaign_id"),
        recipient_subscriber_column=reader.identifier("SUPABASE_RECIPIENT_SUBSCRIBER_COLUMN", "subscriber_id"),
        recipient_sent_column=reader.identifier("SUPABASE_RECIPIENT_SENT_COLUMN", "sent"),
        recipient_sent_at_column=reader.identifier("SUPABASE_RECIPIENT_SENT_AT_COLUMN", "sent_at"),
        recipient_error_column=reader.identifier("SUPABASE_RECIPIENT_ERROR_COLUMN", ""),
        subscribers_table=reader.identifier("SUPABASE_SUBSCRIBERS_TABLE", "subscribers"),
        subscriber_id_column=reader.identifier("SUPABASE_SUBSCRIBER_ID_COLUMN", "id"),
        subscriber_address_column=reader.identifier("SUPABASE_SUBSCRIBER_ADDRESS_COLUMN", "email"),
    )


def _alerts(reader: "Values") -> AlertSettings:
    mail_to, mail_from = reader.address("ALERT_MAIL_TO"), reader.address("ALERT_MAIL_FROM")
    return AlertSettings(
        webhook_url=Secret(reader.secret_url("ALERT_WEBHOOK_URL", "https", "http")),
        webhook_secret=Secret(reader.text("ALERT_WEBHOOK_SECRET", default="", secret=True)),
        mail_to=mail_to.email if mail_to else "",
        mail_from=mail_from.email if mail_from else "",
        smtp_url=Secret(reader.secret_url("ALERT_SMTP_URL", "smtps", "smtp", needed=mail_to is not None)),
        ping_url=Secret(reader.secret_url("ALERT_PING_URL", "https", "http")),
        quiet_hours=reader.quiet_hours("ALERT_QUIET_HOURS"),
        stuck_minutes=reader.integer("ALERT_STUCK_MINUTES", default=10, low=1, high=60),
        failure_percent=reader.integer("ALERT_FAILURE_PERCENT", default=10, low=1, high=100),
        disk_percent=reader.integer("ALERT_DISK_PERCENT", default=10, low=1, high=90),
        redis_commands=reader.integer("ALERT_REDIS_COMMANDS", default=0, low=0, high=10**12),
        campaign_done=reader.choice("ALERT_CAMPAIGN_DONE", "yes", ("yes", "no")) == "yes",
    )


def _jobs(reader: "Values") -> JobSettings:
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


def _transport(reader: "Values") -> str:
    """`auto` takes the first provider that an API key is there for, and SMTP without any."""
    chosen = reader.choice("MAIL_TRANSPORT", "auto", ("auto", *TRANSPORTS))
    if chosen != "auto":
        return chosen
    return next(
        (name for name in TRANSPORTS[1:] if reader.text(f"{name.upper()}_API_KEY", default="", secret=True)), "smtp"
    )


def _sender(reader: "Values") -> Address | None:
    """The first of those that there are; SMTP_USER where it's an address."""
    sender = reader.address("MAIL_FROM") or reader.address("FROM_EMAIL")
    if sender is None:
        try:
            sender = parse_address(reader.text("SMTP_USER", default=""), "SMTP_USER")
        except InvalidJob:
            return None
    return sender
