"""How the fleet and the app reach Redis and the SMTP server while things break: by proxies, behind which Redis fails
over and the network delays and cuts. Whoever judges goes there directly."""

from types import TracebackType
from typing import Self

import redis

from benchmarks.bench import SINK_PORT, Bench
from benchmarks.chaotic_network import TO_REDIS, TO_SMTP, ChaoticNetwork
from testbed.redis_pair import RedisPair
from testbed.tcp_proxy import Proxy

#: Where the sink listens; the workers know the proxy's.
SINK_BEHIND_PORT = 4465


class Ways:
    """Until the block ends."""

    def __init__(self, setup: Bench, *, clock_ahead_seconds: int, strike_every: float, seed: int) -> None:
        """
        Args:
            clock_ahead_seconds: by which the second Redis's clock is ahead: a failover is a step of the clock, too.
            strike_every: after about so many seconds the network strikes again, on each of the fleet's two ways.
        """
        self._password = setup.services.redis_password
        self._pair = RedisPair(setup.services, ahead_seconds=clock_ahead_seconds)
        self._networks = {
            "Redis": ChaoticNetwork(TO_REDIS, strike_every, seed),
            "SMTP": ChaoticNetwork(TO_SMTP, strike_every, seed + 1),
        }
        self._proxies: list[Proxy] = []

    def __enter__(self) -> Self:
        self._pair.__enter__()
        self._fleet = Proxy(*self._pair.address, treat=self._networks["Redis"].treat, keep=False)
        # The app and Node's workers aren't who is judged.
        self._app = Proxy(*self._pair.address, keep=False)
        smtp = Proxy("127.0.0.1", SINK_BEHIND_PORT, own_port=SINK_PORT, treat=self._networks["SMTP"].treat, keep=False)
        self._proxies = [self._fleet, self._app, smtp]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for proxy in self._proxies:
            proxy.stop()
        self._pair.__exit__(kind, error, trace)

    @property
    def redis_url(self) -> str:
        """For the fleet."""
        return f"redis://default:{self._password}@127.0.0.1:{self._fleet.port}/0"

    @property
    def app_redis_url(self) -> str:
        """For the app and Node's workers."""
        return f"redis://default:{self._password}@127.0.0.1:{self._app.port}/0"

    @property
    def client(self) -> "redis.Redis":
        """For the harness: of whichever Redis is the primary."""
        return self._pair.client

    @property
    def struck(self) -> str:
        """What the network did."""
        return "; ".join(f"{name}: {dict(network.struck)}" for name, network in self._networks.items())

    def calm(self, calm: bool) -> None:
        """Whether the network lets everything pass."""
        for network in self._networks.values():
            network.calm = calm

    def fail_over(self) -> None:
        """The other Redis becomes the primary. The fleet's connections to the old one stay, and are told READONLY."""
        # The app and Node's workers are away meanwhile. Told READONLY, Node leaves a job that it has sent as it is, and
        # sends it again once its lock has ended, which is nobody's promise; and it doesn't leave a replica by itself.
        self._app.target = None
        self._app.cut_all()
        self._pair.fail_over()
        for proxy in (self._fleet, self._app):
            proxy.target = self._pair.address
