"""Gives the module the worker's package for reading jobs, from this checkout: the host has none yet."""

from __future__ import annotations

import base64
import io
import zipfile
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

WORKER = Path(__file__).resolve().parents[3] / "worker"


class ActionModule(ActionBase):
    """See the module's documentation."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Runs the module with it."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = {**self._task.args, "job_package": package_for_jobs()}
        result.update(self._execute_module(module_args=arguments, task_vars=task_vars))
        return result


def package_for_jobs() -> str:
    """`worker/errors.py` and `worker/mail` as a zip file in base64; empty where there's no such checkout."""
    sources = [WORKER / "errors.py", *sorted((WORKER / "mail").glob("*.py"))]
    if not all(source.is_file() for source in sources):
        return ""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as package:
        # Its own asks what version is installed, and none is.
        package.writestr("worker/__init__.py", "")
        for source in sources:
            package.write(source, source.relative_to(WORKER.parent))
    return base64.b64encode(data.getvalue()).decode()
