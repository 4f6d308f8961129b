"""What this process has taken of its host."""

import resource
import time
from pathlib import Path

_PAGE_BYTES = resource.getpagesize()


def resident_mb() -> int:
    """This process's memory that isn't swapped out (proc(5), statm)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * _PAGE_BYTES // 1_000_000


def cpu_seconds() -> float:
    """This process's time on the processors since its start, its own and the kernel's for it."""
    return round(time.process_time(), 1)
