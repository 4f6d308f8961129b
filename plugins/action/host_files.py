"""Hands the program in ../modules/host_files.py to the host's own Python by one command, for which nothing of Ansible's
is needed there."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

_PROGRAM = Path(__file__).parent.parent / "modules" / "host_files.py"
#: Its own text comes first, by its length: what it is to do follows, and shows in no list of processes.
_START = "import sys; exec(sys.stdin.read(int(sys.stdin.readline())))"


class ActionModule(ActionBase):
    """See the module's documentation."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Returns the module's result."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, given = self.validate_argument_spec(
            {
                "files": {
                    "type": "list",
                    "elements": "dict",
                    "required": True,
                    "options": {
                        "path": {"type": "path", "required": True},
                        "content": {"type": "str"},
                        "link": {"type": "str"},
                        "encoding": {"type": "str", "choices": ["utf-8", "base64"], "default": "utf-8"},
                        "mode": {"type": "str", "default": "0644"},
                        "validate": {"type": "str"},
                    },
                    "mutually_exclusive": [("content", "link")],
                    "required_one_of": [("content", "link")],
                },
                "before": {"type": "str"},
            }
        )
        work = {**given, "check": self._task.check_mode, "diff": self._task.diff}
        program = _PROGRAM.read_text(encoding="utf-8")
        python = str((task_vars or {}).get("ansible_python_interpreter", ""))
        command = shlex.join([python if python.startswith("/") else "python3", "-I", "-S", "-c", _START])
        said = self._low_level_execute_command(command, in_data=f"{len(program)}\n{program}{json.dumps(work)}".encode())
        try:
            answer: dict[str, Any] = json.loads(said["stdout"].strip().splitlines()[-1])
        except (IndexError, ValueError):
            words = (said["stderr"] or said["stdout"]).strip().splitlines() or ["it printed nothing"]
            return {**result, "failed": True, "msg": f"The host's Python can't write the files: {words[-1]}"}
        return {**result, **answer}
