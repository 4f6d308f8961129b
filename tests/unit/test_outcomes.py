"""What replies mean, and when to try again."""

import pytest

from worker.outcomes import Failed, Retry, classify_refusal, speaks_of_account
from worker.retry import LONGEST_DELAY_MS, retry_delay_ms


@pytest.mark.parametrize(
    ("code", "text", "outcome"),
    [
        (550, "5.1.1 no such user", Failed),
        (553, "5.1.3 bad address", Failed),
        (554, "5.7.1 spam", Failed),
        (451, "4.3.0 try again", Retry),
        (450, "4.2.0 greylisted", Retry),
        (452, "4.2.2 mailbox full", Retry),
    ],
)
def test_a_refusal_of_a_recipient(code: int, text: str, outcome: type[Failed] | type[Retry]) -> None:
    assert classify_refusal(code, text) == outcome(f"{code} {text}")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (421, "4.7.0 too many connections"),
        (454, "4.7.0 temporary authentication failure"),
        (530, "5.7.0 authentication required"),
        (535, "5.7.8 bad credentials"),
        (550, "5.4.5 daily sending quota exceeded"),
        (550, "5.4.6 unusual sending activity"),
        (554, "5.1.8 outgoing blocked"),
    ],
)
def test_replies_that_speak_of_the_account(code: int, text: str) -> None:
    assert speaks_of_account(code, text)


@pytest.mark.parametrize(("code", "text"), [(550, "5.1.1 no such user"), (451, "4.3.0 busy"), (554, "no")])
def test_replies_that_speak_of_the_recipient(code: int, text: str) -> None:
    assert not speaks_of_account(code, text)


def test_delays_double_up_to_an_hour() -> None:
    assert [retry_delay_ms(attempt, jitter=0) for attempt in (1, 2, 3)] == [15_000, 30_000, 60_000]
    assert retry_delay_ms(1000, jitter=0) == LONGEST_DELAY_MS
    assert retry_delay_ms(1, jitter=1) == 18_750
    assert 15_000 <= retry_delay_ms(1) <= 18_750
