"""What replies mean, and when to try again."""

import csv
import time
from pathlib import Path

import pytest

from worker.mail.outcomes import Reply, Stage, classify_smtp, is_hard_bounce, is_of_one_mail
from worker.mail.retry import LONGEST_DELAY_MS, retry_delay_ms, tries_within
from worker.mail.same_words import same_words

with Path(__file__).with_name("smtp_replies.csv").open(encoding="utf-8", newline="") as file:
    REPLIES = list(csv.DictReader(file))


@pytest.mark.parametrize("reply", REPLIES, ids=lambda reply: f"{reply['code']} {reply['text'][:50]}")
def test_a_real_reply(reply: dict[str, str]) -> None:
    assert classify_smtp(int(reply["code"]), reply["text"], Stage[reply["stage"].upper()]) is Reply(reply["means"])


@pytest.mark.parametrize(
    ("code", "text", "means"),
    [
        (550, "5.1.1 no such user", Reply.HARD),
        (553, "5.1.3 bad address", Reply.HARD),
        (550, "5.2.1 mailbox disabled", Reply.HARD),
        (554, "no", Reply.HARD),
        (552, "5.3.4 message too big", Reply.HARD),
        (554, "5.7.1 spam", Reply.CONTENT),
        (553, "5.7.1 <a@example.com>: Sender address rejected: not owned by user b", Reply.SENDER),
        (550, "5.7.60 SMTP; Client does not have permissions to send as this sender", Reply.SENDER),
        (550, "5.7.26 unauthenticated mail from example.com isn't accepted", Reply.BLOCKED),
        (554, "Message rejected: Email address is not verified.", Reply.BLOCKED),
        (450, "4.2.0 greylisted", Reply.SOFT),
        (451, "4.7.1 Greylisting in action", Reply.SOFT),
        (452, "4.2.2 mailbox full", Reply.SOFT),
        (455, "4.5.0 parameters", Reply.SOFT),
        (421, "4.7.0 too many connections", Reply.PACE),
        (421, "4.4.2 timeout", Reply.PACE),
        (432, "4.3.21 too many senders", Reply.PACE),
        (450, "4.2.1 the user is receiving mail at a rate", Reply.SOFT),
        (452, "4.3.1 insufficient system storage", Reply.PACE),
        (451, "4.3.0 try again", Reply.PACE),
        (452, "4.5.3 too many recipients", Reply.PACE),
        (454, "Throttling failure: Maximum sending rate exceeded.", Reply.PACE),
        (454, "Throttling failure: Daily message quota exceeded.", Reply.BLOCKED),
        (454, "4.7.0 temporary authentication failure", Reply.LOGIN),
        (530, "5.7.0 authentication required", Reply.LOGIN),
        (535, "5.7.8 bad credentials", Reply.LOGIN),
        (550, "5.4.5 daily sending quota exceeded", Reply.BLOCKED),
        (550, "5.4.6 unusual sending activity", Reply.BLOCKED),
        (554, "5.1.8 outgoing blocked", Reply.BLOCKED),
        (550, "5.7.515 access denied", Reply.BLOCKED),
    ],
)
def test_a_refusal(code: int, text: str, means: Reply) -> None:
    assert classify_smtp(code, text, Stage.CONTENT) is means


@pytest.mark.parametrize(
    ("code", "text", "means"),
    [
        (550, "5.7.1 not your address", Reply.SENDER),
        (553, "5.7.1 sender rejected", Reply.SENDER),
        (550, "5.4.5 daily sending quota exceeded", Reply.BLOCKED),
        (530, "5.7.0 authentication required", Reply.LOGIN),
        (451, "4.3.0 try again", Reply.PACE),
    ],
)
def test_a_refusal_of_the_sender(code: int, text: str, means: Reply) -> None:
    assert classify_smtp(code, text, Stage.MAIL) is means


def test_one_recipients_451_slows_nobody_down() -> None:
    text = "4.3.0 <a@example.com>: temporary lookup failure"
    assert classify_smtp(451, text, Stage.RCPT) is Reply.SOFT
    assert all(classify_smtp(451, text, stage) is Reply.PACE for stage in (Stage.MAIL, Stage.DATA, Stage.CONTENT))


@pytest.mark.parametrize(
    ("code", "text", "means"),
    [
        (550, "Rejected: 5.4.6.77 is listed", Reply.HARD),
        (550, "5.4.6.77 is listed", Reply.HARD),
        (550, "you said 5.4.6 before", Reply.HARD),
        (450, "5.4.6 of another class", Reply.SOFT),
        (550, "#5.7.1 Cisco's way to write it", Reply.CONTENT),
        (550, "5.4.5: with a colon", Reply.BLOCKED),
    ],
)
def test_an_enhanced_code_stands_behind_the_code(code: int, text: str, means: Reply) -> None:
    assert classify_smtp(code, text, Stage.CONTENT) is means


def test_a_recipient_that_is_not_verified_is_no_identity_of_the_account() -> None:
    for text in ("5.1.1 Recipient address not verified", "Recipient address rejected: address not verified"):
        assert classify_smtp(554, text, Stage.RCPT) is Reply.HARD


@pytest.mark.parametrize(
    ("code", "text", "means"),
    [
        (421, "4.7.0 Too many connections", Reply.PACE),
        (432, "4.7.12 A password transition is needed", Reply.PACE),
        (451, "4.3.0 Temporary service failure", Reply.PACE),
        (454, "4.7.0 Temporary authentication failure", Reply.LOGIN),
        (535, "5.7.8 bad credentials", Reply.LOGIN),
        (554, "5.7.1 blocked", Reply.LOGIN),
    ],
)
def test_a_server_in_trouble_refuses_no_login(code: int, text: str, means: Reply) -> None:
    assert classify_smtp(code, text, Stage.LOGIN) is means


def test_delays_double_up_to_an_hour() -> None:
    assert [retry_delay_ms(attempt, jitter=0) for attempt in (1, 2, 3)] == [15_000, 30_000, 60_000]
    assert retry_delay_ms(1000, jitter=0) == LONGEST_DELAY_MS
    assert retry_delay_ms(1, jitter=1) == 18_750
    assert 15_000 <= retry_delay_ms(1) <= 18_750


@pytest.mark.parametrize("hours", [1, 24, 168])
def test_tries_go_on_for_some_hours(hours: int) -> None:
    waits = [retry_delay_ms(attempt, jitter=0) for attempt in range(1, tries_within(hours))]
    assert hours * 3_600_000 <= sum(waits) < (hours + 1) * 3_600_000
    # Postgrey wants 300 s.
    assert sum(waits[:5]) > 300_000


def test_no_hours_are_one_try() -> None:
    assert tries_within(0) == 1


@pytest.mark.parametrize(
    ("words", "bounced"),
    [
        ("550 5.1.1 <ann@example.org>: Recipient address rejected: User unknown in virtual mailbox table", True),
        ("550 5.1.10 RESOLVER.ADR.RecipientNotFound; not found by SMTP address lookup", True),
        ("550 5.2.1 The email account that you tried to reach is disabled.", True),
        ("550 No such user here", True),
        ("554 delivery error: This user doesn't have a yahoo.com account", True),
        ("550 5.1.8 Access denied, bad outbound sender", False),
        ("550 Administrative prohibition", False),
        ("554 5.7.1 spam", False),
        ("552 5.2.2 Quota exceeded (mailbox for user is full)", False),
        ("given up after 32 attempts: 450 4.2.0 Greylisted", False),
        ("invalid job: to isn't one mail address: 'nobody'", False),
    ],
)
def test_a_hard_bounce_names_a_mailbox_that_is_not_there(words: str, bounced: bool) -> None:
    assert is_hard_bounce(words) is bounced


@pytest.mark.parametrize("words", ["you ", "sender rate ", "exceeded ", "a", "too many ", "user x x x ", "domain "])
def test_a_book_of_a_reply_is_read_in_no_time(words: str) -> None:
    began = time.perf_counter()
    text = words * (64_000 // len(words))
    classify_smtp(550, text, Stage.CONTENT)
    is_of_one_mail(f"550 {text[:300]}")
    same_words(f"550 {text[:300]}")
    assert time.perf_counter() - began < 0.1
