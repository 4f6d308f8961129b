"""How long mails wait and take to be sent: each process counts for itself, and tells with its heartbeat what came since
the last one (lua/beat.lua). So a mail costs no command more."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

#: What is counted → its buckets' upper bounds in seconds.
BOUNDS: dict[str, tuple[float, ...]] = {
    #: From when a mail was queued until the server accepted it.
    "waiting": (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 43200.0, 86400.0),
    #: From the claim of the try that was accepted until the server's reply.
    "sending": (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
}
ENDLESS = "+Inf"
_FIELDS = {kind: [f"{kind}:{bound}" for bound in (*bounds, ENDLESS)] for kind, bounds in BOUNDS.items()}


class Durations:
    """What one process has seen and not told yet, as the fields of the HASH in Redis."""

    def __init__(self) -> None:
        self._untold: Counter[str] = Counter()

    def see(self, kind: str, seconds: float) -> None:
        """Takes one in; a clock that went back makes it 0."""
        seconds = max(seconds, 0.0)
        self._untold[_FIELDS[kind][bisect_left(BOUNDS[kind], seconds)]] += 1
        self._untold[f"{kind}:ms"] += round(seconds * 1000)

    def untold(self) -> dict[str, int]:
        """Field → what is to be added to it."""
        return {name: number for name, number in self._untold.items() if number}

    def told(self, numbers: Mapping[str, int]) -> None:
        """Redis has these."""
        self._untold.subtract(numbers)


@dataclass(frozen=True, slots=True)
class Histogram:
    """The fleet's durations of one kind: upper bound → how many were no longer, up to `+Inf`, which are all."""

    buckets: tuple[tuple[str, int], ...]
    seconds: float

    @classmethod
    def read(cls, kind: str, numbers: Mapping[str, int]) -> "Histogram":
        """From the HASH in Redis."""
        buckets, so_far = [], 0
        for bound in (*map(str, BOUNDS[kind]), ENDLESS):
            so_far += numbers.get(f"{kind}:{bound}", 0)
            buckets.append((bound, so_far))
        return cls(tuple(buckets), numbers.get(f"{kind}:ms", 0) / 1000)
