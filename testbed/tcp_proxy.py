"""A way to a server that can lead elsewhere from one moment on, for new connections only, as after a failover by DNS;
and that may delay or cut single connections."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

#: The server's side of a connection that was cut is kept so long for an answer, as by a network that drops packets.
_KEPT_SECONDS = 5.0


class Fate(Enum):
    """What becomes of some bytes that a client sent."""

    PASS = auto()
    #: They come late, and with them the answer.
    STALL = auto()
    #: The connection is cut, and they never arrive.
    CUT_BEFORE = auto()
    #: They arrive, and the connection is cut when their answer has come, which nobody gets.
    CUT_AFTER = auto()
    #: The connection is cut at once, and they arrive when the client has given it up.
    LATE = auto()


@dataclass(frozen=True, slots=True)
class Treatment:
    """A fate, and how long it takes."""

    fate: Fate = Fate.PASS
    seconds: float = 0.0


Treat = Callable[[], Treatment]


def _well() -> Treatment:
    return Treatment()


class Proxy:
    """Passes bytes on, each connection to whom was the target when it was made, and keeps what each client sent."""

    def __init__(self, host: str, port: int, *, own_port: int = 0, treat: Treat = _well, keep: bool = True) -> None:
        """
        Args:
            own_port: on which it listens; 0 for any.
            treat: asked about whatever a client sends.
            keep: what clients sent is kept in `sent`.
        """
        #: None: nobody is let in.
        self.target: tuple[str, int] | None = (host, port)
        self._listening = socket.create_server(("127.0.0.1", own_port))
        self._treat = treat
        self._keep = keep
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self.sent: list[bytearray] = []
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        """Closes everything."""
        _close(self._listening)
        self.cut_all()

    def cut_all(self) -> None:
        """Closes all connections."""
        with self._lock:
            for each in self._open:
                # The thread that reads from it closes it.
                _shut(each, socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        target = self.target
        try:
            server = socket.create_connection(target) if target else None
        except OSError:
            server = None
        if server is None:
            client.close()
            return
        sent = bytearray()
        if self._keep:
            self.sent.append(sent)
        for each in (client, server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._open |= {client, server}
        passage = _Passage(client, server)
        answers = threading.Thread(target=passage.answer, daemon=True)
        answers.start()
        passage.ask(self._treat, sent if self._keep else None)
        answers.join()
        with self._lock:
            self._open -= {client, server}
        _close(client)
        _close(server)


class _Passage:
    """One connection, in its two directions."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._client = client
        self._server = server
        self._cut = threading.Event()
        self._answered = threading.Event()

    def ask(self, treat: Treat, sent: bytearray | None) -> None:
        """Passes on what the client sends, until one of the two ends it."""
        with contextlib.suppress(OSError):
            while data := self._client.recv(65_536):
                if sent is not None:
                    sent += data
                if not self._pass_on(data, treat()):
                    return
        _shut(self._server, socket.SHUT_WR)

    def answer(self) -> None:
        """Passes on what the server sends."""
        with contextlib.suppress(OSError):
            while data := self._server.recv(65_536):
                self._answered.set()
                if not self._cut.is_set():
                    self._client.sendall(data)
        self._answered.set()
        _shut(self._client, socket.SHUT_WR)

    def _pass_on(self, data: bytes, treatment: Treatment) -> bool:
        """False if the connection is cut."""
        fate = treatment.fate
        if fate is Fate.STALL:
            time.sleep(treatment.seconds)
        if fate in (Fate.PASS, Fate.STALL):
            self._server.sendall(data)
            return True
        self._answered.clear()
        self._cut.set()
        if fate is Fate.LATE:
            _shut(self._client, socket.SHUT_RDWR)
            time.sleep(treatment.seconds)
        if fate is not Fate.CUT_BEFORE:
            with contextlib.suppress(OSError):
                self._server.sendall(data)
                self._answered.wait(_KEPT_SECONDS)
        _shut(self._client, socket.SHUT_RDWR)
        _shut(self._server, socket.SHUT_RDWR)
        return False


def _shut(one: socket.socket, how: int) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(how)


def _close(one: socket.socket) -> None:
    _shut(one, socket.SHUT_RDWR)
    one.close()
