"""What every transport offers."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from worker.mail.message import Mail
from worker.mail.outcomes import Outcome

#: Resend keeps idempotency keys for 24 hours; an hour less, for a mail that waited.
#: https://resend.com/docs/dashboard/emails/idempotency-keys
RESEND_KEPT_SECONDS = 23 * 3600

#: The message of a CancelledError: the try was cancelled, and nothing of the mail's content had gone out.
NOTHING_LEFT = "nothing of the mail has left"

#: Called just before the mail goes out, at most once for each connection that is tried; False means that it mustn't.
Claim = Callable[[], Awaitable[bool]]


class Transport(Protocol):
    """One per process and sending account; its methods run on the process's one event loop."""

    @property
    def idempotent_seconds(self) -> int:
        """How long the provider drops a second copy of a mail by itself; 0 if it doesn't."""

    async def send(self, mail: Mail, claim: Claim) -> Outcome:
        """Makes one try.

        Raises:
            TransportUnavailable, AccountRefused, NoConnectionYet: no mail can leave at present; this one wasn't
                accepted, whether it was claimed or not.
            asyncio.CancelledError: with `NOTHING_LEFT` if that's known.
        """

    async def check(self) -> str:
        """Connects and logs in without sending; returns a phrase for people.

        Raises:
            TransportUnavailable, AccountRefused: with what to do about it.
        """

    async def close(self) -> None:
        """Ends all connections."""


#: `Connections.may_connect`'s answer while the fleet has as many connections as it may have.
NO_PLACE = -2


class Connections(Protocol):
    """The fleet's limit on connections, and what it knows about a login that was refused; see sending/account.py."""

    @property
    def limited(self) -> bool: ...
    async def may_connect(self, open_connections: int) -> int: ...
    async def count_connections(self, open_connections: int) -> None: ...
    async def resume(self) -> None: ...
