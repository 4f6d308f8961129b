"""What became of one try at one mail, and what a server's reply means. Pure: nothing here does I/O."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sent:
    """The server accepted the mail. `reply` is its answer."""

    reply: str


@dataclass(frozen=True, slots=True)
class Failed:
    """This recipient won't get this mail; trying again is pointless. `reason` holds the server's words."""

    reason: str


@dataclass(frozen=True, slots=True)
class Retry:
    """Refused for now: try again later, which spends an attempt."""

    reason: str


@dataclass(frozen=True, slots=True)
class Uncertain:
    """The connection was lost after the mail's content had gone out: it may have been accepted."""

    reason: str


@dataclass(frozen=True, slots=True)
class AlreadyDone:
    """The ledger says that this mail has been dealt with: nothing left."""


Outcome = Sent | Failed | Retry | Uncertain | AlreadyDone

_ENHANCED = re.compile(r"\b([245]\.\d{1,3}\.\d{1,3})\b")

# Replies that speak of the sending account, never of the recipient: no recipient may fail for them.
# 530, 535, 454 4.7.0: RFC 4954, 6. 5.4.5, 5.4.6, 5.1.8: Gmail's and Zoho's quota and block replies.
_ACCOUNT_CODES = frozenset((421, 432, 530, 534, 535, 538))
_ACCOUNT_ENHANCED = frozenset(((454, "4.7.0"), (550, "5.4.5"), (550, "5.4.6"), (554, "5.1.8"), (550, "5.7.515")))


def speaks_of_account(code: int, message: str) -> bool:
    """Whether an SMTP reply refuses the account or the connection instead of this mail."""
    if code in _ACCOUNT_CODES:
        return True
    enhanced = _ENHANCED.search(message)
    return enhanced is not None and (code, enhanced.group(1)) in _ACCOUNT_ENHANCED


def classify_refusal(code: int, message: str) -> Failed | Retry:
    """What an SMTP refusal of a recipient or a mail means (RFC 5321, 4.2.1: 4yz transient, 5yz permanent)."""
    reply = f"{code} {' '.join(message.split())}"
    return Failed(reply) if code >= 500 else Retry(reply)
