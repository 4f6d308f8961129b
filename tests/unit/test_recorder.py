"""What the recorder reads, and how often."""

from collections.abc import Iterator
from typing import cast

import pytest
import redis

from worker.base.stopping import Stop
from worker.errors import DatabaseUnavailable
from worker.ledger.outbox import Outbox, Result
from worker.recording.campaigns import Campaigns
from worker.recording.old_campaigns import OldCampaigns
from worker.recording.recorder import Recorder
from worker.recording.results import ResultWriter

HELD = [Result(f"{number}-0", "c-1", f"s-{number}", True, 0) for number in range(3)]


class FakeOutbox:
    """One whose results stay: the recorder held three before it was restarted, and nothing new comes."""

    def __init__(self) -> None:
        self.opened = 0
        self.asked = 0
        self._own: Iterator[list[Result]] = iter(())

    def open(self) -> None:
        self.opened += 1
        self._own = iter([HELD])

    def own(self, count: int) -> list[Result]:
        return next(self._own, [])

    def abandoned(self, count: int) -> list[Result]:
        return []

    def new(self, count: int, wait_ms: int | None) -> list[Result]:
        self.asked += 1
        return []


class FakeWriter:
    """One for which nothing can be written at present: what it gets stays in the outbox."""

    def __init__(self, errors: list[Exception]) -> None:
        self.held: list[list[Result]] = []
        self._errors = errors

    def write(self, results: list[Result]) -> None:
        if results:
            self.held.append(results)
        if self._errors:
            raise self._errors.pop()


class FakeCampaigns:
    def open_parked(self) -> None:
        pass

    def close_complete(self) -> float:
        return 90.0

    def forget_ledgers(self) -> None:
        pass


class FakeOld:
    def forget(self) -> None:
        pass


class Turns:
    """A stop after so many turns."""

    def __init__(self, turns: int) -> None:
        self._left = turns

    def is_set(self) -> bool:
        self._left -= 1
        return self._left < 0

    def interrupt(self, call: object) -> object:
        return call()  # type: ignore[operator]

    def wait(self, seconds: float) -> bool:
        return False


@pytest.mark.parametrize(
    ("errors", "outages"),
    [([], 1), ([DatabaseUnavailable("Supabase is away.")], 2), ([redis.ConnectionError("Redis is away.")], 2)],
)
def test_results_that_cant_be_written_are_read_once_and_keep_no_new_ones_waiting(
    errors: list[Exception], outages: int
) -> None:
    outbox, writer = FakeOutbox(), FakeWriter(errors)
    Recorder(
        cast("Outbox", outbox),
        cast("ResultWriter", writer),
        cast("Campaigns", FakeCampaigns()),
        cast("OldCampaigns", FakeOld()),
        cast("Stop", Turns(10)),
    ).run()
    assert writer.held == [HELD] * outages
    assert outbox.opened == outages
    # One turn sees that nothing is held any more.
    assert outbox.asked == 9 - outages
