"""What a host tells about itself. Within the sandbox of roles/supervisor nothing of /proc but the processes' own can be
read, and no clock be asked; so these are found out in other ways."""

import ctypes
import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from worker.queue.processes import read_told
from worker.watching.programs import Program

#: Where the worker writes: its logs.
LOG_DIRECTORY = Path("/var/log/mail-worker")
#: unattended-upgrades and apt leave it, until the next start.
REBOOT_NEEDED = Path("/run/reboot-required")
#: Units that failed when they ran last, each by a file (roles/hardening/tasks/failures.yml).
FAILED_UNITS = Path("/run/mail-worker/failed")
_NODES = Path("/sys/devices/system/node")
_TIMESYNC = Path("/run/systemd/timesync")
_CHRONY = Path("/usr/bin/chronyc")
_LOAD_SCALE = 65536.0


@dataclass(frozen=True, slots=True)
class Host:
    """Times are in seconds since 1970, memory and disk in MB; `disk` is the file system of the worker's logs. What
    isn't known is None. `restarts` are the programs' starts in the last hour, whoever ordered them."""

    name: str
    at: float
    version: str
    booted_at: float
    ram_mb: int
    available_mb: int | None
    load: float
    cores: int
    disk_mb: int
    disk_free_mb: int
    #: Whether something keeps the clock right.
    clock_kept: bool | None
    reboot_needed: bool
    #: Of supervisord, as it has them; none where it isn't there.
    programs: int
    running: int
    restarts: int

    def as_json(self) -> str:
        """One line for Redis."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, line: str | bytes) -> "Host | None":
        """What `as_json` wrote; None if it's nothing of ours, which hides no other host."""
        return read_told(cls, line)


@dataclass(frozen=True, slots=True)
class Broker:
    """What a broker tells about itself: `at` in seconds since 1970, its data's file system in MB, and units of systemd
    that failed when they ran last."""

    name: str
    at: float
    disk_mb: int
    disk_free_mb: int
    reboot_needed: bool
    units: tuple[str, ...]

    @classmethod
    def read(cls, name: str, line: str | bytes) -> "Broker":
        """From Redis.

        Raises:
            ValueError, TypeError, LookupError: it isn't that.
        """
        told = json.loads(line)
        return cls(
            name=name,
            at=float(told["at"]),
            disk_mb=int(told["disk_mb"]),
            disk_free_mb=int(told["disk_free_mb"]),
            reboot_needed=bool(told["reboot_needed"]),
            units=tuple(map(str, told["units"])),
        )


def look_at_host(name: str, version: str, now: float, programs: Sequence[Program], restarts: int) -> Host:
    """Describes the host that this process runs on."""
    system = _system()
    directory = LOG_DIRECTORY if LOG_DIRECTORY.is_dir() else Path("/")
    disk = shutil.disk_usage(directory)
    return Host(
        name=name,
        at=round(now, 1),
        version=version,
        booted_at=round(now - system.uptime, 1),
        ram_mb=system.totalram * system.mem_unit // 1_000_000,
        available_mb=_available_mb(),
        load=round(system.loads[0] / _LOAD_SCALE, 2),
        cores=os.cpu_count() or 1,
        disk_mb=disk.total // 1_000_000,
        disk_free_mb=disk.free // 1_000_000,
        clock_kept=_clock_kept(),
        reboot_needed=REBOOT_NEEDED.exists(),
        programs=len(programs),
        running=sum(program.is_running for program in programs),
        restarts=restarts,
    )


def failed_units() -> list[str]:
    """Units of systemd that failed when they ran last (docs/alerts.md)."""
    return sorted(path.name for path in FAILED_UNITS.iterdir()) if FAILED_UNITS.is_dir() else []


class _Sysinfo(ctypes.Structure):
    """sysinfo(2)"""

    _fields_ = (
        ("uptime", ctypes.c_long),
        ("loads", ctypes.c_ulong * 3),
        ("totalram", ctypes.c_ulong),
        ("freeram", ctypes.c_ulong),
        ("sharedram", ctypes.c_ulong),
        ("bufferram", ctypes.c_ulong),
        ("totalswap", ctypes.c_ulong),
        ("freeswap", ctypes.c_ulong),
        ("procs", ctypes.c_ushort),
        ("pad", ctypes.c_ushort),
        ("totalhigh", ctypes.c_ulong),
        ("freehigh", ctypes.c_ulong),
        ("mem_unit", ctypes.c_uint),
        ("more", ctypes.c_char * 64),
    )
    uptime: int
    loads: "ctypes.Array[ctypes.c_ulong]"
    totalram: int
    mem_unit: int


def _system() -> _Sysinfo:
    found = _Sysinfo()
    if ctypes.CDLL(None, use_errno=True).sysinfo(ctypes.byref(found)):
        raise OSError(ctypes.get_errno(), "sysinfo")
    return found


def _available_mb() -> int | None:
    """As MemAvailable has it, about: what is free, and what the kernel only keeps as long as nobody wants the room."""
    texts = [path.read_text(encoding="ascii") for path in _NODES.glob("node[0-9]*/meminfo")]
    kilobytes = 0
    for text in texts:
        values = dict(re.findall(r"(\S+): +(\d+) kB", text))
        kilobytes += sum(int(values.get(name, 0)) for name in ("MemFree", "Active(file)", "Inactive(file)"))
        kilobytes += int(values.get("SReclaimable", 0))
    return kilobytes * 1024 // 1_000_000 if texts else None


def _clock_kept() -> bool | None:
    """Whether chrony or systemd-timesyncd keeps the clock right; None where neither is there, as in a container."""
    if _CHRONY.exists():
        answer = subprocess.run(
            [_CHRONY, "-n", "-c", "tracking"], capture_output=True, text=True, timeout=10, check=False
        )
        return answer.returncode == 0 and not answer.stdout.strip().endswith("Not synchronised")
    return (_TIMESYNC / "synchronized").exists() if _TIMESYNC.is_dir() else None
