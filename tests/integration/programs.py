"""`mail-worker` commands, run as a user or supervisord runs them."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND = Path(sys.executable).parent / "mail-worker"
#: For things that happen within a second on a quiet machine.
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Program:
    """A program that is running, with its log."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def wait_for(self, words: str) -> None:
        """Waits until the log holds `words`."""
        wait_until(lambda: words in self.text() or self.process.poll() is not None)
        assert words in self.text()

    def kill(self) -> None:
        """SIGKILL: what the kernel does when memory runs out."""
        self.process.kill()
        self.process.wait(timeout=10)

    def stop(self) -> int:
        """One SIGTERM, as supervisord does it; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=PATIENCE_SECONDS)


class Programs:
    """Starts programs and remembers them."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self._directory = directory
        self._environment = environment
        self._programs: list[Program] = []
        self._outputs: list[str] = []

    def start(self, *words: str, module: str = "", **changes: str) -> Program:
        """Starts a program that stays, such as `run`; `changes` go into its environment. `module` stands in for the
        command."""
        log = self._directory / f"{len(self._programs)}-{words[0]}.log"
        with log.open("wb") as stream:
            command = [sys.executable, "-m", module] if module else [COMMAND]
            process = subprocess.Popen(
                [*command, *words], env={**self._environment, **changes}, stdout=stream, stderr=subprocess.STDOUT
            )
        program = Program(process, log)
        self._programs.append(program)
        return program

    def run(self, *words: str, **changes: str) -> tuple[int, str]:
        """Runs a command to its end; returns its exit code and all that it printed."""
        done = subprocess.run(
            [COMMAND, *words],
            env={**self._environment, **changes},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        self._outputs.append(done.stdout)
        return done.returncode, done.stdout

    def end(self) -> None:
        """Ends what still runs."""
        for program in self._programs:
            if program.process.poll() is None:
                program.process.terminate()
        for program in self._programs:
            try:
                program.process.wait(timeout=PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                program.kill()

    def printed(self) -> str:
        """All that any of them printed."""
        return "\n".join([*self._outputs, *(program.text() for program in self._programs)])


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    """Waits until `condition` holds, or fails the test."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s"
        time.sleep(0.1)


def read_jobs(path: Path) -> list[dict[str, Any]]:
    """The jobs of a file that `make_campaign` has written."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
