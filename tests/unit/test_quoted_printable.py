"""Lines that are looked up are the lines that would have been encoded."""

import binascii

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.mail import quoted_printable as module
from worker.mail.quoted_printable import quoted_printable

_PIECES = (b"\n", b" ", b"\t", b".", b"=", b"<p style='a'>", "Grüße".encode(), b"a" * 74, b"b" * 210, b"From ")


def whole(text: bytes) -> bytes:
    """The text, encoded by the standard library at once."""
    return binascii.b2a_qp(text, istext=True).replace(b"\n", b"\r\n")


@given(st.lists(st.sampled_from(_PIECES), max_size=200).map(b"".join))
def test_a_text_is_encoded_as_a_whole_one_is(text: bytes) -> None:
    assert quoted_printable(text) == quoted_printable(text) == whole(text)


@pytest.mark.parametrize("lines", [1, 600, 3_000, 30_000])
def test_a_text_of_many_lines_is_the_same(lines: int) -> None:
    text = b"".join(b"line %d = \n" % number for number in range(lines)) + b"end "
    assert quoted_printable(text) == whole(text)


def test_what_a_campaigns_mails_share_is_encoded_once() -> None:
    module._known.cache_clear()
    shared = b"".join(b"<p>paragraph %d</p>\n" % number for number in range(500))
    first, *others = (b"<p>Hello %s</p>\n" % name + shared for name in (b"Ann", b"Maximilian", b"Zo"))
    quoted_printable(first)
    encoded = module._known.cache_info().misses
    for text in others:
        quoted_printable(text)
    # The lines around the name alone.
    assert module._known.cache_info().misses <= encoded + 2 * len(others) < 2 * encoded


def test_what_is_kept_is_small() -> None:
    module._known.cache_clear()
    quoted_printable(b"x" * 5_000 + b"\n" + b"y" * 2_000 + b"\nshort\n")
    quoted_printable(b"y\n" * 5_000_000)
    assert module._known.cache_info().currsize == 0
