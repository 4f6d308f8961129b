"""Starts the peers as processes of their own, and measures them from outside."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Measured:
    """A process that is measured by what the kernel knows of it."""

    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def cpu_seconds(self) -> float:
        """User and system time so far."""
        text = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8")
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    @property
    def rss_mb(self) -> float:
        return self._status("VmRSS")

    @property
    def peak_rss_mb(self) -> float:
        return self._status("VmHWM")

    def wait_for(self, words: str, seconds: float = 60.0) -> None:
        """Waits until it has printed `words`.

        Raises:
            RuntimeError: it didn't, or it ended.
        """
        deadline = time.monotonic() + seconds
        while words not in (text := self.log.read_text(encoding="utf-8", errors="replace")):
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(f"{self.process.args!r} didn't say {words!r}: {text[-2000:]}")
            time.sleep(0.02)

    def stop(self) -> float:
        """Ends it in order; returns the seconds that it took."""
        started = time.monotonic()
        self.process.terminate()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        return time.monotonic() - started

    def _status(self, name: str) -> float:
        for line in Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
        return 0.0


def start(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Measured:
    """Starts a command with its output in `log`."""
    with log.open("wb") as stream:
        process = subprocess.Popen(list(command), env=dict(environment), stdout=stream, stderr=subprocess.STDOUT)
    return Measured(process, log)


def mail_worker(verb: str, checkout: Path | None = None) -> list[str]:
    """The command of this project, or of another checkout of it (after its own `make setup`)."""
    scripts = checkout / ".venv" / "bin" if checkout else Path(sys.executable).parent
    return [str(scripts / "mail-worker"), verb]


def as_on_a_host(directory: Path) -> dict[str, str]:
    """The environment by which roles/worker runs the programs, with their bytecode in `directory`."""
    return {"PYTHONOPTIMIZE": "2", "PYTHONPYCACHEPREFIX": str(directory / "bytecode")}


def keep_bytecode(directory: Path, checkout: Path | None = None) -> None:
    """Writes the bytecode for `as_on_a_host`, as roles/worker does with a release."""
    environment = {**os.environ, **as_on_a_host(directory)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    python = str(checkout / ".venv" / "bin" / "python") if checkout else sys.executable
    subprocess.run([python, "-m", "worker.bytecode"], env=environment, cwd=checkout, check=True)
