"""supervisord on this host, as far as our programs go. docs: http://supervisord.org/api.html"""

import http.client
import math
import time
import xmlrpc.client
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervisor.states import RUNNING_STATES
from supervisor.xmlrpc import Faults, SupervisorTransport

from mail_worker_release.errors import ReleaseError

WORKERS = "mail-worker"
RECORDER = "mail-recorder"
GROUPS = (RECORDER, WORKERS)
#: A small host needs some for the start of Python alone.
ANSWERS_WITHIN_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Process:
    """One process as supervisord sees it; `pid` is 0 while it doesn't run."""

    group: str
    name: str
    pid: int
    state: str
    running: bool

    @property
    def full_name(self) -> str:
        return f"{self.group}:{self.name}"


class Supervisor:
    """Its XML-RPC over the socket. Every method raises ReleaseError when supervisord doesn't answer."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def wait_until_it_answers(self) -> None:
        """After its start, for some seconds."""
        deadline = time.monotonic() + ANSWERS_WITHIN_SECONDS
        while True:
            try:
                self.processes()
            except ReleaseError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
            else:
                return

    def processes(self) -> list[Process]:
        """Our processes, the recorder first."""
        found = [
            Process(each["group"], each["name"], each["pid"], each["statename"], each["state"] in RUNNING_STATES)
            for each in self._call("supervisor.getAllProcessInfo")
            if each["group"] in GROUPS
        ]
        return sorted(found, key=lambda process: process.full_name)

    def process(self, full_name: str) -> Process | None:
        return next((process for process in self.processes() if process.full_name == full_name), None)

    def read_programs(self) -> None:
        """Takes the programs from their file without restarting one: those too many are stopped, new ones start."""
        [[added, changed, removed]] = self._call("supervisor.reloadConfig")
        for group in set(added) & set(GROUPS):
            self._call("supervisor.addProcessGroup", group)
        for group in set(changed) & set(GROUPS):
            wanted = set(self._call("fleet.wantedProcesses", group))
            too_many = [each for each in self.processes() if each.group == group and each.name not in wanted]
            for process in too_many:
                self.stop(process.full_name)
            self._call("fleet.adoptGroup", group)
        for group in set(removed) & set(GROUPS):
            self._call("supervisor.stopProcessGroup", group)
            self._call("supervisor.removeProcessGroup", group)

    def stop(self, full_name: str) -> None:
        """Stops a process and waits for its end, as long as the program's stopwaitsecs."""
        self._call("supervisor.stopProcess", full_name, allowed=(Faults.NOT_RUNNING, Faults.BAD_NAME))

    def start(self, full_name: str) -> bool:
        """Starts a process and waits until it has run for startsecs; False if it ended before."""
        faults = (Faults.ABNORMAL_TERMINATION, Faults.SPAWN_ERROR, Faults.NO_FILE, Faults.NOT_EXECUTABLE)
        answer = self._call("supervisor.startProcess", full_name, allowed=(Faults.ALREADY_STARTED, *faults))
        return answer not in faults

    def stop_all(self, full_names: list[str], kill_after_seconds: float = math.inf) -> list[str]:
        """Tells them all at once, then waits for each; supervisord kills what exceeds its stopwaitsecs.

        Args:
            kill_after_seconds: these may be less than stopwaitsecs.

        Returns:
            Those that had to be killed for that.
        """
        self._multicall("supervisor.stopProcess", [(name, False) for name in full_names])
        kill_at = time.monotonic() + kill_after_seconds
        killed: list[str] = []
        while left := [each.full_name for each in self.processes() if each.full_name in full_names and each.pid]:
            if not killed and time.monotonic() > kill_at:
                killed = left
                self._multicall("supervisor.signalProcess", [(name, "KILL") for name in left])
            time.sleep(0.1)
        return killed

    def start_all(self, full_names: list[str]) -> None:
        """Starts them without waiting."""
        self._multicall("supervisor.startProcess", [(name, False) for name in full_names])

    def _multicall(self, method: str, arguments: list[tuple[object, ...]]) -> None:
        self._call("system.multicall", [{"methodName": method, "params": list(each)} for each in arguments])

    def _call(self, method: str, *arguments: object, allowed: tuple[int, ...] = ()) -> Any:
        # A connection that failed once can't be used again.
        transport = SupervisorTransport(None, None, f"unix://{self._path}")
        target: Any = xmlrpc.client.ServerProxy("http://localhost", transport=transport)
        for part in method.split("."):
            target = getattr(target, part)
        try:
            return target(*arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode in allowed:
                return fault.faultCode
            raise ReleaseError(
                f"supervisord refuses {method}{arguments} ({fault.faultString}): look into /var/log/supervisor."
            ) from None
        except (OSError, http.client.HTTPException, xmlrpc.client.ProtocolError) as error:
            raise ReleaseError(
                f"supervisord doesn't answer at {self._path} ({error}): look at systemctl status supervisor."
            ) from None
        finally:
            transport.close()


def is_up(process: Process) -> bool:
    """Whether it has run for startsecs."""
    return process.state == "RUNNING" and process.pid > 0
