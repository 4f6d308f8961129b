"""SMTP with kept-open connections (RFC 5321, 4954 and 8314). The only module that knows aiosmtplib."""

import asyncio
import ssl
from dataclasses import dataclass

import aiosmtplib

from worker.errors import TransportUnavailable
from worker.message import Mail
from worker.outcomes import AlreadyDone, Failed, Outcome, Sent, Uncertain, classify_refusal, speaks_of_account
from worker.settings import Secret
from worker.transports.base import Claim

CONNECT_TIMEOUT_SECONDS = 10.0
#: For all of one mail: aiosmtplib's own timeout is per socket operation, and a server may trickle.
MAIL_DEADLINE_SECONDS = 60.0
#: Servers end connections that carried this many mails (Postfix 100) or idled; do it before they do.
MAILS_PER_CONNECTION = 100
IDLE_SECONDS = 20.0


class _NeedsSmtpUtf8(Exception):
    pass


@dataclass(slots=True)
class _Connection:
    client: aiosmtplib.SMTP
    mails: int = 0
    idle_since: float = 0.0


class SmtpTransport:
    """A pool of logged-in connections; it never holds more than there are mails being sent at once."""

    def __init__(
        self, *, host: str, port: int, user: str, password: Secret, implicit_tls: bool, local_hostname: str
    ) -> None:
        self._host = host
        self._port = port
        self._user = user
        self._password = password
        self._implicit_tls = implicit_tls
        self._local_hostname = local_hostname
        self._tls = ssl.create_default_context()
        self._idle: list[_Connection] = []

    async def send(self, mail: Mail, claim: Claim) -> Outcome:
        """See `Transport.send`."""
        idle = self._take_idle()
        if idle is not None:
            try:
                return await self._send_on(idle, mail, claim)
            except TransportUnavailable:
                pass  # The server ended this connection while it idled; a fresh one tells what is really up.
        return await self._send_on(await self._connect(), mail, claim)

    async def _send_on(self, connection: _Connection, mail: Mail, claim: Claim) -> Outcome:
        content_started = False
        reusable = False
        try:
            async with asyncio.timeout(MAIL_DEADLINE_SECONDS):
                await self._envelope(connection.client, mail)
                if not await claim():
                    reusable = await self._reset(connection.client)
                    return AlreadyDone()
                content_started = True
                reply = await connection.client.data(mail.data)
                reusable = True
                return Sent(_reply(reply))
        except _NeedsSmtpUtf8 as error:
            reusable = True
            return Failed(str(error))
        except aiosmtplib.SMTPResponseException as error:
            # Also in reply to the content, where Gmail speaks of its daily limit: a refusal leaves nothing uncertain.
            if speaks_of_account(error.code, error.message):
                raise self._unavailable(f"it answered {error.code} {_one_line(error.message)}") from error
            reusable = await self._reset(connection.client)
            return classify_refusal(error.code, error.message)
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            problem = _one_line(str(error)) or "time-out"
            if content_started:
                return Uncertain(f"the connection was lost before the server's reply to the mail: {problem}")
            raise self._unavailable(f"the connection was lost: {problem}") from error
        finally:
            connection.mails += 1
            if reusable:
                self._give_back(connection)
            else:
                connection.client.close()

    async def check(self) -> str:
        """See `Transport.check`."""
        connection = await self._connect()
        self._give_back(connection)
        security = "TLS" if self._implicit_tls else "STARTTLS"
        return f"{self._host}:{self._port}, {security}, logged in as {self._user}"

    async def close(self) -> None:
        """Says QUIT on every connection; a server that doesn't answer within a second isn't waited for."""
        connections, self._idle = self._idle, []
        await asyncio.gather(*(self._quit(connection.client) for connection in connections))

    async def _envelope(self, client: aiosmtplib.SMTP, mail: Mail) -> None:
        encoding: str = "ascii"
        options: list[str] = []
        if mail.needs_smtputf8:
            if not client.supports_extension("smtputf8"):
                raise _NeedsSmtpUtf8(f"{self._host} takes no addresses with non-ASCII characters (SMTPUTF8, RFC 6531)")
            encoding, options = "utf-8", ["SMTPUTF8", "BODY=8BITMIME"]
        try:
            await client.mail(mail.sender, options=options, encoding=encoding)
        except aiosmtplib.SMTPSenderRefused as error:
            if error.code < 500:
                raise
            # It would refuse this sender's mail to every other recipient too.
            raise self._unavailable(
                f"it refuses the sender {mail.sender} ({error.code} {_one_line(error.message)}):"
                " use an address that this account may send from"
            ) from error
        await client.rcpt(mail.recipient, encoding=encoding)

    async def _connect(self) -> _Connection:
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
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                await client.login(self._user, self._password)
        except aiosmtplib.SMTPAuthenticationError as error:
            client.close()
            raise self._unavailable(
                f"it refuses the login as {self._user} ({error.code} {_one_line(error.message)}):"
                " check SMTP_USER and SMTP_PASS"
            ) from error
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            client.close()
            raise self._unavailable(f"logging in failed: {_one_line(str(error)) or 'time-out'}") from error
        # From here on the deadline of the whole mail counts.
        client.timeout = MAIL_DEADLINE_SECONDS
        return _Connection(client)

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

    async def _reset(self, client: aiosmtplib.SMTP) -> bool:
        try:
            async with asyncio.timeout(5):
                await client.rset()
        except (aiosmtplib.SMTPException, OSError, TimeoutError):
            return False
        return True

    def _take_idle(self) -> _Connection | None:
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if connection.client.is_connected and now - connection.idle_since < IDLE_SECONDS:
                return connection
            connection.client.close()
        return None

    def _give_back(self, connection: _Connection) -> None:
        if connection.mails >= MAILS_PER_CONNECTION or not connection.client.is_connected:
            connection.client.close()
            return
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle.append(connection)

    async def _quit(self, client: aiosmtplib.SMTP) -> None:
        try:
            async with asyncio.timeout(1):
                await client.quit()
        except (aiosmtplib.SMTPException, OSError, TimeoutError):
            client.close()

    def _unavailable(self, problem: str) -> TransportUnavailable:
        return TransportUnavailable(f"SMTP server {self._host}:{self._port}: {problem}.")


def _certificate_problem(error: ssl.SSLCertVerificationError) -> str:
    return (
        f"its certificate isn't trusted ({error.verify_message}): use the name that is in its certificate,"
        " or add its CA to base_ca_certificates"
    )


def _reply(response: aiosmtplib.SMTPResponse) -> str:
    return f"{response.code} {_one_line(response.message)}"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
