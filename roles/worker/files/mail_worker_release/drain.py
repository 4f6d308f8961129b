"""Draining a host: its workers finish what they are sending, give the rest back, and stay away, after a reboot too. Its
recorder goes on, so that the last results reach the database."""

import time

from mail_worker_release.errors import ReleaseError
from mail_worker_release.gate import last_lines
from mail_worker_release.host import Host, read_json, write_json
from mail_worker_release.records import now, record
from mail_worker_release.supervisor import WORKERS, Supervisor, is_up
from mail_worker_release.switch import write_supervisor_programs

UP_WITHIN_SECONDS = 20.0


def drain(host: Host, supervisor: Supervisor, by: str, why: str) -> bool:
    """Returns whether it wasn't drained before."""
    new = read_json(host.drained) is None
    if new:
        write_json(host.drained, {"by": by, "why": why, "since": now()})
    if host.programs.exists():
        write_supervisor_programs(host)
        supervisor.read_programs()
    workers = [process.full_name for process in supervisor.processes() if process.group == WORKERS and process.running]
    supervisor.stop_all(workers)
    if new:
        record(host, f"{by}: drained ({why})")
    return new or bool(workers)


def resume(host: Host, supervisor: Supervisor, by: str) -> bool:
    """Returns whether it was drained before.

    Raises:
        ReleaseError: a worker doesn't start.
    """
    was_drained = host.drained.exists()
    host.drained.unlink(missing_ok=True)
    if host.programs.exists():
        write_supervisor_programs(host)
        supervisor.read_programs()
    down = [process.full_name for process in supervisor.processes() if not is_up(process)]
    supervisor.start_all(down)
    wait_until_up(host, supervisor)
    if was_drained:
        record(host, f"{by}: resumed")
    return was_drained or bool(down)


def wait_until_up(host: Host, supervisor: Supervisor) -> None:
    """Waits until each process that should run does.

    Raises:
        ReleaseError: one doesn't; with the end of its log.
    """
    deadline = time.monotonic() + UP_WITHIN_SECONDS
    while True:
        drained = host.drained.exists()
        down = [
            process
            for process in supervisor.processes()
            if not is_up(process) and not (drained and process.group == WORKERS)
        ]
        if not down:
            return
        if time.monotonic() > deadline:
            ends = " / ".join(last_lines(host, down[0].full_name)[-3:])
            names = ", ".join(f"{process.full_name} is {process.state}" for process in down)
            raise ReleaseError(f"{names}; the log ends with: {ends or 'nothing'}.")
        time.sleep(0.3)
