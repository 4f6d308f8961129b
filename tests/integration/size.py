"""Much of everything in Redis, and for how long a call keeps it from serving others."""

from collections.abc import Callable, Mapping
from typing import Any

import redis

#: No call of ours may take longer.
MOST_MS = 20
TRIES = 20
AT_ONCE = 10_000
#: That of other tests' Redis.
USUAL_THRESHOLD_US = 10_000


def fill(queue: redis.Redis, key: str, fields: Mapping[str, str]) -> None:
    """Makes a big HASH."""
    items = list(fields.items())
    for start in range(0, len(items), AT_ONCE):
        queue.hset(key, mapping=dict(items[start : start + AT_ONCE]))


def slowest_ms(queue: redis.Redis, action: Callable[[], Any]) -> float:
    """For how long Redis serves nobody else, at the most. The best of so many, since a host that has more to do takes
    the processor away in the midst of a call; benchmarks/size.py measures."""
    best = float("inf")
    for _ in range(TRIES):
        best = min(best, _slowest_ms(queue, action))
        if best < MOST_MS / 2:
            break
    return best


def _slowest_ms(queue: redis.Redis, action: Callable[[], Any]) -> float:
    queue.config_set("slowlog-log-slower-than", 1000)
    queue.config_set("slowlog-max-len", 10_000)
    queue.slowlog_reset()
    action()
    log: Any = queue.slowlog_get(10_000)
    queue.config_set("slowlog-log-slower-than", USUAL_THRESHOLD_US)
    return float(max((entry["duration"] for entry in log), default=0)) / 1000
