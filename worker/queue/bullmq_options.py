"""What an app says about a BullMQ job when it queues it: attempts, backoff, how long it's kept. Pure.

https://docs.bullmq.io/guide/retrying-failing-jobs, https://docs.bullmq.io/guide/queues/auto-removal-of-jobs"""

import json
import random
from dataclasses import dataclass
from typing import Any

from worker.mail.retry import retry_delay_ms

#: As many as BullMQ removes by age at a time.
REMOVE_AT_ONCE = 1000
#: Ten years; what an app asks for beyond that is a mistake, or no number.
_LONGEST_BACKOFF_MS = 315_360_000_000


@dataclass(frozen=True, slots=True)
class Keep:
    """What is kept of finished jobs: so many, none older than so many seconds; None is no limit."""

    count: int | None = None
    age_seconds: float | None = None
    remove_at_once: int = REMOVE_AT_ONCE

    def for_script(self) -> list[float]:
        """See lua/bullmq.lua."""
        return [
            -1 if self.count is None else self.count,
            -1 if self.age_seconds is None else self.age_seconds,
            self.remove_at_once,
        ]


@dataclass(frozen=True, slots=True)
class JobOptions:
    """A job's options, checked. `attempts` is None where the app leaves it to the worker."""

    attempts: int | None
    backoff: str
    backoff_ms: float
    jitter: float
    keep_completed: Keep
    keep_failed: Keep

    def delay_ms(self, attempts_made: int, *, chance: float | None = None) -> int:
        """Milliseconds until the next try after so many (1 or more): the app's backoff, or ours where it names none, or
        one that lives in its own worker's code.

        Args:
            chance: between 0 and 1; random by default.
        """
        if self.backoff == "fixed":
            delay = self.backoff_ms
        elif self.backoff == "exponential":
            delay = self.backoff_ms * 2.0 ** min(attempts_made - 1, 60)
        else:
            return retry_delay_ms(attempts_made)
        delay = min(delay, _LONGEST_BACKOFF_MS)
        least = delay * (1 - self.jitter)
        return int(least + (delay - least) * (random.random() if chance is None else chance))


def read_options(text: str | bytes, keep_completed: Keep, keep_failed: Keep) -> JobOptions:
    """Reads the job's `opts`; what isn't understood counts as not said.

    Args:
        keep_completed, keep_failed: the worker's own, for an app that says nothing.
    """
    try:
        opts: Any = json.loads(text)
    except (ValueError, RecursionError):
        opts = None
    if not isinstance(opts, dict):
        opts = {}
    backoff, backoff_ms, jitter = _backoff(opts.get("backoff"))
    attempts = _number(opts.get("attempts"))
    return JobOptions(
        # BullMQ writes 0 where the app says nothing.
        attempts=int(attempts) if attempts else None,
        backoff=backoff,
        backoff_ms=backoff_ms,
        jitter=jitter,
        keep_completed=_keep(opts.get("removeOnComplete"), keep_completed),
        keep_failed=_keep(opts.get("removeOnFail"), keep_failed),
    )


def _backoff(value: object) -> tuple[str, float, float]:
    delay = _number(value)
    if delay is not None:
        return ("fixed", delay, 0.0) if delay else ("", 0.0, 0.0)
    if not isinstance(value, dict):
        return "", 0.0, 0.0
    kind, delay, jitter = value.get("type"), _number(value.get("delay")), _number(value.get("jitter"))
    if kind not in ("fixed", "exponential") or delay is None:
        return "", 0.0, 0.0
    return kind, delay, min(jitter or 0.0, 1.0)


def _keep(value: object, otherwise: Keep) -> Keep:
    if value is None:
        return otherwise
    if isinstance(value, bool):
        return Keep(count=0) if value else Keep()
    count = _number(value)
    if count is not None:
        return Keep(count=int(count))
    if isinstance(value, int | float):
        return Keep()  # Below zero: all.
    if not isinstance(value, dict):
        return otherwise
    count, limit = _number(value.get("count")), _number(value.get("limit"))
    return Keep(
        count=None if count is None else int(count),
        age_seconds=_number(value.get("age")),
        remove_at_once=min(int(limit or REMOVE_AT_ONCE), REMOVE_AT_ONCE),
    )


def _number(value: object) -> float | None:
    """None for what isn't a number from zero to 2^53, beyond which JSON's numbers aren't exact."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 2**53:
        return None
    return value
