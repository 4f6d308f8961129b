"""What was said of a campaign is forgotten when it's long over, and never while something of it may still wait."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from tests.integration.consumers import BULLMQ
from tests.integration.programs import Programs
from worker.base import keys
from worker.ledger.ledger import LEDGER_SECONDS
from worker.queue.control import Control
from worker.queue.producer import enqueue
from worker.recording.old_campaigns import OldCampaigns

Put = Callable[[redis.Redis], Any]

NAMES = {b"paused", b"cancelled", b"high"}

#: Traces that a campaign `paused` leaves.
TRACES: dict[str, Put] = {
    keys.ledger("paused"): lambda queue: queue.hset(keys.ledger("paused"), "s", "s:1:"),
    keys.counts("paused"): lambda queue: queue.hset(keys.counts("paused"), "sent", 1),
    keys.lane("paused"): lambda queue: queue.rpush(keys.lane("paused"), "id"),
    keys.OPEN_CAMPAIGNS: lambda queue: queue.sadd(keys.OPEN_CAMPAIGNS, "paused"),
    keys.PARKED_CAMPAIGNS: lambda queue: queue.hset(keys.PARKED_CAMPAIGNS, "paused", '[1, "why"]'),
    keys.bullmq_parked(BULLMQ, "paused"): lambda queue: queue.sadd(keys.bullmq_parked(BULLMQ, "paused"), "1"),
}
#: What could be any campaign's.
UNSEEN: dict[str, Put] = {
    keys.WAITING: lambda queue: queue.rpush(keys.WAITING, "id"),
    keys.WOKEN: lambda queue: queue.rpush(keys.WOKEN, "id"),
    keys.DELAYED_MESSAGES: lambda queue: queue.hset(keys.DELAYED_MESSAGES, "id", "{}"),
    f"{BULLMQ}:wait": lambda queue: queue.rpush(f"{BULLMQ}:wait", "1"),
    f"{BULLMQ}:prioritized": lambda queue: queue.zadd(f"{BULLMQ}:prioritized", {"1": 1}),
    f"{BULLMQ}:delayed": lambda queue: queue.zadd(f"{BULLMQ}:delayed", {"1": 1}),
}


@pytest.fixture
def old(queue: redis.Redis) -> OldCampaigns:
    """Three campaigns of which nothing else was known for a month."""
    control = Control(queue, BULLMQ)
    control.pause("paused")
    control.cancel("cancelled")
    control.set_priority("high", "high")
    old = OldCampaigns(queue, BULLMQ)
    old.forget()
    assert said(queue) == NAMES
    a_month_passes(queue)
    return old


def a_month_passes(queue: redis.Redis) -> None:
    names: Any = queue.zrange(keys.IDLE_CAMPAIGNS, 0, -1)
    queue.zadd(keys.IDLE_CAMPAIGNS, dict.fromkeys(names, (time.time() - LEDGER_SECONDS - 60) * 1000))


def said(queue: redis.Redis) -> set[bytes]:
    found: Any = queue.hkeys(keys.CONTROL) + queue.hkeys(keys.PRIORITIES)
    return set(found)


def test_what_is_long_over_is_forgotten(queue: redis.Redis, old: OldCampaigns) -> None:
    old.forget()
    assert said(queue) == set()
    assert not queue.exists(keys.IDLE_CAMPAIGNS)


@pytest.mark.parametrize("key", TRACES)
def test_what_leaves_a_trace_is_kept(queue: redis.Redis, old: OldCampaigns, key: str) -> None:
    TRACES[key](queue)
    old.forget()
    assert said(queue) == {b"paused"}
    # The month begins when the trace is gone.
    queue.delete(key)
    old.forget()
    assert said(queue) == {b"paused"}


@pytest.mark.parametrize("key", UNSEEN)
def test_nothing_is_forgotten_while_any_campaigns_mail_waits(queue: redis.Redis, old: OldCampaigns, key: str) -> None:
    UNSEEN[key](queue)
    old.forget()
    assert said(queue) == NAMES
    queue.delete(key)
    old.forget()
    assert said(queue) == set()


@pytest.mark.parametrize("touch", ["pause", "cancel", "set_priority"])
def test_what_an_operator_says_begins_a_new_month(queue: redis.Redis, old: OldCampaigns, touch: str) -> None:
    # It's paused before it's queued, weeks after it was given a priority.
    getattr(Control(queue, BULLMQ), touch)("high", *(["low"] if touch == "set_priority" else []))
    old.forget()
    assert said(queue) == {b"high"}


def test_thousands_of_them_are_looked_through_in_parts(queue: redis.Redis, old: OldCampaigns) -> None:
    queue.hset(keys.CONTROL, mapping={f"c{number}": "cancelled:by an operator" for number in range(3000)})
    old.forget()
    assert len(said(queue)) == 3000
    a_month_passes(queue)
    queue.config_resetstat()
    old.forget()
    assert said(queue) == set()
    calls: Any = queue.info("commandstats")
    assert calls["cmdstat_evalsha"]["calls"] > 20


def test_counts_of_a_cancelled_campaign_end_too(queue: redis.Redis) -> None:
    jobs = [{"to": "a@example.org", "html": "x", "campaignId": "c", "subscriberId": number} for number in range(2)]
    list(enqueue(queue, iter(jobs)))
    waiting: Any = queue.lpop(keys.WAITING)
    queue.rpush(keys.lane("c"), waiting)
    assert Control(queue, "").cancel("c") == 1
    assert 0 < int(str(queue.ttl(keys.counts("c")))) <= LEDGER_SECONDS


def test_a_recorder_does_it(queue: redis.Redis, old: OldCampaigns, programs: Programs) -> None:
    recorder = programs.start("record")
    recorder.wait_for("campaign cancelled is forgotten, paused or cancelled as it was: nothing of it was there for 30")
    recorder.wait_for("campaign high is forgotten")
    assert said(queue) == set()
