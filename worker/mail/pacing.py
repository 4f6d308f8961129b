"""How many mails a provider allows in which time (`MAIL_RATE`), and what follows for a campaign's end. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_LIMIT = re.compile(r"(\d{1,9})/([smhd])")


@dataclass(frozen=True, slots=True)
class Limit:
    """At most so many mails within any time of this length."""

    mails: int
    window_ms: int


def parse_rate(text: str) -> tuple[Limit, ...]:
    """Reads `10/s,500/h,5000/d`; empty is no limit.

    Raises:
        ValueError: names the part that isn't one.
    """
    limits = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        found = _LIMIT.fullmatch(part)
        if found is None or int(found[1]) == 0:
            raise ValueError(part)
        limits.append(Limit(int(found[1]), _UNITS_MS[found[2]]))
    return tuple(limits)


def seconds_to_send(mails: int, limits: Sequence[Limit], used: Sequence[int], speed: float | None) -> float | None:
    """How long so many mails take, at the most: the slowest of the limits and the speed of late decides.

    Args:
        used: mails that already stand in each limit's window.
        speed: mails per second, None if it isn't known.

    Returns:
        Seconds, or None if nothing is known.
    """
    estimates = [mails / speed] if speed else []
    for limit, taken in zip(limits, used, strict=True):
        free = max(limit.mails - taken, 0)
        windows = -(-max(mails - free, 0) // limit.mails)
        estimates.append(windows * limit.window_ms / 1000)
    return max(estimates, default=None)
