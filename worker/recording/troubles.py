"""Campaigns whose requests fail though the database answers: each waits by itself, and keeps no other one waiting."""

import time

FIRST_WAIT_SECONDS = 60.0
LONGEST_WAIT_SECONDS = 900.0


class Trouble:
    """One campaign's."""

    def __init__(self) -> None:
        self.since = time.monotonic()
        self.until = self.since
        self._wait_seconds = FIRST_WAIT_SECONDS

    def again(self, *, patience: bool) -> None:
        """It failed again: it waits, twice as long each time unless there's reason for patience."""
        self.until = time.monotonic() + self._wait_seconds
        if not patience:
            self._wait_seconds = min(self._wait_seconds * 2, LONGEST_WAIT_SECONDS)


class Troubles:
    """Those of all campaigns."""

    def __init__(self) -> None:
        self._troubles: dict[str, Trouble] = {}

    def waits(self, campaign_id: str) -> bool:
        """Whether it's not the time to try again yet."""
        trouble = self._troubles.get(campaign_id)
        return trouble is not None and time.monotonic() < trouble.until

    def failed(self, campaign_id: str, *, patience: bool = False) -> float:
        """Lets it wait. Returns the seconds since it failed first."""
        trouble = self._troubles.setdefault(campaign_id, Trouble())
        trouble.again(patience=patience)
        return time.monotonic() - trouble.since

    def over(self, campaign_id: str) -> None:
        """It went through."""
        self._troubles.pop(campaign_id, None)
