"""A second Redis beside an instance's own, which follows it; and failovers between the two, after which what was the
primary lives on as a replica. Nothing that was confirmed is lost by one."""

import contextlib
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import redis

from testbed.errors import TestbedError
from testbed.podman import podman
from testbed.services import Services

PORTS = (6379, 6390)
PATIENCE_SECONDS = 30.0
_SOURCE, _LIBRARY = "/usr/local/lib/testbed/clock_ahead.c", "/run/clock_ahead.so"


class RedisPair:
    """The two, until the block ends; the instance's own is the primary then, as before."""

    def __init__(self, services: Services, *, ahead_seconds: int = 0) -> None:
        """
        Args:
            ahead_seconds: by which the second one's clock is ahead.
        """
        self._services = services
        self._ahead_seconds = ahead_seconds
        password = services.redis_password
        self._clients = [redis.Redis(host=services.address, port=port, password=password) for port in PORTS]
        self._primary = 0

    @property
    def client(self) -> "redis.Redis":
        """Of who is the primary."""
        return self._clients[self._primary]

    @property
    def address(self) -> tuple[str, int]:
        """The primary's."""
        return self._services.address, PORTS[self._primary]

    def __enter__(self) -> Self:
        first, second = self._clients
        password = self._services.redis_password
        self._prepare(first)
        # Whoever comes here again has one that an end by force has left.
        _shut_down(second)
        clock = []
        if self._ahead_seconds:
            podman("exec", self._services.container, "tcc", "-shared", "-nostdlib", "-o", _LIBRARY, _SOURCE)
            clock = ["env", f"LD_PRELOAD={_LIBRARY}", f"CLOCK_AHEAD={self._ahead_seconds}"]
        podman(
            *("exec", self._services.container, *clock, "redis-server", "--port", str(PORTS[1]), "--bind", "0.0.0.0"),
            *("--requirepass", password, "--masterauth", password, "--save", "", "--daemonize", "yes"),
            *("--replicaof", f"127.0.0.1 {PORTS[0]}", "--dir", "/tmp"),
        )
        self._wait_for(second, lambda replication: replication.get("master_link_status") == "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        first, second = self._clients
        first.replicaof("NO", "ONE")
        first.config_set("masterauth", "")
        _shut_down(second)
        for each in self._clients:
            each.close()

    def fail_over(self) -> None:
        """The replica becomes the primary, once it has everything, and the primary its replica.

        Raises:
            TestbedError: it doesn't.
        """
        old, new = self._primary, 1 - self._primary
        # It may have been restarted meanwhile: then its replica has to come into step again.
        self._prepare(self._clients[old])
        self._wait_for(self._clients[old], lambda replication: replication.get("slave0", {}).get("state") == "online")
        # Writes wait meanwhile, as at a managed Redis: what one forgets isn't the workers' matter.
        self._clients[old].execute_command("FAILOVER", "TO", "127.0.0.1", PORTS[new], "TIMEOUT", 10_000)  # type: ignore[no-untyped-call]
        self._wait_for(self._clients[new], lambda replication: replication["role"] == "master")
        self._wait_for(self._clients[old], lambda replication: replication["role"] == "slave")
        self._primary = new

    def _prepare(self, client: "redis.Redis") -> None:
        client.config_set("masterauth", self._services.redis_password)
        client.config_set("repl-diskless-sync-delay", 0)

    def _wait_for(self, client: "redis.Redis", condition: Callable[[dict[str, Any]], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        found: Any = None
        while time.monotonic() < deadline:
            # One that starts again loads its data first.
            with contextlib.suppress(redis.RedisError):
                found = client.info("replication")
                if condition(found):
                    return
            time.sleep(0.05)
        raise TestbedError(f"The two Redis don't get in step within {PATIENCE_SECONDS:.0f} s: {found}")


def _shut_down(client: "redis.Redis") -> None:
    try:
        client.shutdown(nosave=True)
    except redis.ConnectionError:
        return
