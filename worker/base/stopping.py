"""One TERM, one orderly stop."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

Answer = TypeVar("Answer")


class Interrupted(BaseException):
    """It's time to stop, and what is waited for doesn't matter any more."""


class Stop:
    """Becomes set at the first SIGTERM or SIGINT; further ones change nothing, so that a nervous operator's second
    Ctrl-C cuts no mail off."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._interrupts = False
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGINT, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._event.set()
        if self._interrupts:
            raise Interrupted

    def interrupt(self, call: Callable[[], Answer]) -> Answer | None:
        """Makes a call that ends at the signal, such as a blocking read; None if it did."""
        try:
            self._interrupts = True
            return None if self._event.is_set() else call()
        except Interrupted:
            return None
        finally:
            self._interrupts = False

    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float | None = None) -> bool:
        """Sleeps for `seconds`, or less when it's time to stop; True when it is."""
        return self._event.wait(seconds)
