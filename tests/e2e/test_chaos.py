"""The long run of benchmarks/chaos.py in a short form: a campaign while everything breaks at once."""

import pytest

from benchmarks.bench import bench
from benchmarks.chaos import Chaos, Plan


@pytest.mark.parametrize("hold", [False, True], ids=["resend", "hold"])
def test_every_recipient_is_accounted_for(hold: bool) -> None:
    plan = Plan(
        recipients=200,
        processes=3,
        rate="20/s,150/m",
        hold=hold,
        kill_every=3.0,
        redis_restart_after=5.0,
        database_away=(8.0, 16.0),
        dead_after_seconds=6,
        patience=400.0,
    )
    with bench("chaos") as setup:
        verdict = Chaos(setup, plan).run()
    assert verdict.good, verdict
    assert verdict.kills >= 3
    # With `hold` nothing is sent twice but what the operator, here the test, has decided wrongly: nothing at all.
    assert verdict.doubles == 0 or not hold, verdict
