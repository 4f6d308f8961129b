"""`mail-worker healthy`, a container's health check: whether its process is heard of in Redis."""

import os
from collections.abc import Sequence

from worker.queue.processes import Process


def judge(living: Sequence[Process], host_name: str, now: float) -> tuple[bool, str]:
    """Whether one of the `living` processes is this host's, and a sentence about it.

    A container has a host name of its own, and so it's its only process; where several share their host's name,
    SUPERVISOR_PROCESS_NAME tells them apart.
    """
    program = os.environ.get("SUPERVISOR_PROCESS_NAME", "")
    own = f"{host_name}/{program}"
    mine = [process for process in living if process.name == own or (not program and process.name.startswith(own))]
    if not mine:
        return False, f"{own} isn't heard of in Redis: its log says why."
    last = max(mine, key=lambda process: process.seen_at)
    return True, f"{last.name}: heard of {max(now - last.seen_at, 0):.0f} s ago"
