"""What MAIL_SANDBOX makes of the mails, so that a try of an app reaches none of its customers: they go to one address,
into a directory, or to a mail catcher such as Mailpit. All else is as ever: claims, limits, results, campaign ends."""

import asyncio
import os
import smtplib
from dataclasses import replace
from pathlib import Path

from worker.base.sandbox import Sandbox
from worker.errors import TransportUnavailable
from worker.mail.addresses import Address
from worker.mail.jobs import redirected
from worker.mail.message import Mail
from worker.mail.outcomes import NotClaimed, Outcome, Sent
from worker.sending.transports.base import Claim, Transport

CATCHER_SECONDS = 30.0


class Redirecting:
    """Sends all mails to one address, by the transport of the settings."""

    def __init__(self, transport: Transport, address: Address) -> None:
        self._transport = transport
        self._address = address

    @property
    def idempotent_seconds(self) -> int:
        """See `Transport.idempotent_seconds`."""
        return self._transport.idempotent_seconds

    async def send(self, mail: Mail, claim: Claim) -> Outcome:
        """See `Transport.send`."""
        # A provider mustn't take the mail itself for sent, when it comes later.
        tried = replace(mail, job=redirected(mail.job, self._address), identity=f"sandbox-{mail.identity}")
        return await self._transport.send(tried, claim)

    async def check(self) -> str:
        """See `Transport.check`."""
        return f"SANDBOX: all mails go to {self._address.email}; {await self._transport.check()}"

    async def close(self) -> None:
        """See `Transport.close`."""
        await self._transport.close()


class Capturing:
    """Keeps all mails in a directory, a file each."""

    idempotent_seconds = 0

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def send(self, mail: Mail, claim: Claim) -> Outcome:
        """See `Transport.send`. A second try writes the same file."""
        if not await claim():
            return NotClaimed()
        path = self._directory / f"{mail.identity}.eml"
        try:
            await asyncio.to_thread(self._write, path, mail.data)
        except OSError as error:
            raise self._unavailable(error) from error
        return Sent(f"captured as {path}")

    def _write(self, path: Path, data: bytes) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".part")
        with draft.open("wb") as stream:
            stream.write(data)
            os.fsync(stream.fileno())
        draft.replace(path)

    async def check(self) -> str:
        """See `Transport.check`."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            probe = self._directory / f".{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise self._unavailable(error) from error
        return f"SANDBOX: all mails are captured in {self._directory}, and nobody gets one"

    async def close(self) -> None:
        """See `Transport.close`."""

    def _unavailable(self, error: OSError) -> TransportUnavailable:
        return TransportUnavailable(
            f"The sandbox can't write to {self._directory} ({error.strerror or error}): name another directory in"
            " MAIL_SANDBOX, which the worker's user may write to."
        )


class Catching:
    """Gives all mails to a catcher that speaks SMTP without TLS and login."""

    idempotent_seconds = 0

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port

    async def send(self, mail: Mail, claim: Claim) -> Outcome:
        """See `Transport.send`."""
        if not await claim():
            return NotClaimed()
        await self._converse(mail)
        return Sent(f"caught by {self._host}:{self._port}")

    async def check(self) -> str:
        """See `Transport.check`."""
        await self._converse(None)
        return f"SANDBOX: all mails are caught at {self._host}:{self._port}, and nobody gets one"

    async def close(self) -> None:
        """See `Transport.close`."""

    async def _converse(self, mail: Mail | None) -> None:
        def converse() -> None:
            with smtplib.SMTP(self._host, self._port, timeout=CATCHER_SECONDS) as server:
                if mail is not None:
                    options = ["SMTPUTF8", "BODY=8BITMIME"] if mail.needs_smtputf8 else []
                    server.sendmail(mail.sender, mail.recipients, mail.data, options)

        try:
            await asyncio.to_thread(converse)
        except (OSError, smtplib.SMTPException) as error:
            raise TransportUnavailable(
                f"The sandbox's catcher at {self._host}:{self._port} doesn't take mails"
                f" ({' '.join(str(error).split())[:200]}): start it, or mend MAIL_SANDBOX."
            ) from error


def in_sandbox(sandbox: Sandbox, transport: Transport) -> Transport:
    """The transport that stands in for the one of the settings."""
    if sandbox.redirect_to is not None:
        return Redirecting(transport, sandbox.redirect_to)
    if sandbox.directory is not None:
        return Capturing(sandbox.directory)
    return Catching(*sandbox.catcher)
