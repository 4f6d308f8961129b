"""A way to Redis that can lead elsewhere from one moment on, for new connections only, as after a failover by DNS."""

import contextlib
import socket
import threading


class Proxy:
    """Passes bytes on, each connection to whom was the target when it was made, and keeps what each client sent."""

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.sent: list[bytearray] = []
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        """Closes everything."""
        for each in (self._listening, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(self.target)
                self._open += [client, server]
                self.sent.append(bytearray())
                for one, other, copy in ((client, server, self.sent[-1]), (server, client, bytearray())):
                    threading.Thread(target=_pass_on, args=(one, other, copy), daemon=True).start()


def _pass_on(one: socket.socket, other: socket.socket, copy: bytearray) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(65_536):
            copy += data
            other.sendall(data)
    with contextlib.suppress(OSError):
        other.shutdown(socket.SHUT_WR)
