"""What a host saw last: itself, and the fleet where it's the one that watches."""

from collections.abc import Mapping
from dataclasses import dataclass

from worker.watching.host import Host
from worker.watching.status import Status


@dataclass(frozen=True, slots=True)
class Fleet:
    """The fleet, and the fields of `mail:durations`."""

    status: Status
    durations: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Seen:
    """`troubles` are the host's own. `fleet` is None where another host watches, or Redis is away."""

    host: Host
    troubles: int
    redis_answers: bool
    fleet: Fleet | None
