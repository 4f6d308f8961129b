"""When to try again. Pure."""

import random

FIRST_DELAY_MS = 15_000
LONGEST_DELAY_MS = 3_600_000


def retry_delay_ms(attempts: int, *, jitter: float | None = None) -> int:
    """Milliseconds to wait after `attempts` (1 or more) tries: 15 s doubling up to an hour, plus up to a quarter.

    Args:
        jitter: between 0 and 1; random by default, so that mails refused together don't come back together.
    """
    delay = min(FIRST_DELAY_MS << min(attempts - 1, 20), LONGEST_DELAY_MS)
    return delay + int(delay * 0.25 * (random.random() if jitter is None else jitter))
