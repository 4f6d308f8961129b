"""`mail-worker` whose minutes are seconds, and that finds what a host tells of itself where a test has put it."""

import ctypes
import os
import socket
import sys
import time
import types
from pathlib import Path

from worker.cli import main
from worker.watching import alerts, host, points, troubles, watcher

CLONE_NEWUTS = 0x04000000

points.MINUTE_SECONDS = 1
setattr(watcher, "MINUTE_SECONDS", 1)  # noqa: B010
alerts.HOLD_SECONDS, alerts.OVER_SECONDS = 0.5, 2.5
troubles.HOST_GONE_SECONDS = 6.0
troubles.CLOCK_GRACE_SECONDS = 0.0
if "CLOCK_BEHIND" in os.environ:
    seconds = float(os.environ["CLOCK_BEHIND"])
    clock = types.SimpleNamespace(time=lambda: time.time() - seconds, monotonic=time.monotonic)
    setattr(watcher, "time", clock)  # noqa: B010
if "HOST_DIRECTORY" in os.environ:
    directory = Path(os.environ["HOST_DIRECTORY"])
    host.LOG_DIRECTORY = directory / "log"
    host.REBOOT_NEEDED = directory / "reboot-required"
    host.FAILED_UNITS = directory / "failed"
    host._CHRONY = directory / "chronyc"
    host._TIMESYNC = directory / "timesync"

if "HOST_NAME" in os.environ:
    # Within a UTS namespace of its own.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUTS):
        raise OSError(ctypes.get_errno(), "unshare")
    socket.sethostname(os.environ["HOST_NAME"])

sys.exit(main())
