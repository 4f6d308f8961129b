"""Runs a command on a host as ansible.builtin.command does, but without a module, which costs a small host a second."""

from __future__ import annotations

import shlex
from typing import Any

from ansible.plugins.action import ActionBase

#: With something to read, ssh makes no terminal there, which would mix the two outputs.
_NOTHING = b"\n"


class ActionModule(ActionBase):
    """Arguments: argv. Skipped in check mode, unless the task says check_mode: false."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Returns rc, stdout and stderr, each also by lines; rc is 127 where there's no such command."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        if self._task.check_mode:
            return {**result, "skipped": True}
        said = self._low_level_execute_command(shlex.join(self._task.args["argv"]), in_data=_NOTHING)
        return {**result, **said, "failed": said["rc"] != 0, "changed": True}
