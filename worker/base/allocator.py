"""How much freed memory glibc keeps."""

import ctypes
import sys

#: malloc.h's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD.
_THRESHOLDS = (-1, -3)
#: glibc's own at a process's start.
_BYTES = 128 * 1024


def give_memory_back() -> None:
    """Lets glibc for ever give big blocks pages of their own, and free memory back to the system. By itself it raises
    the sizes from which on it does so at the first big block that is freed, such as a connection's buffer, and the next
    ones then part the heap: 4 MB of a worker with 200 connections. Without glibc it does nothing.
    https://man7.org/linux/man-pages/man3/mallopt.3.html"""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        for threshold in _THRESHOLDS:
            library.mallopt(threshold, _BYTES)
