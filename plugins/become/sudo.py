"""Ansible's own sudo plugin, which understands sudo-rs too: Ubuntu has that since 25.10.

sudo-rs shows a prompt that it's given in brackets, before PAM's own: `[sudo: PROMPT] Password: `. ansible-core looks
for PROMPT at the beginning of a line (https://github.com/ansible/ansible/issues/85837). The remedy that 2.19, the last
one for Python 3.11, got in between was reverted.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import ansible.plugins.become


def _ansibles_own() -> Any:
    """By its path: under its name Ansible has loaded this file."""
    path = Path(ansible.plugins.become.__file__).with_name("sudo.py")
    spec = importlib.util.spec_from_file_location("ansibles_own_sudo", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} can't be loaded.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_own = _ansibles_own()
#: Ansible reads the options from here.
DOCUMENTATION: str = _own.DOCUMENTATION
_AnsiblesOwn: Any = _own.BecomeModule


class BecomeModule(_AnsiblesOwn):  # type: ignore[misc] # Ansible has no types.
    """What differs with sudo-rs: the prompt, and its words for a wrong password and a missing one."""

    fail = (*_AnsiblesOwn.fail, "Authentication failed, try again.", "ncorrect authentication attempt")
    missing = (*_AnsiblesOwn.missing, "sudo: interactive authentication is required")

    def check_password_prompt(self, b_output: bytes) -> bool:
        """Whether one of the two asks for the password, the rest of its line being there too: sent before PAM asks, the
        password might be thrown away."""
        if super().check_password_prompt(b_output):
            return True
        if not self.prompt:
            return False
        prompt = re.escape(self.prompt.strip().encode())
        return re.search(rb"(?m)^\s*\[sudo: " + prompt + rb"\s*\]\s*\S", b_output) is not None

    def strip_become_prompt(self, data: bytes) -> bytes:
        """With the brackets and PAM's own words, up to the colon that ends them in each language."""
        stripped: bytes = super().strip_become_prompt(data)
        return re.sub(rb"^\]\s*[^:\r\n]*:\s*", b"", stripped, count=1) if stripped != data else data
