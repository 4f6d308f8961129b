"""How answers of PostgREST are told apart, and how requests are cut to length."""

import pytest

from worker.errors import DatabaseRejected, DatabaseTooSlow, DatabaseUnavailable
from worker.recording.answers import explain_error, misshapen
from worker.recording.database import MAX_ID_BYTES, _by_length


@pytest.mark.parametrize(
    ("code", "message", "kind", "words"),
    [
        ("22P02", "invalid input syntax for type uuid", DatabaseRejected, "refuses a value"),
        ("23514", "violates check constraint", DatabaseRejected, "refuses a value"),
        ("P0001", "not this one", DatabaseRejected, "refuses a value"),
        ("APP01", "a code of the app's own", DatabaseRejected, "refuses a value"),
        ("PT402", "not paid", DatabaseRejected, "refuses a value"),
        ("40P01", "deadlock detected", DatabaseUnavailable, "40P01"),
        ("XX000", "internal error", DatabaseUnavailable, "XX000"),
        ("401", "Invalid API key", DatabaseUnavailable, "SUPABASE_SECRET_KEY"),
        ("PGRST301", "JWT expired", DatabaseUnavailable, "SUPABASE_SECRET_KEY"),
        ("PGRST205", "Could not find the table", DatabaseUnavailable, "SUPABASE_RECIPIENTS_TABLE"),
        ("42703", "column sent does not exist", DatabaseUnavailable, "lacks a column"),
        ("42501", "permission denied", DatabaseUnavailable, "secret key"),
        ("57014", "canceling statement due to statement timeout", DatabaseTooSlow, "index"),
        ("503", "Service Unavailable", DatabaseUnavailable, "503"),
    ],
)
def test_errors_are_told_apart(code: str, message: str, kind: type[Exception], words: str) -> None:
    error = explain_error(code, message, "https://x.example", "campaign_subscribers")
    assert type(error) is kind
    assert words in str(error)


@pytest.mark.parametrize(
    ("method", "content_range", "body", "problem"),
    [
        ("GET", "0-1/*", b'[{"id":1}]', None),
        ("GET", "*/*", b"[]", None),
        ("PATCH", "*/0", b"", None),
        ("PATCH", "0-9/10", b"", None),
        ("GET", "", b"[]", "Content-Range"),
        ("PATCH", "", b"", "Content-Range"),
        ("PATCH", "rows 0-9/10", b"", "Content-Range"),
        ("GET", "*/*", b"<html>Hello</html>", "list of rows"),
        ("GET", "*/*", b"", "list of rows"),
        ("GET", "*/*", b'{"id":1}', "list of rows"),
    ],
)
def test_an_answer_has_the_shape_that_was_asked_for(
    method: str, content_range: str, body: bytes, problem: str | None
) -> None:
    found = misshapen(method, {"content-range": content_range} if content_range else {}, body, counted=False)
    assert found is None if problem is None else problem in str(found)


def test_a_count_is_a_number() -> None:
    assert misshapen("PATCH", {"content-range": "*/7"}, b"", counted=True) is None
    assert "how many" in str(misshapen("PATCH", {"content-range": "*/*"}, b"", counted=True))


def test_uuids_are_cut_to_length() -> None:
    ids = [f"00000000-0000-0000-0000-{number:012}" for number in range(1000)]
    chunks = _by_length(ids)
    assert [subscriber_id for chunk in chunks for subscriber_id in chunk] == ids
    assert all(sum(len(subscriber_id) for subscriber_id in chunk) <= MAX_ID_BYTES for chunk in chunks)
    assert len(chunks) < 12


def test_one_long_id_stands_alone() -> None:
    assert [len(chunk) for chunk in _by_length(["ü" * 3000, "a", "b"])] == [1, 2]
