"""The few facts that a deploy needs, by one shell command: setup takes a small host seconds."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

#: Named as setup names them (https://docs.ansible.com/ansible/latest/playbook_guide/playbooks_vars_facts.html).
_COMMANDS = {
    "memtotal_mb": "awk '/^MemTotal:/ {print int($2 / 1024)}' /proc/meminfo",
    "architecture": "uname -m",
    "hostname": "uname -n | cut -d. -f1",
    "python_version": "python3 -c 'import platform; print(platform.python_version())'",
    # Not setup's: whether the role container has been at work; and whether an upgrade of the system has brought a
    # Python that supervisor wasn't installed for.
    "worker_containers": "test ! -e /etc/systemd/system/mail-worker.target; echo $?",
    "worker_python_replaced": (
        "test ! -e /opt/supervisor/venv -o"
        " -e /opt/supervisor/venv/lib/$(python3 -c 'import sys; print(\"python%d.%d\" % sys.version_info[:2])')"
        "/site-packages/supervisor; echo $?"
    ),
}


class ActionModule(ActionBase):
    """Takes no arguments."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Returns the facts."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        said = self._low_level_execute_command("; ".join(_COMMANDS.values()), sudoable=False)
        lines = said["stdout"].splitlines()
        if said["rc"] or len(lines) != len(_COMMANDS) or not lines[0].isdigit():
            host = (task_vars or {}).get("inventory_hostname", "The host")
            sentence = (
                f"{host} doesn't tell its RAM, architecture, name and Python: /proc/meminfo, uname or python3 fails"
            )
            return {
                **result,
                "failed": True,
                "msg": f"{sentence} ({said['stdout']!r}, {said['stderr']!r}): mend it there.",
            }
        facts: dict[str, Any] = dict(zip(_COMMANDS, lines, strict=True))
        facts |= {"memtotal_mb": int(lines[0])}
        facts |= {name: facts[name] == "1" for name in ("worker_containers", "worker_python_replaced")}
        return {**result, "ansible_facts": facts}
