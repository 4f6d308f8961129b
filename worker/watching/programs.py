"""What supervisord says of a host's programs, by its socket: it tells each that it starts where that is."""

import http.client
import os
import socket
import xmlrpc.client
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

TIMEOUT_SECONDS = 5.0
#: So long restarts are remembered.
REMEMBERED_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Program:
    """A process as supervisord has it: `state` is its word, such as RUNNING or FATAL, `said` what it says about that.
    `started_at` is in seconds since 1970."""

    name: str
    state: str
    started_at: float
    said: str

    @property
    def is_running(self) -> bool:
        return self.state in ("RUNNING", "STARTING")


def look_at_programs() -> list[Program]:
    """All of them; none where no supervisord has started this process.

    Raises:
        OSError, xmlrpc.client.Error: it doesn't answer.
    """
    url = os.environ.get("SUPERVISOR_SERVER_URL", "")
    if not url.startswith("unix://"):
        return []
    server = xmlrpc.client.ServerProxy("http://supervisor", transport=_Transport(url.removeprefix("unix://")))
    found: Any = server.supervisor.getAllProcessInfo()
    return [Program(info["name"], info["statename"], float(info["start"]), info["spawnerr"]) for info in found]


@dataclass(slots=True)
class Restarts:
    """Counts starts of programs that were there before. A deploy's and an operator's look like any other."""

    _started_at: dict[str, float] = field(default_factory=dict)
    _seen: dict[str, deque[float]] = field(default_factory=dict)

    def see(self, programs: Iterable[Program], now: float) -> None:
        """Takes a look's result in."""
        for program in programs:
            before = self._started_at.get(program.name)
            if before is not None and program.started_at > before:
                self._seen.setdefault(program.name, deque()).append(program.started_at)
            self._started_at[program.name] = program.started_at
        for times in self._seen.values():
            while times and now - times[0] > REMEMBERED_SECONDS:
                times.popleft()

    def within(self, seconds: float, now: float) -> dict[str, int]:
        """How often each was started so lately; only those that were."""
        counted = {name: sum(now - at <= seconds for at in times) for name, times in self._seen.items()}
        return {name: number for name, number in counted.items() if number}


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("supervisor", timeout=TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_SECONDS)
        self.sock.connect(self._path)


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> _Connection:
        return _Connection(self._path)
