"""When to try again, and how often. Pure."""

import random
from functools import cache

FIRST_DELAY_MS = 15_000
LONGEST_DELAY_MS = 3_600_000


def retry_delay_ms(attempts: int, *, jitter: float | None = None) -> int:
    """Milliseconds to wait after `attempts` (1 or more) tries: 15 s doubling up to an hour, plus up to a quarter.

    Args:
        jitter: between 0 and 1; random by default, so that mails refused together don't come back together.
    """
    delay = min(FIRST_DELAY_MS << min(attempts - 1, 20), LONGEST_DELAY_MS)
    return delay + int(delay * 0.25 * (random.random() if jitter is None else jitter))


@cache
def tries_within(hours: int) -> int:
    """How many tries it takes until a mail that stays refused for now has waited so long between them. What it waited
    for else, such as its paused campaign, is left out, and so no clock is needed."""
    tries, waited_ms = 1, 0
    while waited_ms < hours * 3_600_000:
        waited_ms += retry_delay_ms(tries, jitter=0)
        tries += 1
    return tries
