"""How the preflight reads the address of Redis: as redis-py does, and without showing a part of a broken one."""

import pytest

from preflight.redis import RedisUrl, parse_info, parse_redis_url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("rediss://default:p%40s%23s@x.upstash.io:6380", RedisUrl(True, "x.upstash.io", 6380, "default", "p@s#s", 0)),
        ("redis://:secret@10.0.0.1/3", RedisUrl(False, "10.0.0.1", 6379, "", "secret", 3)),
        ("redis://[::1]:7000/0", RedisUrl(False, "::1", 7000, "", "", 0)),
    ],
)
def test_addresses(url: str, expected: RedisUrl) -> None:
    assert parse_redis_url(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "https://x.upstash.io",
        "redis://default:pa/ss@redis.example:6379",
        "redis://default:12#34@redis.example:6379",
        "redis://default:12?34@redis.example:6379",
        "redis://default:pass@redis.example:port",
        "redis.example:6379",
        "",
    ],
)
def test_what_is_no_address(url: str) -> None:
    assert parse_redis_url(url) is None


def test_info() -> None:
    text = "# Server\r\nredis_version:7.2.4\r\n\r\n# Memory\r\nmaxmemory_policy:noeviction\r\n"
    assert parse_info(text) == {"redis_version": "7.2.4", "maxmemory_policy": "noeviction"}
