"""A day of one-minute points in Redis, so that there's a history without Prometheus. One host writes them."""

import json
from dataclasses import dataclass
from typing import Any

import redis

from worker.base import keys
from worker.watching.status import Status

#: A day.
KEPT_POINTS = 1440
MINUTE_SECONDS = 60
#: Of running campaigns so many are in a point, those with waiting mails and the latest results.
CAMPAIGNS = 6
_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Point:
    """What was counted in one minute; `at` is its beginning, in seconds since 1970. `accepted`, `failed` and `commands`
    (of this month) only rise, the others are how many there were."""

    at: int
    waiting: int
    in_work: int
    delayed: int
    accepted: int
    failed: int
    outbox: int
    dead_letters: int
    commands: int
    #: Campaign → mails sent.
    campaigns: dict[str, int]

    def as_json(self) -> str:
        """A short one: there are many."""
        numbers = [self.at, self.waiting, self.in_work, self.delayed, self.accepted, self.failed, self.outbox]
        return json.dumps([*numbers, self.dead_letters, self.commands, self.campaigns], separators=(",", ":"))

    @classmethod
    def read(cls, line: bytes | str) -> "Point | None":
        """What `as_json` wrote; None if it's nothing of ours."""
        try:
            *numbers, campaigns = json.loads(line)[:10]
            sent = {str(name): int(number) for name, number in campaigns.items()}
            at, waiting, in_work, delayed, accepted, failed, outbox, dead_letters, commands = map(int, numbers)
            return cls(at, waiting, in_work, delayed, accepted, failed, outbox, dead_letters, commands, sent)
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
            return None

    @classmethod
    def of(cls, status: Status, now: float) -> "Point":
        """What a look at the fleet has counted."""
        bullmq, running = status.bullmq, [campaign for campaign in status.campaigns if not campaign.state]
        return cls(
            at=int(now) // MINUTE_SECONDS * MINUTE_SECONDS,
            waiting=status.waiting + (bullmq.waiting if bullmq else 0),
            in_work=status.in_work + (bullmq.active if bullmq else 0),
            delayed=status.delayed + (bullmq.delayed if bullmq else 0),
            accepted=status.totals.get("accepted", 0),
            failed=status.totals.get("failed", 0),
            outbox=status.outbox,
            dead_letters=status.dead_letters,
            commands=status.commands,
            campaigns={campaign.campaign_id: campaign.sent for campaign in running[:CAMPAIGNS]},
        )


def read_points(client: "redis.Redis", since: int = 0) -> list[Point]:
    """Those after a time in seconds since 1970, the oldest first.

    Raises:
        redis.RedisError: Redis is away.
    """
    points: list[Point] = []
    for start in range(0, KEPT_POINTS, _AT_ONCE):
        lines: Any = client.lrange(keys.POINTS, start, start + _AT_ONCE - 1)
        page = [point for point in map(Point.read, lines) if point is not None]
        points += [point for point in page if point.at > since]
        if len(lines) < _AT_ONCE or (page and page[-1].at <= since):
            break
    return points[::-1]
