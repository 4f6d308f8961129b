"""Random life on one BullMQ queue; model.py says what may happen, and what must hold."""

import pytest
import redis

from testbed.app import App
from tests.integration.consumers import MakeConsumer
from tests.integration.model import Model

STEPS = 300


@pytest.mark.parametrize("seed", range(1, 5))
async def test_whatever_happens_in_whatever_order(
    app: App, queue: redis.Redis, process: MakeConsumer, seed: int
) -> None:
    model = Model(app, queue, process, seed)
    try:
        await model.run(STEPS)
    except BaseException:
        print(f"seed {seed}: {model.steps}")
        raise
