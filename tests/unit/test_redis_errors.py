"""What is said of Redis's errors."""

import re

import pytest
import redis

from worker.base.redis_client import explain


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (redis.AuthenticationError("invalid username-password pair"), "refuses the user or password"),
        (
            redis.exceptions.NoPermissionError("NOPERM no rights"),
            r"may not do that \(NOPERM no rights\): give it the right",
        ),
        (redis.OutOfMemoryError("OOM"), "is full: let the workers send"),
        (redis.ReadOnlyError("READONLY"), "is a replica, which takes no changes"),
        (redis.TimeoutError("Timeout reading from socket"), r"doesn't answer \(Timeout reading from socket\): check"),
        (redis.ConnectionError("Connection refused"), r"can't be reached \(Connection refused\): check"),
        (redis.ResponseError("ERR\nwrong kind"), r"refuses a command \(ERR wrong kind\)"),
    ],
)
def test_each_error_says_what_to_do(error: redis.RedisError, words: str) -> None:
    assert re.search(words, explain(error))
