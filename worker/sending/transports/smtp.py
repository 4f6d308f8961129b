"""SMTP: one mail on a kept-open connection, and what its end means. The dialogue is smtp_session's, the connections are
smtp_pool's, and smtp_login opens them."""

import asyncio
import math
import re
from dataclasses import dataclass

from worker.errors import AccountRefused
from worker.mail.message import Mail
from worker.mail.outcomes import (
    Failed,
    Hindered,
    NotClaimed,
    Outcome,
    Reply,
    Retry,
    SenderRefused,
    Sent,
    Slow,
    Stage,
    Uncertain,
    classify_smtp,
)
from worker.sending.transports.base import NOTHING_LEFT, Claim, Connections
from worker.sending.transports.smtp_login import Credential, Login, Server, one_line
from worker.sending.transports.smtp_pool import Connection, Pool
from worker.sending.transports.smtp_session import (
    FAREWELL,
    RFC_5321,
    Accepted,
    Ending,
    Lost,
    Refused,
    SmtpReply,
    StepSeconds,
    Unclaimed,
)

#: Servers end connections that carried this many mails (Postfix 100); do it before they do.
MAILS_PER_CONNECTION = 100
#: How many connections are tried for one mail, if those that have carried mails before end under it.
CONNECTIONS_A_TRY = 3
#: For the first reply on a connection that has idled: rather a new one than minutes on one that is dead.
REUSED_SECONDS = 30.0

#: Exim's smtp_accept_max_per_connection, Postfix's smtpd_client_… and others say so with other codes than 421, too.
_CONNECTION_IS_FULL = re.compile(r"\b(per|this|the same) (smtp )?(connection|session)\b", re.IGNORECASE)
#: Postfix's reject_non_fqdn_helo_hostname, Exim's and others' own words: said of the recipient, but about our EHLO.
_HELO = re.compile(r"\b(HELO|EHLO)\b", re.IGNORECASE)
_BAD_SEQUENCE = 503
#: RFC 5321, 4.5.3.1.10: it may take fewer at a time than a mail has.
_TOO_MANY = re.compile(r"\btoo many recipients\b|\b4\.5\.3\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A header field by whose value the provider drops a second copy, for so many seconds."""

    header: str
    seconds: int


class SmtpTransport:
    """Sends mails by one server."""

    def __init__(
        self,
        server: Server,
        credential: Credential,
        *,
        connections: Connections | None = None,
        mails_per_connection: int = MAILS_PER_CONNECTION,
        idempotency: Idempotency | None = None,
        step_seconds: StepSeconds = RFC_5321,
    ) -> None:
        """
        Args:
            connections: the fleet's limit; None for a single test mail.
        """
        self._server = server
        self._pool = Pool(Login(server, credential, step_seconds), connections, mails_per_connection)
        self._idempotency = idempotency

    @property
    def idempotent_seconds(self) -> int:
        """See `Transport.idempotent_seconds`."""
        return self._idempotency.seconds if self._idempotency else 0

    async def send(self, mail: Mail, claim: Claim) -> Outcome:
        """See `Transport.send`."""
        carried, by_limit = 0, False
        for number in range(CONNECTIONS_A_TRY):
            connection = await self._take(fresh=number > 0)
            used = connection.mails > 0
            try:
                if mail.needs_smtputf8 and not connection.session.smtputf8:
                    return await self._without_smtputf8(mail, claim)
                ending = await self._converse(connection, mail, claim)
            except asyncio.CancelledError:
                if connection.session.content_began:
                    raise
                raise asyncio.CancelledError(NOTHING_LEFT) from None
            finally:
                connection.mails += 1
                self._pool.give_back(connection)
            if not (used and _ended_by_itself(ending)):
                break
            # It had carried its share, or idled for too long: a fresh one tells what is really up.
            if isinstance(ending, Refused):
                carried = connection.mails - 1
                by_limit = _CONNECTION_IS_FULL.search(ending.reply.text) is not None
        if carried and not _ended_by_itself(ending):
            # If it says the same on a fresh one, it wants less speed.
            self._pool.ended_after(carried, by_limit=by_limit)
        return self._outcome(ending, connection, mail)

    async def _take(self, *, fresh: bool) -> Connection:
        try:
            return await self._pool.take(fresh=fresh)
        except asyncio.CancelledError:
            raise asyncio.CancelledError(NOTHING_LEFT) from None

    async def _converse(self, connection: Connection, mail: Mail, claim: Claim) -> Ending:
        options = " SMTPUTF8 BODY=8BITMIME" if mail.needs_smtputf8 else ""
        return await connection.session.converse(
            f"MAIL FROM:<{mail.sender}>{options}\r\n".encode(),
            [f"RCPT TO:<{recipient}>\r\n".encode() for recipient in mail.recipients],
            self._content(mail),
            claim,
            REUSED_SECONDS if connection.mails else math.inf,
        )

    def _outcome(self, ending: Ending, connection: Connection, mail: Mail) -> Outcome:
        match ending:
            case Accepted(reply=reply, refused=refused):
                without = (f"; not for {mail.recipients[number]}: {str(words)[:200]}" for number, words in refused)
                return Sent(f"{reply}{''.join(without)}")
            case Unclaimed():
                return NotClaimed()
            case Refused(stage=stage, reply=reply):
                if stage is not Stage.CONTENT and reply.code != _BAD_SEQUENCE and _HELO.search(reply.text):
                    return Hindered(self._server.dislikes_helo(str(reply)[:200], connection.session.helo_name))
                if len(mail.recipients) > 1 and stage is Stage.RCPT and _TOO_MANY.search(reply.text):
                    return Failed(f"{str(reply)[:200]}: queue a job for each of its {len(mail.recipients)} recipients")
                return self._refusal(reply, stage)
            case Lost(stage=Stage.CONTENT, why=why):
                reason = f"the connection was lost before the server's reply to the mail: {one_line(why)}"
                # With an idempotency key the provider drops the second copy by itself.
                return Slow(reason, maybe_accepted=True) if self._idempotency else Uncertain(reason)
            case Lost(stage=stage, why=why):
                step = "the content had left" if stage is Stage.DATA else f"the reply to {stage}"
                problem = f"the connection was lost before {step}: {one_line(why)}"
                return Hindered(str(self._server.unavailable(problem)))

    async def _without_smtputf8(self, mail: Mail, claim: Claim) -> Outcome:
        if not await claim():
            return NotClaimed()
        host = self._server.host
        if not mail.sender.isascii():
            return SenderRefused(f"{host} takes no sender with non-ASCII characters (SMTPUTF8, RFC 6531)")
        if all(recipient.isascii() for recipient in mail.recipients):
            # Sent without, it would be an illegal mail; without its Reply-To, answers would go astray.
            return SenderRefused(
                f"{host} takes no replyTo with non-ASCII characters (SMTPUTF8, RFC 6531): correct it in the app, or"
                " worker_reply_to"
            )
        return Failed(f"{host} takes no addresses with non-ASCII characters (SMTPUTF8, RFC 6531)")

    def _content(self, mail: Mail) -> bytes:
        if self._idempotency is None:
            return mail.data
        return f"{self._idempotency.header}: {mail.identity}\r\n".encode() + mail.data

    def _refusal(self, reply: SmtpReply, stage: Stage) -> Outcome:
        words = str(reply)[:300]
        match classify_smtp(reply.code, reply.text, stage):
            case Reply.PACE:
                return Slow(words)
            case Reply.LOGIN:
                raise AccountRefused(f"{self._server} wants another login ({words}).", "login")
            case Reply.BLOCKED:
                raise AccountRefused(
                    f"{self._server} refuses the account {self._server.shown_user} ({words}).", "sending"
                )
            case Reply.SENDER:
                return SenderRefused(words)
            case Reply.SOFT:
                return Retry(words)
            case Reply.HARD | Reply.CONTENT:
                return Failed(words)

    async def check(self) -> str:
        """See `Transport.check`."""
        self._pool.give_back(await self._pool.take(fresh=True))
        security = "TLS" if self._server.implicit_tls else "STARTTLS"
        return f"{self._server.host}:{self._server.port}, {security}, logged in as {self._server.shown_user}"

    async def close(self) -> None:
        """See `Transport.close`."""
        await self._pool.close()


def _ended_by_itself(ending: Ending) -> bool:
    """Whether the connection, which has carried mails before, is to blame: nothing of this one was accepted."""
    match ending:
        case Lost(stage=stage):
            return stage is not Stage.CONTENT
        case Refused(stage=stage, reply=reply):
            full = reply.code == FAREWELL or (reply.code < 500 and _CONNECTION_IS_FULL.search(reply.text) is not None)
            return full and stage is not Stage.CONTENT
        case _:
            return False
