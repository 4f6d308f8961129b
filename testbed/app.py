"""Plays the web app with the npm package `bullmq`, either major (testbed/bullmq/app.mjs)."""

import fcntl
import itertools
import json
import os
import queue
import shutil
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from testbed.errors import TestbedError

NODE = Path(__file__).parent / "bullmq"
PATIENCE_SECONDS = 60.0

Major = Literal[5, 6]


class AppError(Exception):
    """The npm package raised an error; its message."""


class App:
    """A web app with a queue of its own, until the block ends."""

    def __init__(self, major: Major, redis_url: str, name: str = "mail-queue", prefix: str = "bull") -> None:
        self.major = major
        ensure_node_modules()
        self._numbers = itertools.count(1)
        self._answers: dict[int, queue.Queue[dict[str, Any]]] = {0: queue.Queue()}
        self._process = subprocess.Popen(
            ["node", str(NODE / "app.mjs"), str(major), name, prefix],
            env={**os.environ, "REDIS_URL": redis_url},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()
        self._answer(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the app's connections."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=10)

    def ask(self, op: str, **arguments: Any) -> Any:
        """Does one of the operations in app.mjs, and returns its answer.

        Raises:
            AppError: with the npm package's words.
        """
        return self.wait(self.start(op, **arguments))

    def start(self, op: str, **arguments: Any) -> int:
        """The same without waiting; `wait` takes what it returns."""
        number = next(self._numbers)
        self._answers[number] = queue.Queue()
        if self._process.stdin is None:
            raise TestbedError("The app has no standard input.")
        self._process.stdin.write(json.dumps({"n": number, "op": op, **arguments}) + "\n")
        self._process.stdin.flush()
        return number

    def wait(self, number: int) -> Any:
        """The answer to what was started."""
        return self._answer(number)

    def counts(self, *types: str) -> dict[str, int]:
        """Jobs by state, all or those that are asked for, as the app's own status page counts them."""
        answer: dict[str, int] = self.ask("counts", types=types)
        # BullMQ 5 adds `paused` to `waiting`.
        return {name: number for name, number in answer.items() if not types or name in types}

    def _answer(self, number: int) -> Any:
        try:
            answer = self._answers[number].get(timeout=PATIENCE_SECONDS)
        except queue.Empty:
            raise TestbedError(f"The app has given no answer for {PATIENCE_SECONDS:.0f} s.") from None
        del self._answers[number]
        if "error" in answer:
            raise AppError(answer["error"])
        return answer["ok"]

    def _read(self) -> None:
        for line in self._process.stdout or ():
            answer = json.loads(line)
            if (waiting := self._answers.get(answer["n"])) is not None:
                waiting.put(answer)


def start_node(script: str, *words: str, environment: Mapping[str, str], log: Path) -> "subprocess.Popen[bytes]":
    """Starts one of the programs in testbed/bullmq, such as the old worker; it prints into `log`."""
    ensure_node_modules()
    with log.open("ab") as stream:
        return subprocess.Popen(
            ["node", str(NODE / script), *words],
            env={"PATH": os.environ["PATH"], **environment},
            stdout=stream,
            stderr=subprocess.STDOUT,
        )


def ensure_node_modules() -> None:
    """Installs the locked packages, if they aren't there.

    Raises:
        TestbedError: with what to do.
    """
    if not shutil.which("node") or not shutil.which("npm"):
        raise TestbedError("node or npm is missing: run testbed/bootstrap.sh containers.")
    with (NODE / "package-lock.json").open("rb") as locked:
        # The tests' halves run side by side.
        fcntl.flock(locked, fcntl.LOCK_EX)
        lock, stamp = locked.read(), NODE / "node_modules" / ".lock-of-these"
        if stamp.exists() and stamp.read_bytes() == lock:
            return
        done = subprocess.run(
            ["npm", "ci", "--no-audit", "--no-fund", "--silent"], cwd=NODE, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise TestbedError(f"npm ci failed in {NODE}: {(done.stderr or done.stdout).strip()[-500:]}")
        stamp.write_bytes(lock)
