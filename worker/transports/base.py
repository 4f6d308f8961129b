"""What every transport offers."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from worker.message import Mail
from worker.outcomes import Outcome

#: Called once, just before the mail's content goes out; False means that the mail must not be sent.
Claim = Callable[[], Awaitable[bool]]


class Transport(Protocol):
    """One per process and sending account; its methods run on the process's one event loop."""

    async def send(self, mail: Mail, claim: Claim) -> Outcome:
        """Makes one try.

        Raises:
            TransportUnavailable: no mail can leave at present; `claim` was not called, the mail is untouched.
        """

    async def check(self) -> str:
        """Connects and logs in without sending; returns a phrase for people.

        Raises:
            TransportUnavailable: with what to do about it.
        """

    async def close(self) -> None:
        """Ends all connections."""
