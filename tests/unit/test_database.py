"""How answers of PostgREST are told apart, and how requests are cut to length."""

import pytest
from postgrest.exceptions import APIError

from worker.errors import DatabaseRejected, DatabaseTooSlow, DatabaseUnavailable
from worker.recording.database import MAX_ID_BYTES, _by_length, _explained


@pytest.mark.parametrize(
    ("code", "message", "kind", "words"),
    [
        ("22P02", "invalid input syntax for type uuid", DatabaseRejected, "refuses a value"),
        ("23514", "violates check constraint", DatabaseRejected, "refuses a value"),
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
    error = _explained(APIError({"code": code, "message": message}), "https://x.example", "campaign_subscribers")
    assert type(error) is kind
    assert words in str(error)


def test_uuids_are_cut_to_length() -> None:
    ids = [f"00000000-0000-0000-0000-{number:012}" for number in range(1000)]
    chunks = _by_length(ids)
    assert [subscriber_id for chunk in chunks for subscriber_id in chunk] == ids
    assert all(sum(len(subscriber_id) for subscriber_id in chunk) <= MAX_ID_BYTES for chunk in chunks)
    assert len(chunks) < 12


def test_one_long_id_stands_alone() -> None:
    assert [len(chunk) for chunk in _by_length(["ü" * 3000, "a", "b"])] == [1, 2]
