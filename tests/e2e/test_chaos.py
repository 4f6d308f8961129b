"""The long runs of benchmarks/chaos.py and bullmq_chaos.py in a short form: a campaign while everything breaks."""

from dataclasses import replace

import pytest

from benchmarks import bullmq_chaos, chaos
from benchmarks.bench import bench
from benchmarks.chaos import Plan
from testbed.app import Major

CLOCK_AHEAD = 3600
PLAN = Plan(
    recipients=200,
    processes=3,
    rate="20/s,150/m",
    hold=False,
    kill_every=3.0,
    redis_restart_after=5.0,
    database_away=(8.0, 16.0),
    failovers=(11.0, 20.0),
    clock_ahead=0,
    strike_every=3.0,
    dead_after_seconds=6,
    patience=400.0,
)


@pytest.mark.parametrize("hold", [False, True], ids=["resend", "hold"])
def test_every_recipient_is_accounted_for(hold: bool) -> None:
    plan = PLAN
    if hold:
        # By a step forward a minute's limit begins anew: no clock but the new primary's tells how long that took. A
        # second's is over by then.
        plan = replace(PLAN, hold=True, rate="20/s", clock_ahead=CLOCK_AHEAD)
    with bench("chaos") as setup:
        verdict = chaos.run(setup, plan)
    if not verdict.good:
        pytest.fail(str(verdict))  # an assertion's own words are cut
    assert verdict.kills >= 3
    # With `hold` nothing is sent twice but what the operator, here the test, has decided wrongly: nothing at all.
    assert verdict.doubles == 0 or not hold, verdict


@pytest.mark.parametrize(("major", "node_workers"), [(5, 2), (6, 0)])
def test_every_job_of_the_apps_is_accounted_for(major: Major, node_workers: int) -> None:
    plan = bullmq_chaos.without_step_back(replace(PLAN, rate="20/s", clock_ahead=CLOCK_AHEAD))
    if node_workers:
        # As fast as Node's workers, the fleet is done within seconds: the kills must come while it works.
        plan = bullmq_chaos.beside_node(replace(PLAN, recipients=2000, kill_every=1.0))
    with bench("chaos") as setup:
        verdict, good = bullmq_chaos.run(setup, plan, major, node_workers)
    if not good:
        pytest.fail(str(verdict))
    assert verdict.kills >= (1 if node_workers else 2)
