"""What an app says about a job: each form that BullMQ knows, and rubbish."""

import json

import pytest

from worker.mail.retry import FIRST_DELAY_MS
from worker.queue.bullmq_options import JobOptions, Keep, read_options

COMPLETED, FAILED = Keep(1000), Keep(5000)


def read(**opts: object) -> JobOptions:
    return read_options(json.dumps(opts), COMPLETED, FAILED)


@pytest.mark.parametrize(
    ("value", "expected"), [(None, None), (0, None), (1, 1), (10, 10), ("3", None), (-1, None), (True, None)]
)
def test_attempts(value: object, expected: int | None) -> None:
    assert read(attempts=value).attempts == expected


@pytest.mark.parametrize(
    ("backoff", "delays"),
    [
        (700, [700, 700, 700]),
        ({"type": "fixed", "delay": 700}, [700, 700, 700]),
        ({"type": "exponential", "delay": 1000}, [1000, 2000, 4000]),
        ({"type": "exponential", "delay": 1000, "jitter": 0.5}, [500, 1000, 2000]),
        ({"type": "fixed", "delay": 1000, "jitter": 7}, [0, 0, 0]),
    ],
)
def test_backoff_is_bullmqs(backoff: object, delays: list[int]) -> None:
    options = read(backoff=backoff)
    assert [options.delay_ms(made, chance=0.0) for made in (1, 2, 3)] == delays


def test_jitter_ends_at_the_whole_delay() -> None:
    options = read(backoff={"type": "exponential", "delay": 1000, "jitter": 0.5})
    assert options.delay_ms(2, chance=1.0) == 2000


@pytest.mark.parametrize(
    "backoff",
    [None, 0, "soon", [], {}, {"type": "custom", "delay": 5}, {"type": "fixed"}, {"type": "fixed", "delay": "x"}],
)
def test_without_a_backoff_that_we_know_it_is_ours(backoff: object) -> None:
    assert FIRST_DELAY_MS <= read(backoff=backoff).delay_ms(1) <= FIRST_DELAY_MS * 1.25


def test_an_endless_backoff_ends() -> None:
    options = read(backoff={"type": "exponential", "delay": 1e15})
    assert 0 < options.delay_ms(5000, chance=1.0) < 2**53


@pytest.mark.parametrize(
    ("value", "keep"),
    [
        (None, COMPLETED),
        (True, Keep(count=0)),
        (False, Keep()),
        (0, Keep(count=0)),
        (20, Keep(count=20)),
        (-1, Keep()),
        ({"count": 20}, Keep(count=20)),
        ({"age": 3600}, Keep(age_seconds=3600)),
        ({"age": 60, "count": 5, "limit": 10}, Keep(5, 60, 10)),
        ("all", COMPLETED),
    ],
)
def test_what_is_kept(value: object, keep: Keep) -> None:
    assert read(removeOnComplete=value).keep_completed == keep


@pytest.mark.parametrize("text", ["", "[]", "null", "7", "{", "[" * 100_000, '{"attempts":{"a":1},"removeOnFail":[]}'])
def test_rubbish_says_nothing(text: str) -> None:
    options = read_options(text, COMPLETED, FAILED)
    assert (options.attempts, options.keep_completed, options.keep_failed) == (None, COMPLETED, FAILED)
