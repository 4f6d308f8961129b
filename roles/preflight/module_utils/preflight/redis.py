"""What the worker needs to know of Redis, in a handful of commands (Redis may be billed by the command)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import NamedTuple, Union
from urllib.parse import unquote, urlsplit

from .network import Addresses, ProbeError, Trust, Wire, dial, speaks_tls

#: So many jobs at the head of the app's queue are read, if they aren't big.
FIRST_JOBS = 10
MOST_JOB_BYTES = 200_000

Reply = Union[str, int, None, "list[Reply]"]


class RedisUrl(NamedTuple):
    """A URL's parts, percent-decoded."""

    tls: bool
    host: str
    port: int
    user: str
    password: str
    database: int

    @property
    def shown(self) -> str:
        """What of it may be shown."""
        return f"{self.host}:{self.port}"

    def __repr__(self) -> str:
        return f"RedisUrl({self.shown})"


class QueueAnswer(NamedTuple):
    """BullMQ's queue. `version` is that of whoever opened it last, such as `bullmq:5.81.5`; empty: nobody has, or the
    user may not look."""

    version: str
    paused: bool = False
    waiting: int = 0
    completed: int = 0
    refused: bool = False
    #: The data of the first jobs that wait.
    head: tuple[str, ...] = ()


class RedisAnswer(NamedTuple):
    """`kind` is `ok`, a ProbeError's, or `auth`, `no password`, `loading`, `no database`, `error`; the rest is None
    where Redis won't tell."""

    kind: str
    words: str = ""
    version: str | None = None
    max_memory: int | None = None
    policy: str | None = None
    persistent: bool | None = None
    ipv6_dropped: bool = False
    queue: QueueAnswer | None = None


class RedisError(Exception):
    """Redis's own `-CODE …`. The text behind the code isn't kept: it may repeat what it was sent."""


def parse_redis_url(url: str) -> RedisUrl | None:
    """None when it isn't an address of Redis. Says nothing about why: parts of a broken URL may be the password."""
    try:
        parts = urlsplit(url)
        port = parts.port or 6379
    except ValueError:
        return None
    database = parts.path.strip("/") or "0"
    # A password's own / # ? ends what counts as the host, and what stands before it mustn't be shown as one.
    broken = parts.query or parts.fragment or not database.isdigit()
    if broken or parts.scheme not in ("redis", "rediss") or not parts.hostname:
        return None
    return RedisUrl(
        tls=parts.scheme == "rediss",
        host=parts.hostname,
        port=port,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        database=int(database),
    )


def probe_redis(url: RedisUrl, addresses: Addresses, trust: Trust, seconds: float, queue: str = "") -> RedisAnswer:
    """Logs in and asks; each step within `seconds`, all within twice as much.

    Args:
        queue: BullMQ's, `PREFIX:QUEUE`; empty: it isn't looked at.
    """
    try:
        wire = dial(addresses, url.port, seconds, seconds)
    except ProbeError as error:
        return RedisAnswer(error.kind, error.words)
    try:
        if url.tls:
            _start_tls(wire, trust, url.host)
            if not trust.complete:
                return RedisAnswer("ok", ipv6_dropped=wire.ipv6_dropped)
        return _ask(wire, url, queue)
    except ProbeError as error:
        unclear = not url.tls and error.kind in ("closed", "silent", "odd")
        if unclear and speaks_tls(url.host, addresses, url.port, seconds / 2):
            return RedisAnswer("wrong tls")
        return RedisAnswer(error.kind, error.words)
    finally:
        wire.close()


def _start_tls(wire: Wire, trust: Trust, host: str) -> None:
    try:
        wire.start_tls(trust, host)
    except ProbeError as error:
        # Redis without TLS waits for the rest of what it takes for a command.
        raise ProbeError("wrong tls") if error.kind in ("silent", "closed") else error from error


def _ask(wire: Wire, url: RedisUrl, queue: str) -> RedisAnswer:
    try:
        if url.password:
            _command(wire, "AUTH", *filter(None, (url.user,)), url.password)
        _command(wire, "PING")
        if url.database:
            _command(wire, "SELECT", str(url.database))
    except RedisError as error:
        return RedisAnswer(*_refusal(str(error), url))
    try:
        info = parse_info(str(_command(wire, "INFO")))
    except RedisError:
        info = {}
    memory = info.get("maxmemory", "")
    return RedisAnswer(
        "ok",
        version=info.get("redis_version"),
        max_memory=int(memory) if memory.isdigit() else None,
        policy=info.get("maxmemory_policy"),
        persistent=_persistent(wire, info),
        ipv6_dropped=wire.ipv6_dropped,
        queue=_look_at_queue(wire, queue) if queue else None,
    )


def _refusal(code: str, url: RedisUrl) -> tuple[str, str]:
    kinds = {"WRONGPASS": "auth", "NOAUTH": "no password", "NOPERM": "auth", "LOADING": "loading"}
    if code == "ERR" and url.database:
        return "no database", ""
    return (kinds[code], "") if code in kinds else ("error", code)


def _persistent(wire: Wire, info: Mapping[str, str]) -> bool | None:
    """Does a restart keep the queue? None where CONFIG is forbidden, as at hosted ones, which persist by themselves."""
    if info.get("aof_enabled") == "1":
        return True
    with contextlib.suppress(RedisError):
        reply = _command(wire, "CONFIG", "GET", "save")
        if isinstance(reply, list) and len(reply) == 2:
            return bool(reply[1])
    return None


def _look_at_queue(wire: Wire, queue: str) -> QueueAnswer | None:
    """None where Redis won't tell."""
    try:
        # Not every version of BullMQ writes the first one.
        meta = _command(wire, "HMGET", f"{queue}:meta", "version", "paused", "opts.maxLenEvents")
        if not isinstance(meta, list) or meta == [None] * 3:
            return QueueAnswer("")
        waiting = [
            _command(wire, command, f"{queue}:{state}")
            for command, state in (("LLEN", "wait"), ("LLEN", "paused"), ("ZCARD", "prioritized"))
        ]
        completed = _command(wire, "ZCARD", f"{queue}:completed")
        head = _first_jobs(wire, queue)
    except RedisError as error:
        return QueueAnswer("", refused=True) if str(error) == "NOPERM" else None
    return QueueAnswer(
        version=str(meta[0])[:40] if meta[0] else "bullmq",
        paused=meta[1] is not None,
        waiting=sum(number for number in waiting if isinstance(number, int)),
        completed=completed if isinstance(completed, int) else 0,
        head=head,
    )


def _first_jobs(wire: Wire, queue: str) -> tuple[str, ...]:
    with contextlib.suppress(RedisError):
        return _read_first_jobs(wire, queue)
    return ()


def _read_first_jobs(wire: Wire, queue: str) -> tuple[str, ...]:
    found: list[str] = []
    identities = _command(wire, "LRANGE", f"{queue}:wait", str(-FIRST_JOBS), "-1")
    for identity in reversed(identities) if isinstance(identities, list) else ():
        key = f"{queue}:{identity}"
        size = _command(wire, "HSTRLEN", key, "data")
        if isinstance(size, int) and 0 < size <= MOST_JOB_BYTES:
            data = _command(wire, "HGET", key, "data")
            if isinstance(data, str):
                found.append(data)
    return tuple(found)


def parse_info(text: str) -> dict[str, str]:
    """INFO's `name:value` lines."""
    pairs = (line.partition(":") for line in text.splitlines() if not line.startswith("#"))
    return {name: value.strip() for name, separator, value in pairs if separator}


def _command(wire: Wire, *words: str) -> Reply:
    encoded = [word.encode() for word in words]
    wire.send(b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded))
    return _reply(wire)


def _reply(wire: Wire) -> Reply:
    line = wire.line().decode("utf-8", "replace")
    sign, rest = line[:1], line[1:]
    if sign == "-":
        raise RedisError(rest.partition(" ")[0])
    if sign == "+":
        return rest
    if sign in ("$", "*", ":") and rest.lstrip("-").isdigit():
        number = int(rest)
        if sign == ":":
            return number
        if number < 0:
            return None
        if sign == "*":
            return [_reply(wire) for _ in range(number)]
        return wire.exactly(number + 2)[:-2].decode("utf-8", "replace")
    raise ProbeError("odd", "it doesn't speak Redis's protocol")
