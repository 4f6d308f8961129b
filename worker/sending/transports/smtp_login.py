"""Opens SMTP connections: TLS, the greeting, EHLO, the login (RFC 5321, 4954 and 8314), and what is wrong if that
fails. The only module that knows aiosmtplib."""

import asyncio
import contextlib
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast

import aiosmtplib
from aiosmtplib.protocol import SMTPProtocol

from worker.base.dialing import dial
from worker.base.settings import Secret, SmtpAuth
from worker.errors import AccountRefused, TransportUnavailable
from worker.mail.outcomes import Reply, Stage, classify_smtp
from worker.sending.transports.smtp_session import MAX_REPLY_BYTES, SmtpSession, StepSeconds

CONNECT_TIMEOUT_SECONDS = 10.0
#: For DNS to know the host's full name.
NAME_SECONDS = 2.0

#: RFC 5321, 4.2.2: syntax error, command unrecognized; command not implemented.
_NO_SUCH_COMMAND = (500, 502)
_READY = 220
_BLANK_LINES = re.compile(rb"\n\s+")
_FULL_NAME = re.compile(r"(?!localhost\b)(?=.{4,255}$)([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z][A-Za-z0-9-]*")

#: Returns the password, or with `xoauth2` an access token.
Credential = Callable[[], Awaitable[Secret]]


@dataclass(frozen=True, slots=True)
class Server:
    """An SMTP server and what it asks for. `shown_user` is what sentences call the user."""

    host: str
    port: int
    user: str
    shown_user: str
    auth: SmtpAuth
    implicit_tls: bool
    #: What EHLO says; empty is the host's full name, or the connection's own address.
    helo_name: str

    def __str__(self) -> str:
        return f"SMTP server {self.host}:{self.port}"

    def unavailable(self, problem: str) -> TransportUnavailable:
        """What to raise while it takes no connection."""
        return TransportUnavailable(f"{self}: {problem}.")

    def dislikes_helo(self, words: str, name: str) -> str:
        """A sentence for a server that wants another name in EHLO."""
        return (
            f"{self} takes this host's name {name} in EHLO for wrong ({words}): set"
            " SMTP_HELO_NAME (worker_smtp_helo_name) to the full name that this host's address has in DNS."
        )


class _Protocol(SMTPProtocol):
    """aiosmtplib's, which takes an empty line before a reply for a reply. Some servers and proxies send such."""

    def __init__(self, connection_lost: Callable[[SMTPProtocol], None]) -> None:
        super().__init__(asyncio.get_running_loop(), connection_lost)
        self._at_line_start = True
        self._blank_bytes = 0
        self._trouble: ConnectionError | None = None

    def data_received(self, data: bytes) -> None:
        kept = _BLANK_LINES.sub(b"\n", data.lstrip() if self._at_line_start else data)
        self._blank_bytes += len(data) - len(kept)
        if self._blank_bytes > MAX_REPLY_BYTES and self.transport is not None:
            self._trouble = ConnectionError("it sends blank lines without end")
            cast(asyncio.Transport, self.transport).abort()
        elif kept:
            self._at_line_start = kept.endswith(b"\n")
            super().data_received(kept)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(self._trouble or exc)


class Login:
    """Logs in at a server."""

    def __init__(self, server: Server, credential: Credential, step_seconds: StepSeconds) -> None:
        self._server = server
        self._step_seconds = step_seconds
        self._credential = credential
        self._tls = ssl.create_default_context()
        self._helo_name = server.helo_name
        self._naming = asyncio.Lock()

    async def __call__(self) -> SmtpSession:
        """A new connection.

        Raises:
            TransportUnavailable, AccountRefused: with what to do about it.
        """
        client = await self._greet()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                await self._log_in(client)
        except aiosmtplib.SMTPAuthenticationError as error:
            client.close()
            if classify_smtp(error.code, error.message, Stage.LOGIN) is not Reply.LOGIN:
                raise self._server.unavailable(
                    f"it takes no login now: {error.code} {one_line(error.message)}"
                ) from error
            check = "the SMTP_OAUTH_… settings" if self._server.auth == "xoauth2" else "SMTP_USER and SMTP_PASS"
            raise AccountRefused(
                f"{self._server}: it refuses the login as {self._server.shown_user}"
                f" ({error.code} {one_line(error.message)}): check {check}.",
                "login",
            ) from error
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            client.close()
            words = one_line(str(error.__cause__ or error)) or "time-out"
            raise self._server.unavailable(f"logging in failed: {words}") from error
        except BaseException:
            client.close()
            raise
        protocol = client.protocol
        if protocol is None or protocol.transport is None:
            raise self._server.unavailable("it ended the connection after the login")
        return SmtpSession(
            protocol.transport,
            pipelining=client.supports_extension("pipelining"),
            smtputf8=client.supports_extension("smtputf8"),
            helo_name=client.local_hostname or "",
            seconds=self._step_seconds,
        )

    async def _name(self, connected: socket.socket) -> str:
        # Once, not for each of the connections that a process opens at its start.
        async with self._naming:
            if not self._helo_name:
                name = ""
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(NAME_SECONDS):
                        name = await asyncio.to_thread(full_host_name)
                self._helo_name = name or address_literal(connected)
        return self._helo_name

    async def _greet(self) -> aiosmtplib.SMTP:
        try:
            connected = await dial(self._server.host, self._server.port, CONNECT_TIMEOUT_SECONDS)
        except TimeoutError as error:
            raise self._server.unavailable(
                f"no answer within {CONNECT_TIMEOUT_SECONDS:.0f} s: many VPS providers drop this port"
                " - try SMTP_PORT 587, 465 or 2525"
            ) from error
        except OSError as error:
            raise self._server.unavailable(f"{one_line(str(error))}: check SMTP_HOST and SMTP_PORT") from error
        try:
            name = await self._name(connected)
        except BaseException:
            connected.close()
            raise
        client = aiosmtplib.SMTP(
            hostname=self._server.host,
            use_tls=self._server.implicit_tls,
            start_tls=False,
            tls_context=self._tls,
            local_hostname=name,
            timeout=CONNECT_TIMEOUT_SECONDS,
        )
        greeted = False
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                await self._connect(client, connected)
                if not self._server.implicit_tls:
                    await client.starttls()
                if client.is_ehlo_or_helo_needed:
                    await client.ehlo()
        except ssl.SSLCertVerificationError as error:
            raise self._server.unavailable(_certificate_problem(error)) from error
        except aiosmtplib.SMTPHeloError as error:
            words = f"{error.code} {one_line(error.message)}"
            if error.code in _NO_SUCH_COMMAND or error.code < 500:
                raise self._server.unavailable(f"it answers EHLO with {words}") from error
            raise TransportUnavailable(self._server.dislikes_helo(words, name)) from error
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            raise self._server.unavailable(self._problem(error)) from error
        else:
            greeted = True
        finally:
            if not greeted:
                client.close()
                connected.close()
        return client

    async def _connect(self, client: aiosmtplib.SMTP, connected: socket.socket) -> None:
        # client.connect() would make a protocol of its own.
        tls = self._server.implicit_tls
        client.transport, client.protocol = await asyncio.get_running_loop().create_connection(
            lambda: _Protocol(lambda _: client.close()),
            sock=connected,
            ssl=self._tls if tls else None,
            server_hostname=self._server.host if tls else None,
        )
        greeting = await client.protocol.read_response()
        if greeting.code != _READY:
            raise self._server.unavailable(f"it greeted with {greeting.code} {one_line(greeting.message)}")

    async def _log_in(self, client: aiosmtplib.SMTP) -> None:
        user, credential = self._server.user, await self._credential()
        match self._server.auth:
            case "auto":
                await client.login(user, credential)
            case "plain":
                await client.auth_plain(user, credential)
            case "login":
                await client.auth_login(user, credential)
            case "xoauth2":
                await client.auth_xoauth2(user, credential)

    def _problem(self, error: Exception) -> str:
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _certificate_problem(cause)
        if isinstance(error, TimeoutError | aiosmtplib.SMTPTimeoutError):
            return (
                f"it accepts the connection but says nothing within {CONNECT_TIMEOUT_SECONDS:.0f} s:"
                " use SMTP_PORT 465 for TLS from the first byte, 587 or 2525 for STARTTLS"
            )
        if isinstance(cause, ssl.SSLError):
            kind = "TLS from the first byte" if self._server.implicit_tls else "STARTTLS"
            return f"{kind} failed ({cause.reason or cause}): use SMTP_PORT 465 for implicit TLS, 587 for STARTTLS"
        return f"{one_line(str(cause))}: check SMTP_HOST and SMTP_PORT"


def full_host_name() -> str:
    """The host's name with its domain, as far as the host or DNS knows one; otherwise an empty string."""
    return next((name for ask in (socket.gethostname, socket.getfqdn) if _FULL_NAME.fullmatch(name := ask())), "")


def address_literal(connected: socket.socket) -> str:
    """What a host says in EHLO that has no full name (RFC 5321, 4.1.3 and 4.1.4)."""
    address = ipaddress.ip_address(connected.getsockname()[0].partition("%")[0])
    return f"[IPv6:{address}]" if address.version == 6 else f"[{address}]"


def one_line(text: str) -> str:
    """What a server or a library says, fit for a sentence."""
    return " ".join(text.split())[:300]


def _certificate_problem(error: ssl.SSLCertVerificationError) -> str:
    return (
        f"its certificate isn't trusted ({error.verify_message}): use the name that is in its certificate,"
        " or add its CA to base_ca_certificates"
    )
