"""Whether a release that was just started proves itself: it runs on, stays small, is heard of, and sends."""

import subprocess
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from mail_worker_release.errors import GateFailed
from mail_worker_release.host import Host
from mail_worker_release.supervisor import Process, Supervisor, is_up

LOOK_EVERY_SECONDS = 0.5
LOG_LINES = 10


@dataclass(frozen=True, slots=True)
class Demands:
    """What a release has to show.

    Args:
        watch_seconds: for so long at the least no process may end.
        verify_seconds: within these `mail-worker verify` must be content; 0: it isn't asked.
        max_rss_mb: a process's memory; 0: any.
        canary: address of a canary mail, "" for none.
    """

    watch_seconds: float
    verify_seconds: float
    max_rss_mb: int
    canary: str = ""


def start(supervisor: Supervisor, host: Host, full_name: str) -> Process:
    """Starts a process, unless it runs, and waits until it has run for a while.

    Raises:
        GateFailed: it doesn't.
    """
    started = supervisor.start(full_name)
    while (process := supervisor.process(full_name)) is not None and process.state == "STARTING":
        time.sleep(LOOK_EVERY_SECONDS)
    if process is None or not is_up(process):
        state = process.state if process else "not there"
        raise GateFailed(f"{full_name} doesn't start: supervisord says {state}.", last_lines(host, full_name))
    if not started:
        # supervisord has started it again, which tells nothing.
        raise GateFailed(f"{full_name} ended soon after its start.", last_lines(host, full_name))
    return process


def prove(supervisor: Supervisor, host: Host, processes: list[Process], demands: Demands) -> list[str]:
    """Watches the processes while the release verifies itself; returns what `mail-worker verify` said.

    Raises:
        GateFailed: with the reason and the last lines of the log.
    """
    watched_until = time.monotonic() + demands.watch_seconds
    verifying = _start_verify(host, processes, demands)
    try:
        while time.monotonic() < watched_until or (verifying is not None and verifying.poll() is None):
            look(supervisor, host, processes, demands.max_rss_mb)
            time.sleep(LOOK_EVERY_SECONDS)
        look(supervisor, host, processes, demands.max_rss_mb)
        if verifying is None:
            return []
        printed = [line for line in verifying.communicate()[0].splitlines() if line.strip()]
    finally:
        if verifying is not None and verifying.poll() is None:
            verifying.kill()
            verifying.wait()
    if verifying.returncode:
        failed = [line.removeprefix("FAIL ").strip() for line in printed if line.startswith("FAIL")]
        name = processes[-1].full_name if processes else ""
        raise GateFailed(
            " ".join(failed) or f"mail-worker verify failed: {' '.join(printed[-1:])}", last_lines(host, name)
        )
    return printed


def look(supervisor: Supervisor, host: Host, processes: list[Process], max_rss_mb: int) -> None:
    """One look: do the same processes still run, and are they small enough?

    Raises:
        GateFailed: no.
    """
    now = {process.full_name: process for process in supervisor.processes()}
    for process in processes:
        found = now.get(process.full_name)
        if found is None or not is_up(found) or found.pid != process.pid:
            state = found.state if found else "gone"
            raise GateFailed(f"{process.full_name} ended and is {state} now.", last_lines(host, process.full_name))
        rss_mb = rss(process.pid)
        if max_rss_mb and rss_mb > max_rss_mb:
            raise GateFailed(
                f"{process.full_name} has {rss_mb} MB of memory, but {max_rss_mb} MB is the most (worker_max_rss_mb).",
                last_lines(host, process.full_name),
            )


def rss(pid: int) -> int:
    """A process's memory in MB, 0 if it's gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmRSS:")), 0)


def last_lines(host: Host, full_name: str) -> list[str]:
    """What a process wrote last."""
    try:
        with (host.logs / f"{full_name.rpartition(':')[2]}.log").open(encoding="utf-8", errors="replace") as file:
            return [line.rstrip() for line in deque(file, maxlen=LOG_LINES)]
    except OSError:
        return []


def _start_verify(host: Host, processes: list[Process], demands: Demands) -> "subprocess.Popen[str] | None":
    if not demands.verify_seconds or not processes:
        return None
    command = host.current / "mail-worker"
    expected = [f"--expect={process.name}={process.pid}" for process in processes]
    canary = [f"--canary={demands.canary}"] if demands.canary else []
    return subprocess.Popen(
        [
            *("timeout", str(demands.verify_seconds + 30), "runuser", "--user=mailworker", "--", "env"),
            f"MAIL_WORKER_ENV_FILE={host.environment}",
            *(str(command), "verify", f"--timeout={demands.verify_seconds}", *expected, *canary),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
