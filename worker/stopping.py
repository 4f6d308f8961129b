"""One TERM, one orderly stop."""

import signal
import threading
from types import FrameType


class Stop:
    """Becomes set at the first SIGTERM or SIGINT; further ones change nothing, so that a nervous operator's second
    Ctrl-C cuts no mail off."""

    def __init__(self) -> None:
        self._event = threading.Event()
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGINT, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float | None = None) -> bool:
        """Sleeps for `seconds`, or less when it's time to stop; True when it is."""
        return self._event.wait(seconds)
