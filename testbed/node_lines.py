"""The programs in testbed/bullmq that answer each line of JSON with one."""

import json
import subprocess
from types import TracebackType
from typing import Any, Self

from testbed.app import NODE, ensure_node_modules
from testbed.errors import TestbedError


class NodeLines:
    """Such a program, until the block ends."""

    def __init__(self, script: str) -> None:
        ensure_node_modules()
        self._script = script
        self._process = subprocess.Popen(
            ["node", str(NODE / script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # It ends with its standard input.
        self._process.communicate(timeout=10)

    def ask(self, question: object) -> Any:
        """The program's answer.

        Raises:
            TestbedError: with the program's words.
        """
        if self._process.stdin is None or self._process.stdout is None:
            raise TestbedError(f"{self._script} has no standard input or output.")
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline() or '{"error": "it has ended"}')
        if "error" in answer:
            raise TestbedError(f"{self._script}: {answer['error']}")
        return answer["ok"]
