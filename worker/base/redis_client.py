"""How this package connects to Redis: one place for time-outs, retries, scripts and sentences about what is wrong."""

import contextlib
import socket
import typing
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from worker.base.counted_script import CountedAsyncScript, CountedScript
from worker.base.dialing import dial, dial_blocking
from worker.base.settings import Secret
from worker.mail.names import field_names

# redis-py declares 750 overloads for type checkers, which typing keeps at run time: half a megabyte in each process.
typing.clear_overloads()

CONNECT_TIMEOUT_SECONDS = 5.0
#: A socket that stalls this long counts as cut. Blocking commands ask for less.
SOCKET_TIMEOUT_SECONDS = 15.0
#: After so many seconds the kernel asks a silent other end, so often, so long apart: an idle process's blocking pop,
#: which is silent for minutes, mustn't wait on a connection that leads nowhere. That is no command, and costs nothing.
KEEPALIVE = {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPCNT: 3, socket.TCP_KEEPINTVL: 10}
#: Messages that go in one request have no more together (one alone may have 8 MB): Upstash takes 10 MB a request on its
#: smaller plans.
REQUEST_BYTES = 4_000_000


class _BlockingConnection(redis.Connection):
    """Connects to whichever of its host's addresses answers first; redis-py's own waits for each until its time-out."""

    def _connect(self) -> socket.socket:
        connected = dial_blocking(self.host, int(self.port), CONNECT_TIMEOUT_SECONDS)
        _prepare(connected, self.socket_keepalive_options)
        connected.settimeout(self.socket_timeout)
        return connected


class _BlockingTlsConnection(redis.SSLConnection, _BlockingConnection):
    """The same with TLS, which redis-py puts around what `_connect` returns."""


class _AsyncConnection(redis.asyncio.Connection):
    """The same on an event loop."""

    _connected: socket.socket

    async def _connect(self) -> None:
        self._connected = await dial(self.host, self.port, CONNECT_TIMEOUT_SECONDS)
        try:
            await super()._connect()  # type: ignore[no-untyped-call]
        except BaseException:
            self._connected.close()
            raise

    def _connection_arguments(self) -> dict[str, Any]:
        arguments = {**super()._connection_arguments(), "sock": self._connected}
        del arguments["host"], arguments["port"]
        if "ssl" in arguments:
            arguments["server_hostname"] = self.host
        return arguments


class _AsyncTlsConnection(_AsyncConnection, redis.asyncio.SSLConnection):
    """The same with TLS."""


def _prepare(connected: socket.socket, keepalive_options: Any) -> None:
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in keepalive_options.items():
        connected.setsockopt(socket.IPPROTO_TCP, option, value)


#: What was a primary goes on as a replica after a failover, and its connections with it: they are closed, so that the
#: next one is made to whoever is the primary by then.
_CLOSE_AFTER: list[type[Exception]] = [redis.ReadOnlyError]


class CountingBlockingRedis(redis.Redis):
    """Counts the commands that it sends, and those that its scripts run, since Redis may be billed by the command."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.commands = self.commands_inside = 0

    def register_script(self, script: Any) -> CountedScript:
        return CountedScript(self, script)

    def execute_command(self, *args: Any, **options: Any) -> Any:
        self.commands += 1
        return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, *args: Any, **options: Any) -> Any:
        # All of this package's pipelines hold two or three commands.
        self.commands += 3
        return super().pipeline(*args, **options)


def connect(
    url: Secret,
    *,
    socket_timeout_seconds: float = SOCKET_TIMEOUT_SECONDS,
    health_check_interval_seconds: int = 30,
) -> CountingBlockingRedis:
    """A blocking client. It never repeats a command by itself: a repeated fetch would strand messages."""
    pool = redis.ConnectionPool.from_url(
        url,
        socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
        socket_timeout=socket_timeout_seconds,
        socket_keepalive=True,
        socket_keepalive_options=KEEPALIVE,
        health_check_interval=health_check_interval_seconds,
        retry=Retry(NoBackoff(), 0),
        retry_on_error=list(_CLOSE_AFTER),
    )
    tls = issubclass(pool.connection_class, redis.SSLConnection)
    pool.connection_class = _BlockingTlsConnection if tls else _BlockingConnection
    return CountingBlockingRedis(connection_pool=pool)


class CountingRedis(redis.asyncio.Redis):
    """The same on an event loop."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.commands = self.commands_inside = 0

    def register_script(self, script: Any) -> CountedAsyncScript:  # type: ignore[override]  # redis-py says Script
        return CountedAsyncScript(self, script)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        self.commands += 1
        return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]


def connect_async(
    url: Secret,
    max_connections: int,
    *,
    socket_timeout_seconds: float = SOCKET_TIMEOUT_SECONDS,
    shown_as: str = "",
) -> CountingRedis:
    """A client for scripts that may be repeated. Waits for a free connection rather than failing: a result that can't
    be recorded is a mail sent twice. Without health checks, which would be commands too.

    Args:
        shown_as: the connection's name in CLIENT LIST, where Redis lets it have one.
    """
    naming = {"redis_connect_func": _named(shown_as)} if shown_as else {}
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=None,
        socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
        socket_timeout=socket_timeout_seconds,
        socket_keepalive=True,
        socket_keepalive_options=KEEPALIVE,
        retry=AsyncRetry(NoBackoff(), 0),
        retry_on_error=list(_CLOSE_AFTER),
        **naming,
    )
    tls = issubclass(pool.connection_class, redis.asyncio.SSLConnection)
    pool.connection_class = _AsyncTlsConnection if tls else _AsyncConnection
    return CountingRedis(connection_pool=pool)


def _named(name: str) -> "Callable[[redis.asyncio.Connection], Awaitable[None]]":
    async def connected(connection: "redis.asyncio.Connection") -> None:
        await connection.on_connect()
        # Not by the client's own option: that takes a server's refusal for a failed connection.
        await connection.send_command("CLIENT", "SETNAME", name)
        with contextlib.suppress(redis.ResponseError):
            await connection.read_response()

    return connected


def encodable(text: str) -> str:
    """The text without halves of surrogate pairs, which Redis's JSON and UTF-8 refuse."""
    return text.encode("utf-8", "replace").decode("utf-8")


def explain(error: redis.RedisError) -> str:
    """A sentence with the way out; redis-py's own messages name host and port, never the password."""
    text = " ".join(str(error).split())
    if isinstance(error, redis.AuthenticationError) or "WRONGPASS" in text or "NOAUTH" in text:
        return "Redis refuses the user or password that are in REDIS_URL (or UPSTASH_REDIS_URL)."
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return f"Redis's certificate isn't trusted ({text}): add its CA to base_ca_certificates."
    if isinstance(error, redis.OutOfMemoryError):
        return (
            "Redis is full: let the workers send what waits there, or raise its maxmemory (on a broker of this project"
            " redis_maxmemory_mb)."
        )
    if isinstance(error, redis.ReadOnlyError):
        return (
            "Redis is a replica, which takes no changes: after a failover that passes by itself, else let REDIS_URL"
            " lead to the primary."
        )
    if isinstance(error, redis.TimeoutError):
        return (
            f"Redis doesn't answer ({text}): check REDIS_URL's host, port and scheme (rediss:// is TLS),"
            " and that a firewall lets this host in."
        )
    if isinstance(error, redis.ConnectionError):
        return f"Redis can't be reached ({text}): check REDIS_URL's host, port and scheme (rediss:// is TLS)."
    if isinstance(error, redis.exceptions.NoPermissionError):
        return (
            f"Redis's user may not do that ({text}): give it the right (on a broker of this project playbooks/redis.yml"
            " does)."
        )
    return f"Redis refuses a command ({text})."


#: A Redis that is full refuses whatever may take memory as a script's first write, and nothing after that one. What
#: these scripts write lets mails leave the queue, which is what frees memory.
#: https://redis.io/docs/latest/develop/programmability/eval-intro/
_EVEN_IF_FULL = "redis.call('DEL', KEYS[1] .. ':none')\n"


def script(*names: str) -> str:
    """The text of lua/….lua; where there are several, those in front hold functions that the last one uses. Without the
    comments, which each process and Redis would hold."""
    texts = (files("worker").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8") for name in names)
    lines = (line for text in texts for line in map(str.strip, text.splitlines()) if not line.startswith("--"))
    return _EVEN_IF_FULL + (_id_names() if "ids" in names else "") + "".join(f"{line}\n" for line in lines)


def _id_names() -> str:
    """For lua/ids.lua."""
    names = field_names()
    lists = {
        "CAMPAIGN": names.of("campaignId"),
        "SUBSCRIBER": names.of("subscriberId"),
        "RECIPIENT": names.of("to"),
        "TEXT": names.texts,
        "CONTENT": names.contents,
    }
    own = {"CAMPAIGN": len(names.own("campaignId")), "SUBSCRIBER": len(names.own("subscriberId"))}
    no_wrappers = ", ".join(f"[{name!r}] = true" for name in sorted(names.no_wrappers))
    lines = [f"local NO_WRAPPERS = {{ {no_wrappers} }}\n"]
    lines += (f"local OWN_{name}_NAMES = {number}\n" for name, number in own.items())
    lines += (f"local {name}_NAMES = {{ {', '.join(map(repr, spellings))} }}\n" for name, spellings in lists.items())
    return "".join(lines)
