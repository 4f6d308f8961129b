"""An address whose packets vanish, as behind a firewall that drops them, on a port where another one serves."""

import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

NAME = "two-addresses.example"


class BlackHole:
    """`[::1]` swallows what comes to the port: a full queue of connections that nobody accepts drops further ones."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sockets = ExitStack()

    def __enter__(self) -> "BlackHole":
        listening = self._sockets.enter_context(socket.socket(socket.AF_INET6))
        listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(("::1", self._port))
        listening.listen(0)
        for _ in range(4):
            waiting = self._sockets.enter_context(socket.socket(socket.AF_INET6))
            waiting.setblocking(False)
            waiting.connect_ex(("::1", self._port))
        return self

    def __exit__(self, *_: object) -> None:
        self._sockets.close()

    def resolver(self) -> "Callable[..., list[Any]]":
        """A getaddrinfo by which `NAME` has this address first, and 127.0.0.1 second."""
        real = socket.getaddrinfo

        def getaddrinfo(host: Any, *args: Any, **options: Any) -> list[Any]:
            if host not in (NAME, NAME.encode()):
                return list(real(host, *args, **options))
            return [
                (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("::1", self._port, 0, 0)),
                (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", self._port)),
            ]

        return getaddrinfo
