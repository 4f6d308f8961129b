"""The transport that the settings describe, and the sending account behind it."""

import hashlib
from collections.abc import Awaitable, Callable

import redis.asyncio

from worker.base.settings import Secret, Settings
from worker.sending.account import Account
from worker.sending.transports.base import RESEND_KEPT_SECONDS, Connections, Transport

#: https://resend.com/docs/send-with-smtp
RESEND_SMTP_HOST = "smtp.resend.com"

# Each transport imports what it needs: a worker must stay small.


def make_transport(settings: Settings, connections: Connections | None = None) -> Transport:
    """Makes the one that `MAIL_TRANSPORT` names.

    Args:
        connections: the fleet's limit; None for a single test mail.
    """
    transport = _provider(settings, connections)
    if settings.sandbox is None:
        return transport
    from worker.sending.transports.sandbox import in_sandbox

    return in_sandbox(settings.sandbox, transport)


def _provider(settings: Settings, connections: Connections | None) -> Transport:
    if settings.transport == "smtp":
        from worker.sending.transports.smtp import Idempotency, SmtpTransport
        from worker.sending.transports.smtp_login import Server

        at_resend = settings.smtp_host.lower() == RESEND_SMTP_HOST
        return SmtpTransport(
            Server(
                host=settings.smtp_host,
                port=settings.smtp_port,
                user=settings.smtp_user,
                shown_user=settings.shown_smtp_user,
                auth=settings.smtp_auth,
                implicit_tls=settings.smtp_implicit_tls,
                helo_name=settings.smtp_helo_name,
            ),
            _credential(settings),
            mails_per_connection=settings.smtp_mails_per_connection,
            connections=connections,
            idempotency=Idempotency("Resend-Idempotency-Key", RESEND_KEPT_SECONDS) if at_resend else None,
        )
    from worker.sending.transports.http import HttpTransport
    from worker.sending.transports.providers import make_provider

    return HttpTransport(make_provider(settings))


def make_account(settings: Settings, client: "redis.asyncio.Redis", process: str) -> Account:
    """The sending account, as the process of this name sees it."""
    return Account(
        client,
        settings.account_name,
        process,
        max_connections=settings.max_connections,
        first_pause_seconds=settings.account_pause_seconds,
        credentials=_credentials(settings),
    )


def _credentials(settings: Settings) -> str:
    """Differs, nearly always, where the credentials do; too short for anybody to find them by it."""
    secrets = (settings.smtp_user, settings.smtp_password, settings.oauth_refresh_token, settings.api_key)
    return hashlib.sha256("\0".join(secrets).encode()).hexdigest()[:4]


def destination(settings: Settings) -> str:
    """Where the mails go, for people."""
    if settings.sandbox is not None and settings.sandbox.redirect_to is None:
        return "the sandbox"
    if settings.transport == "smtp":
        return f"{settings.smtp_host}:{settings.smtp_port}"
    return settings.transport


def _credential(settings: Settings) -> Callable[[], Awaitable[Secret]]:
    if settings.smtp_auth == "xoauth2":
        from worker.sending.transports.oauth import AccessTokens

        return AccessTokens(settings).get

    async def password() -> Secret:
        return settings.smtp_password

    return password
