"""Lets a host build and check a release, under the lock of this run of ansible-playbook; the lock of a dead run of this
machine's user is taken over."""

from __future__ import annotations

import getpass
import json
import os
import socket
from typing import Any

from ansible.plugins.action import ActionBase

_HELD = "held by "


class ActionModule(ActionBase):
    """Arguments: command, the host's; release; wheel, its path there; wheelhouse, a directory there or ""; environment
    and programs, contents; why, the reason that others are told; take_over, true for any other run's lock."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Returns who and run beside what the command printed."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        who = f"{getpass.getuser()}@{socket.gethostname()}"
        # An action runs in a child of ansible-playbook.
        run = f"{who}:{os.getppid()}"
        given = self._task.args
        command = [given["command"], f"--by={who}", "prepare", given["release"], given["wheel"], "--group=mailworker"]
        command += [f"--run={run}", f"--why={given['why']}"]
        if given["wheelhouse"]:
            command.append(f"--wheelhouse={given['wheelhouse']}")
        settings = json.dumps({name: given[name] for name in ("environment", "programs")})
        if given["take_over"]:
            command.append("--take-over=any")
        answer = self._say(command, settings, task_vars)
        held = next((line for line in answer.get("stdout_lines", []) if line.startswith(_HELD)), "")
        if answer.get("rc") and not given["take_over"] and is_dead(held.removeprefix(_HELD), who):
            answer = self._say([*command, f"--take-over={held.removeprefix(_HELD)}"], settings, task_vars)
        answer.pop("invocation", None)
        result.update(answer, who=who, run=run)
        return result

    def _say(self, command: list[str], given: str, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        # By standard input, for the secrets.
        arguments = {"argv": command, "stdin": given, "_uses_shell": False}
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
