"""What the replies to different recipients have in common."""

import pytest

from worker.mail.same_words import MAX_CHARACTERS, same_words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            "550 5.7.1 <ann@example.org>: Recipient address rejected: Administrative prohibition",
            "550 5.7.1 <bob@example.net>: Recipient address rejected: Administrative prohibition",
        ),
        (
            "550 Blocked, see https://example.com/b?id=a1 (mx1.example.com)",
            "550 Blocked, see https://x.example (mx.y.z)",
        ),
        ("554 No. a640c23a62f3a-7f8 - gsmtp", "554 No. 99c23a62f3a-111 - gsmtp"),
        ("550 Domain example.org has exceeded 101/100", "550 domain EXAMPLE.NET has exceeded 7 of 5"),
    ],
)
def test_what_is_a_recipients_own_is_left_out(one: str, other: str) -> None:
    assert same_words(one).startswith(one[:3])
    assert "exampl" not in same_words(one)
    assert same_words(one).replace(" of", "") == same_words(other).replace(" of", "")


def test_other_words_or_codes_are_others() -> None:
    replies = ["550 5.7.1 no", "554 5.7.1 no", "550 5.7.2 no", "550 5.7.1 yes", "550 no"]
    assert len({same_words(reply) for reply in replies}) == len(replies)


def test_what_is_no_reply_has_no_words() -> None:
    assert same_words("smtp.example.org takes no addresses with non-ASCII characters") == ""
    assert len(same_words("550 " + "many words " * 100)) <= MAX_CHARACTERS
