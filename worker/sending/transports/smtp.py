"""SMTP with kept-open connections (RFC 5321, 4954 and 8314). The only module that knows aiosmtplib."""

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiosmtplib
import redis

from worker.base.settings import Secret, SmtpAuth
from worker.errors import AccountRefused, NoConnectionYet, TransportUnavailable
from worker.mail.message import Mail
from worker.mail.outcomes import (
    Failed,
    NotClaimed,
    Outcome,
    Reply,
    Retry,
    SenderRefused,
    Sent,
    Slow,
    Uncertain,
    classify_smtp,
)
from worker.sending.transports.base import Claim, Connections
from worker.sending.transports.smtp_session import ConnectionLost, SmtpReply, SmtpSession

CONNECT_TIMEOUT_SECONDS = 10.0
#: For all of one mail: a server may trickle its replies for ever.
MAIL_DEADLINE_SECONDS = 60.0
#: Servers end connections that carried this many mails (Postfix 100) or idled; do it before they do.
MAILS_PER_CONNECTION = 100
IDLE_SECONDS = 20.0

#: Returns the password, or with `xoauth2` an access token.
Credential = Callable[[], Awaitable[Secret]]


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A header field by whose value the provider drops a second copy, for so many seconds."""

    header: str
    seconds: int


class _Connection:
    """An open connection, and how much it has been used."""

    def __init__(self, session: SmtpSession) -> None:
        self.session = session
        self.mails = 0
        self.expiry: asyncio.TimerHandle | None = None


class SmtpTransport:
    """A pool of logged-in connections; it never holds more than there are mails being sent at once."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        user: str,
        shown_user: str,
        credential: Credential,
        auth: SmtpAuth,
        implicit_tls: bool,
        local_hostname: str,
        connections: Connections | None = None,
        mails_per_connection: int = MAILS_PER_CONNECTION,
        idempotency: Idempotency | None = None,
    ) -> None:
        """
        Args:
            shown_user: what sentences call the user.
            connections: the fleet's limit; None for a single test mail.
        """
        self._host = host
        self._port = port
        self._user = user
        self._shown_user = shown_user
        self._credential = credential
        self._auth = auth
        self._implicit_tls = implicit_tls
        self._local_hostname = local_hostname
        self._connections = connections
        self._mails_per_connection = mails_per_connection
        self._idempotency = idempotency
        self._tls = ssl.create_default_context()
        self._idle: list[_Connection] = []
        self._open = 0
        self._works = False
        self._first = asyncio.Lock()
        #: Held while the fleet is asked or told about this process's connections.
        self._counting = asyncio.Lock()
        self._failures = 0
        self._last_failure: TransportUnavailable | AccountRefused | NoConnectionYet | None = None
        self._background: set[asyncio.Task[None]] = set()

    @property
    def idempotent_seconds(self) -> int:
        """See `Transport.idempotent_seconds`."""
        return self._idempotency.seconds if self._idempotency else 0

    async def send(self, mail: Mail, claim: Claim) -> Outcome:
        """See `Transport.send`."""
        if idle := self._take_idle():
            try:
                return await self._send_on(idle, mail, claim)
            except TransportUnavailable:
                pass  # The server ended this connection while it idled; a fresh one tells what is really up.
        return await self._send_on(await self._connect(), mail, claim)

    async def _send_on(self, connection: _Connection, mail: Mail, claim: Claim) -> Outcome:
        session = connection.session
        content_started = False
        clean = False
        try:
            if mail.needs_smtputf8 and not session.smtputf8:
                clean = True
                if not await claim():
                    return NotClaimed()
                if not mail.sender.isascii():
                    return SenderRefused(f"{self._host} takes no sender with non-ASCII characters (SMTPUTF8, RFC 6531)")
                return Failed(f"{self._host} takes no addresses with non-ASCII characters (SMTPUTF8, RFC 6531)")
            async with asyncio.timeout(MAIL_DEADLINE_SECONDS):
                options = " SMTPUTF8 BODY=8BITMIME" if mail.needs_smtputf8 else ""
                mail_from = f"MAIL FROM:<{mail.sender}>{options}".encode()
                rcpt_to = f"RCPT TO:<{mail.recipient}>".encode()
                if session.pipelining:
                    # The claim can't wait for the 354: behind that there's no way back.
                    if not await claim():
                        clean = True
                        return NotClaimed()
                    session.write(mail_from + b"\r\n" + rcpt_to + b"\r\nDATA\r\n")
                    replies = [await session.reply(), await session.reply(), await session.reply()]
                    for number, reply in enumerate(replies[:2]):
                        if reply.code // 100 != 2:
                            if replies[2].code == 354:
                                await session.abandon_data()
                            clean = await self._reset(session)
                            return self._refusal(reply, to_mail_from=number == 0)
                    ready = replies[2]
                else:
                    for number, command in enumerate((mail_from, rcpt_to)):
                        reply = await session.command(command)
                        if reply.code // 100 != 2:
                            clean = await self._reset(session)
                            return self._refusal(reply, to_mail_from=number == 0)
                    if not await claim():
                        clean = await self._reset(session)
                        return NotClaimed()
                    ready = await session.command(b"DATA")
                if ready.code != 354:
                    clean = await self._reset(session)
                    return self._refusal(ready)
                content_started = True
                reply = await session.content(self._content(mail))
                content_started = False
                clean = True
                return Sent(str(reply)) if reply.code // 100 == 2 else self._refusal(reply)
        except (ConnectionLost, OSError, TimeoutError) as error:
            problem = _one_line(str(error)) or "time-out"
            if content_started:
                reason = f"the connection was lost before the server's reply to the mail: {problem}"
                # With an idempotency key the provider drops the second copy by itself.
                return Slow(reason, maybe_accepted=True) if self._idempotency else Uncertain(reason)
            raise self._unavailable(f"the connection was lost: {problem}") from error
        finally:
            connection.mails += 1
            if clean:
                self._give_back(connection)
            else:
                self._drop(connection)

    def _content(self, mail: Mail) -> bytes:
        if self._idempotency is None:
            return mail.data
        return f"{self._idempotency.header}: {mail.idempotency_key}\r\n".encode() + mail.data

    def _refusal(self, reply: SmtpReply, *, to_mail_from: bool = False) -> Outcome:
        words = str(reply)[:300]
        match classify_smtp(reply.code, reply.text, to_mail_from=to_mail_from):
            case Reply.PACE:
                return Slow(words)
            case Reply.LOGIN:
                raise AccountRefused(f"SMTP server {self._host}:{self._port} wants another login ({words}).", "login")
            case Reply.BLOCKED:
                raise AccountRefused(
                    f"SMTP server {self._host}:{self._port} refuses the account {self._shown_user} ({words}).",
                    "sending",
                )
            case Reply.SENDER:
                return SenderRefused(words)
            case Reply.SOFT:
                return Retry(words)
            case Reply.HARD | Reply.CONTENT:
                return Failed(words)

    async def check(self) -> str:
        """See `Transport.check`."""
        self._give_back(await self._connect())
        security = "TLS" if self._implicit_tls else "STARTTLS"
        return f"{self._host}:{self._port}, {security}, logged in as {self._shown_user}"

    async def close(self) -> None:
        """Says QUIT on every connection; a server that doesn't answer within a second isn't waited for."""
        connections, self._idle = self._idle, []
        await asyncio.gather(*(self._quit(connection) for connection in connections))
        if self._background:
            await asyncio.wait(self._background, timeout=1)

    async def _connect(self) -> _Connection:
        if self._works:
            return await self._connect_now()
        # Until one connection has worked, the others wait for it: a wrong password is tried once, not fifty times.
        failures = self._failures
        async with self._first:
            if not self._works and self._last_failure is not None and self._failures > failures:
                raise self._last_failure
            return await self._connect_now()

    async def _connect_now(self) -> _Connection:
        try:
            return await self._connect_if_allowed()
        except (TransportUnavailable, AccountRefused, NoConnectionYet) as error:
            self._works = isinstance(error, NoConnectionYet) and self._works
            self._failures += 1
            self._last_failure = error
            raise

    async def _connect_if_allowed(self) -> _Connection:
        wait_ms = 0
        async with self._counting:
            if self._connections is not None:
                wait_ms = await self._connections.may_connect(self._open)
                if wait_ms > 0:
                    raise NoConnectionYet(wait_ms)
            self._open += 1
        session = None
        try:
            session = await self._log_in(await self._greet())
            self._works = True
            if wait_ms < 0 and self._connections is not None:
                await self._connections.resume()
        except BaseException:
            if session is not None:
                session.close()
            self._closed()
            raise
        return _Connection(session)

    async def _greet(self) -> aiosmtplib.SMTP:
        client = aiosmtplib.SMTP(
            hostname=self._host,
            port=self._port,
            use_tls=self._implicit_tls,
            start_tls=not self._implicit_tls,
            tls_context=self._tls,
            local_hostname=self._local_hostname,
            timeout=CONNECT_TIMEOUT_SECONDS,
        )
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                await client.connect()
        except ssl.SSLCertVerificationError as error:
            raise self._unavailable(_certificate_problem(error)) from error
        except aiosmtplib.SMTPConnectResponseError as error:
            raise self._unavailable(f"it greeted with {error.code} {_one_line(error.message)}") from error
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            client.close()
            raise self._unavailable(await self._connect_problem(error)) from error
        return client

    async def _log_in(self, client: aiosmtplib.SMTP) -> SmtpSession:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                credential = await self._credential()
                match self._auth:
                    case "auto":
                        await client.login(self._user, credential)
                    case "plain":
                        await client.auth_plain(self._user, credential)
                    case "login":
                        await client.auth_login(self._user, credential)
                    case "xoauth2":
                        await client.auth_xoauth2(self._user, credential)
        except aiosmtplib.SMTPAuthenticationError as error:
            client.close()
            check = "the SMTP_OAUTH_… settings" if self._auth == "xoauth2" else "SMTP_USER and SMTP_PASS"
            raise AccountRefused(
                f"SMTP server {self._host}:{self._port}: it refuses the login as {self._shown_user}"
                f" ({error.code} {_one_line(error.message)}): check {check}.",
                "login",
            ) from error
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            client.close()
            raise self._unavailable(f"logging in failed: {_one_line(str(error)) or 'time-out'}") from error
        protocol = client.protocol
        if protocol is None or protocol.transport is None:
            raise self._unavailable("it ended the connection after the login")
        return SmtpSession(
            protocol.transport,
            pipelining=client.supports_extension("pipelining"),
            smtputf8=client.supports_extension("smtputf8"),
        )

    async def _connect_problem(self, error: Exception) -> str:
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _certificate_problem(cause)
        if isinstance(error, TimeoutError | aiosmtplib.SMTPTimeoutError):
            if await self._accepts_connections():
                return (
                    f"it accepts the connection but says nothing within {CONNECT_TIMEOUT_SECONDS:.0f} s:"
                    " use SMTP_PORT 465 for TLS from the first byte, 587 or 2525 for STARTTLS"
                )
            return (
                f"no answer within {CONNECT_TIMEOUT_SECONDS:.0f} s: many VPS providers drop this port"
                " - try SMTP_PORT 587, 465 or 2525"
            )
        if isinstance(cause, ssl.SSLError):
            kind = "TLS from the first byte" if self._implicit_tls else "STARTTLS"
            return f"{kind} failed ({cause.reason or cause}): use SMTP_PORT 465 for implicit TLS, 587 for STARTTLS"
        return f"{_one_line(str(cause))}: check SMTP_HOST and SMTP_PORT"

    async def _accepts_connections(self) -> bool:
        try:
            async with asyncio.timeout(2):
                _, writer = await asyncio.open_connection(self._host, self._port)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True

    async def _reset(self, session: SmtpSession) -> bool:
        try:
            async with asyncio.timeout(5):
                return (await session.command(b"RSET")).code // 100 == 2
        except (ConnectionLost, TimeoutError):
            return False

    def _take_idle(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.expiry is not None:
                connection.expiry.cancel()
            if connection.session.usable:
                return connection
            self._drop(connection)
        return None

    def _give_back(self, connection: _Connection) -> None:
        if connection.mails >= self._mails_per_connection or not connection.session.usable:
            self._drop(connection)
            return
        connection.expiry = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._expire, connection)
        self._idle.append(connection)

    def _expire(self, connection: _Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)
            self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        with contextlib.suppress(ConnectionLost):
            connection.session.write(b"QUIT\r\n")
        connection.session.close()
        self._closed()

    def _closed(self) -> None:
        self._open -= 1
        if self._connections is not None:
            task = asyncio.create_task(self._tell_count(self._connections))
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    async def _tell_count(self, connections: Connections) -> None:
        # The next connection tells the number again.
        async with self._counting:
            with contextlib.suppress(redis.RedisError):
                await connections.count_connections(self._open)

    async def _quit(self, connection: _Connection) -> None:
        try:
            async with asyncio.timeout(1):
                await connection.session.command(b"QUIT")
        except (ConnectionLost, TimeoutError):
            pass
        connection.session.close()
        self._closed()

    def _unavailable(self, problem: str) -> TransportUnavailable:
        return TransportUnavailable(f"SMTP server {self._host}:{self._port}: {problem}.")


def _certificate_problem(error: ssl.SSLCertVerificationError) -> str:
    return (
        f"its certificate isn't trusted ({error.verify_message}): use the name that is in its certificate,"
        " or add its CA to base_ca_certificates"
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
