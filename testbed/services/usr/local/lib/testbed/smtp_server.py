"""An SMTP server with TLS and AUTH that keeps what it accepts. Runs in the services container on Debian's aiosmtpd.

By the recipient's local part: `refused-…` gets `550 5.1.1`; `busy-…` gets `450 4.2.0` once, and 250 from then on;
`quota-…` likewise gets `550 5.4.5` once, in reply to the content.
"""

import asyncio
import itertools
import json
import ssl
import sys
import time
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

IMPLICIT_TLS_PORT = 465
STARTTLS_PORTS = (587, 2525)


class Handler:
    """Decides about recipients and stores mails; a mail's line in accepted.jsonl is there before its 250."""

    def __init__(self, directory: Path, delay_ms: int) -> None:
        self._directory = directory
        self._delay_seconds = delay_ms / 1000
        self._accepted = (directory / "accepted.jsonl").open("a", encoding="utf-8", buffering=1)
        self._refused = (directory / "refused.jsonl").open("a", encoding="utf-8", buffering=1)
        self._numbers = itertools.count(1 + sum(1 for _ in directory.glob("*.eml")))
        self._seen: set[str] = set()

    async def handle_RCPT(  # noqa: N802  # aiosmtpd finds it by this name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("refused-"):
            return self._refuse(address, "550 5.1.1 there is no such mailbox")
        if address.startswith("busy-") and self._is_new(address):
            return self._refuse(address, "450 4.2.0 the mailbox is busy, try again later")
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        if self._delay_seconds:
            await asyncio.sleep(self._delay_seconds)
        address, content = envelope.rcpt_tos[0], envelope.content
        if address.startswith("quota-") and self._is_new(address):
            return self._refuse(address, "550 5.4.5 the account's daily limit is exceeded")
        if not isinstance(content, bytes):
            return "554 5.6.0 this is no mail"
        name = f"{next(self._numbers):07}.eml"
        (self._directory / name).write_bytes(content)
        head = message_from_bytes(content.partition(b"\r\n\r\n")[0], policy=policy.default)
        line = {
            "time": time.time(),
            "rcpt": address,
            "message_id": str(head["Message-ID"]),
            "subject": str(head["Subject"]),
            "size": len(content),
            "file": name,
        }
        self._accepted.write(json.dumps(line) + "\n")
        return f"250 2.0.0 kept as {name}"

    def _is_new(self, address: str) -> bool:
        new = address not in self._seen
        self._seen.add(address)
        return new

    def _refuse(self, address: str, reply: str) -> str:
        self._refused.write(json.dumps({"time": time.time(), "rcpt": address, "reply": reply}) + "\n")
        return reply


async def main(path: Path) -> None:
    """Serves until the process is ended; the passwords are read from the settings' file at each login."""
    settings = read(path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(settings["certificate"], settings["key"])
    handler = Handler(Path(settings["directory"]), settings["delay_ms"])

    def authenticate(
        server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: LoginPassword
    ) -> AuthResult:
        right = (
            data.login == settings["user"].encode()
            and data.password.decode(errors="replace") in read(path)["passwords"]
        )
        # `handled=False` lets aiosmtpd answer 535 itself.
        return AuthResult(success=right, handled=False)

    def starttls() -> SMTP:
        return SMTP(
            handler,
            hostname="smtp.testbed",
            tls_context=tls,
            require_starttls=True,
            auth_required=True,
            authenticator=authenticate,
            enable_SMTPUTF8=True,
        )

    def implicit() -> SMTP:
        # To aiosmtpd a connection that began with TLS looks like one without.
        return SMTP(
            handler,
            hostname="smtp.testbed",
            auth_required=True,
            auth_require_tls=False,
            authenticator=authenticate,
            enable_SMTPUTF8=True,
        )

    loop = asyncio.get_running_loop()
    await loop.create_server(implicit, None, IMPLICIT_TLS_PORT, ssl=tls)
    for port in STARTTLS_PORTS:
        await loop.create_server(starttls, None, port)
    await asyncio.Event().wait()


def read(path: Path) -> dict[str, Any]:
    """The settings."""
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return settings


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
