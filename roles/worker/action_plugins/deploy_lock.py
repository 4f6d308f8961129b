"""Takes a host's lock for this run of ansible-playbook; that of a dead run of this machine's user is taken over."""

from __future__ import annotations

import getpass
import os
import socket
from typing import Any

from ansible.plugins.action import ActionBase

_COMMAND = "/usr/local/bin/mail-worker-release"
_HELD = "held by "


class ActionModule(ActionBase):
    """Arguments: why, the reason that others are told; take_over, true for any other run's lock."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Returns who and run beside what the command printed."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        who = f"{getpass.getuser()}@{socket.gethostname()}"
        # An action runs in a child of ansible-playbook.
        run = f"{who}:{os.getppid()}"
        arguments = self._task.args
        command = [_COMMAND, f"--by={who}", "lock", "--group=mailworker", f"--run={run}", f"--why={arguments['why']}"]
        answer = self._say([*command, "--take-over=any"] if arguments.get("take_over") else command, task_vars)
        held = next((line for line in answer.get("stdout_lines", []) if line.startswith(_HELD)), "")
        if held and is_dead(held.removeprefix(_HELD), who):
            answer = self._say([*command, f"--take-over={held.removeprefix(_HELD)}"], task_vars)
        result.update(answer, who=who, run=run, changed=False)
        if result.get("failed"):
            result["msg"] = (answer.get("stdout_lines") or [answer.get("msg", "The lock can't be taken.")])[-1]
        return result

    def _say(self, command: list[str], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        arguments = {"argv": command, "_uses_shell": False}
        answer: dict[str, Any] = self._execute_module("ansible.legacy.command", arguments, task_vars=task_vars)
        return answer


def is_dead(run: str, who: str) -> bool:
    """Whether a run was this user's on this machine and has ended."""
    holder, _, pid = run.rpartition(":")
    if holder != who or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
