"""Runs the module between two looks at the controller's clock: connecting alone may take seconds."""

from __future__ import annotations

import time
from typing import Any

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """See the module's documentation."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Adds the verdict about the clock."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        become = self._connection.become
        # Where Ansible knows none, it has just become root without one.
        asks = become is not None and bool(become.get_option("become_pass", playcontext=self._play_context))
        before = time.time()
        result.update(self._execute_module(module_args={**self._task.args, "sudo_asks": asks}, task_vars=task_vars))
        after = time.time()
        if "time" in result:
            given = self._task.args
            allowed = float(given["max_clock_skew_seconds"])
            result["verdicts"].append(clock_verdict(given["host"], before, result.pop("time"), after, allowed))
        return result


def clock_verdict(host: str, before: float, at_host: float, after: float, allowed: float) -> dict[str, str]:
    """The host's time was read at some moment between these two of the controller's: so much is certainly wrong."""
    ahead, behind = at_host - after, before - at_host
    skew = max(ahead, behind)
    if skew <= allowed:
        return {"level": "ok", "about": "clock", "sentence": f"{host}'s clock is right."}
    sentence = (
        f"{host}'s clock is {skew:.0f} s {'ahead of' if ahead > behind else 'behind'} this machine's (allowed are"
        f" {allowed:g}, preflight_max_clock_skew_seconds), which breaks TLS and logins: set the wrong one right, as"
        " with timedatectl set-ntp true."
    )
    return {"level": "failure", "about": "clock", "sentence": sentence}
