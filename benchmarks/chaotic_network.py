"""A network that delays and cuts single connections at random: what testbed/tcp_proxy.py is told to do."""

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence

from testbed.tcp_proxy import Fate, Treatment

#: Towards Redis. What arrives late is what a process's fence is for.
TO_REDIS = (Fate.STALL, Fate.CUT_BEFORE, Fate.CUT_AFTER, Fate.LATE)
#: Towards the SMTP server: what would arrive late there left a rate limit's window before, which judges the network.
TO_SMTP = (Fate.STALL, Fate.CUT_BEFORE, Fate.CUT_AFTER)
STALL_SECONDS = (0.5, 3.0)


class ChaoticNetwork:
    """Strikes whatever is sent next once it's time again: by time and not by traffic, or a fast run gets it all."""

    def __init__(self, fates: Sequence[Fate], every_seconds: float, seed: int) -> None:
        self._fates = fates
        self._every = every_seconds
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._next = time.monotonic() + every_seconds
        #: It lets everything pass.
        self.calm = False
        self.struck: Counter[str] = Counter()

    def treat(self) -> Treatment:
        """What becomes of what somebody is sending now."""
        with self._lock:
            now = time.monotonic()
            if self.calm or now < self._next:
                return Treatment()
            self._next = now + self._every * self._random.uniform(0.5, 1.5)
            fate = self._random.choice(self._fates)
            self.struck[fate.name.lower()] += 1
            return Treatment(fate, self._random.uniform(*STALL_SECONDS))
