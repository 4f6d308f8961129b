"""The causes for which no mail of a process leaves begin and end by themselves."""

import asyncio

from worker.queue.gate import Cause, Gate
from worker.sending import outage
from worker.sending.outage import Outage


async def test_it_is_closed_while_there_is_a_cause() -> None:
    gate = Gate(asyncio.Event())
    gate.close(Cause.PAUSE, 5_000)
    gate.close(Cause.OUTAGE, 10_000)
    assert 9 < gate.seconds <= 10
    gate.end(Cause.OUTAGE)
    assert 4 < gate.seconds <= 5
    gate.end(Cause.PAUSE)
    assert await gate.passed()


async def test_only_the_rate_closes_it_for_longer_each_time() -> None:
    gate = Gate(asyncio.Event())
    for _ in range(5):
        gate.close(Cause.CONNECTIONS, 1)
        await asyncio.sleep(0.003)
    gate.close(Cause.RATE, 1)
    assert gate.seconds > 1
    gate.end(Cause.RATE)
    gate.turn()
    gate.close(Cause.RATE, 1)
    assert gate.seconds < 0.1


async def test_a_stop_opens_it_for_nobody() -> None:
    stopping = asyncio.Event()
    gate = Gate(stopping)
    gate.close(Cause.OUTAGE, 10_000)
    stopping.set()
    assert not await gate.passed()


async def test_an_outage_that_is_over_holds_nobody_up() -> None:
    gate = Gate(asyncio.Event())
    trouble = Outage(gate)
    for _ in range(6):
        trouble.began("SMTP server x: away.")
        gate.end(Cause.OUTAGE)
    trouble.began("SMTP server x: away.")
    assert gate.seconds > outage.LONGEST_WAIT_SECONDS - 1
    trouble.over()
    assert gate.seconds == 0


async def test_an_outage_in_a_pause_waits_longer_each_time_as_well() -> None:
    gate = Gate(asyncio.Event())
    trouble = Outage(gate)
    gate.close(Cause.PAUSE, 100)
    trouble.began("SMTP server x: away.")
    assert gate.closed_by(Cause.OUTAGE)
