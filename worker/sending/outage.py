"""What a process does while it reaches no mail server."""

import logging
import time

from worker.queue.gate import Cause, Gate

logger = logging.getLogger(__name__)

FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 15.0
REMIND_AFTER_SECONDS = 300.0


class Outage:
    """Shared by all mails of a process, so that a hundred of them report one outage once, and wait together."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._wait_seconds = FIRST_WAIT_SECONDS
        self._sentence = ""
        self._reported_at = 0.0

    def began(self, sentence: str) -> None:
        """Reports it if it's news, and closes the gate until the next try."""
        now = time.monotonic()
        if sentence != self._sentence or now - self._reported_at > REMIND_AFTER_SECONDS:
            logger.error("%s Mails wait; no attempt is spent.", sentence)
            self._sentence, self._reported_at = sentence, now
        if not self._gate.closed_by(Cause.OUTAGE):
            self._gate.close(Cause.OUTAGE, int(self._wait_seconds * 1000))
            self._wait_seconds = min(self._wait_seconds * 2, LONGEST_WAIT_SECONDS)

    def over(self) -> None:
        """A server was reached again."""
        if self._sentence:
            logger.info("Mails leave again.")
            self._gate.end(Cause.OUTAGE)
        self._sentence, self._wait_seconds = "", FIRST_WAIT_SECONDS
