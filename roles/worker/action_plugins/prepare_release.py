"""Lets a host build and check a release, under the lock of this run of ansible-playbook; the lock of a dead run of this
machine's user is taken over."""

from __future__ import annotations

import base64
import getpass
import hashlib
import json
import os
import shlex
import socket
from typing import Any

from ansible.plugins.action import ActionBase

_HELD = "held by "
_OTHER_COMMAND = 87
_SETTINGS = ("environment", "programs", "wheel_name", "wheel")


class ActionModule(ActionBase):
    """Arguments: command, the path of the host's; packed, what it should be, in Base64; release; wheel, in Base64, and
    wheel_name; wheelhouse, a directory there, or ""; index, a package index's URL, or ""; environment and programs,
    contents; why, the reason that others are told; take_over, true for any other run's lock."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Returns who, run and copied (whether the command was another) beside what the command printed."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        who = f"{getpass.getuser()}@{socket.gethostname()}"
        # An action runs in a child of ansible-playbook.
        run = f"{who}:{os.getppid()}"
        given = self._task.args
        command = [given["command"], f"--by={who}", "prepare", given["release"], "--group=mailworker"]
        command += [f"--run={run}", f"--why={given['why']}"]
        if given["wheelhouse"]:
            command.append(f"--wheelhouse={given['wheelhouse']}")
        elif given["index"]:
            command.append(f"--index={given['index']}")
        if given["take_over"]:
            command.append("--take-over=any")
        answer = self._say(command)
        copied = answer["rc"] == _OTHER_COMMAND
        if copied:
            file = {"path": given["command"], "content": given["packed"], "encoding": "base64", "mode": "0755"}
            written = self._host_files([file], task_vars)
            if written.get("failed"):
                return {**result, "rc": 1, "stdout_lines": [], "stderr_lines": [], "msg": written["msg"]}
            answer = self._say(command)
        held = next((line for line in answer["stdout_lines"] if line.startswith(_HELD)), "")
        if answer["rc"] and not given["take_over"] and is_dead(held.removeprefix(_HELD), who):
            answer = self._say([*command, f"--take-over={held.removeprefix(_HELD)}"])
        return {**result, **answer, "who": who, "run": run, "copied": copied}

    def _host_files(self, files: list[dict[str, str]], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        task = self._task.copy()
        task.args = {"files": files}
        action = self._shared_loader_obj.action_loader.get(
            "host_files",
            task=task,
            connection=self._connection,
            play_context=self._play_context,
            loader=self._loader,
            templar=self._templar,
            shared_loader_obj=self._shared_loader_obj,
        )
        written: dict[str, Any] = action.run(task_vars=task_vars)
        return written

    def _say(self, command: list[str]) -> dict[str, Any]:
        """Without a module, which costs a small host as much as the command; by standard input, for the secrets."""
        digest = hashlib.sha256(base64.b64decode(self._task.args["packed"])).hexdigest()
        expected = shlex.quote(f"{digest}  {command[0]}")
        line = (
            # Read to its end: ssh takes a broken pipe for a broken connection.
            f"echo {expected} | sha256sum --check --status 2>/dev/null || {{ cat >/dev/null; exit {_OTHER_COMMAND}; }};"
            f" exec {shlex.join(command)}"
        )
        settings = json.dumps({name: self._task.args[name] for name in _SETTINGS})
        answer: dict[str, Any] = self._low_level_execute_command(line, in_data=settings.encode())
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
