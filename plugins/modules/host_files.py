#!/usr/bin/python
"""What runs on the host for the action plugin of this name, which hands it over. Run as Ansible runs modules, it would
take a small host a second and a half more, each time, to compile ansible.module_utils."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_files
short_description: Writes several of root's files in one go
description:
  - What ansible.builtin.template does for one file, and ansible.builtin.file for one link, for several ones. The
    contents come from the lookup of the template module's name.
  - The host needs its own Python, and nothing of Ansible's.
  - Directories that aren't there yet are made. Of the files that need a validation, none is written unless all pass.
options:
  files:
    description: The files.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Where.
        type: path
        required: true
      content:
        description: What. Either this or O(files[].link).
        type: str
      link:
        description: What it is a symbolic link to; a file of that name goes.
        type: str
      encoding:
        description: How O(files[].content) stands for the file's bytes.
        type: str
        choices: [utf-8, base64]
        default: utf-8
      mode:
        description: Its mode, octal.
        type: str
        default: "0644"
      validate:
        description: A command that must take the file, which it is given in the place of %s, before it's put in place.
        type: str
  before:
    description: A shell command that runs before the first file is written, and not at all if none is to be.
    type: str
author: mail-worker
"""

EXAMPLES = r"""
- name: Write the limits
  host_files:
    files:
      - path: /etc/security/limits.d/90-hardening.conf
        content: "{{ lookup('ansible.builtin.template', 'limits.conf.j2') }}"
      - path: /etc/localtime
        link: /usr/share/zoneinfo/Etc/UTC
"""

RETURN = r"""
written:
  description: The files that weren't there before, or with another content.
  returned: always
  type: list
  elements: str
replaced:
  description: The files that were there before with another content.
  returned: always
  type: list
  elements: str
"""

import base64  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import shlex  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402

TYPE_CHECKING = False  # to import typing takes a small host a while
if TYPE_CHECKING:
    from typing import Any


class RefusedError(Exception):
    """Nothing is written, or no more; in a sentence."""


class _File:
    """What is to stand in a file."""

    def __init__(self, given: dict[str, str | None]) -> None:
        content = given["content"] or ""
        in_base64 = given.get("encoding") == "base64"
        self.path = Path(given["path"] or "")
        self.content = base64.b64decode(content) if in_base64 else content.encode(errors="surrogateescape")
        self.mode = int(given.get("mode") or "0644", 8)
        self.validate = given.get("validate")
        self.before = None if self.path.is_symlink() or not self.path.exists() else self.path.read_bytes()

    def ask_its_owner(self) -> None:
        """Asks the file's owner's parser.

        Raises:
            RefusedError: it doesn't take it.
        """
        if not self.validate:
            return
        with tempfile.NamedTemporaryFile() as candidate:
            candidate.write(self.content)
            candidate.flush()
            words = _run(shlex.split(self.validate % candidate.name))
        if words:
            raise RefusedError(f"{self.path} isn't written, because {self.validate % self.path} refused it: {words}")

    def write(self) -> None:
        """In one step: readers find the old one or the new one."""
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        # No program reads files of such a name.
        handle, name = tempfile.mkstemp(prefix=f".{self.path.name}.", suffix=".new", dir=self.path.parent)
        new = Path(name)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(self.content)
            new.chmod(self.mode)
            new.replace(self.path)
        except BaseException:
            new.unlink()
            raise

    def set_rights(self, *, check: bool) -> bool:
        """Root's, with its mode; returns whether they were others."""
        if not self.path.exists():
            return False
        found = self.path.stat()
        if (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (self.mode, 0, 0):
            return False
        if not check:
            os.chown(self.path, 0, 0)
            self.path.chmod(self.mode)
        return True


def _target(path: Path) -> Path | None:
    return path.readlink() if path.is_symlink() else None


def _run(command: list[str]) -> str:
    """What a command says that fails; else nothing."""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    return "" if done.returncode == 0 else (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"


def _make_link(path: Path, target: Path) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if not (path.parent / target).exists():
        raise RefusedError(f"{path} isn't made a link to {target}, because that doesn't exist.")
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        new = Path(directory) / path.name
        new.symlink_to(target)
        new.replace(path)


def _difference(path: Path, before: bytes, after: bytes) -> dict[str, str]:
    texts = {"before": before.decode(errors="replace"), "after": after.decode(errors="replace")}
    return {**texts, "before_header": str(path), "after_header": str(path)}


def change(given: dict[str, Any]) -> dict[str, Any]:
    """Does what the task says, or with `check` nothing; returns its result.

    Raises:
        RefusedError, OSError: it can't.
    """
    files = [_File(each) for each in given["files"] if each.get("link") is None]
    links = [(Path(each["path"]), Path(each["link"])) for each in given["files"] if each.get("link") is not None]
    written = [file for file in files if file.before != file.content]
    linked = [(path, _target(path), target) for path, target in links if _target(path) != target]
    if not given["check"]:
        for file in written:
            file.ask_its_owner()
        if given.get("before") and (written or linked) and (words := _run(["bash", "-c", given["before"]])):
            raise RefusedError(f"Nothing is written, because what must run before failed: {words}")
        for file in written:
            file.write()
        for path, _, target in linked:
            _make_link(path, target)
    others = [file.set_rights(check=given["check"]) for file in files]
    differences = [_difference(file.path, file.before or b"", file.content) for file in written]
    differences += [_difference(path, bytes(before or b""), bytes(target)) for path, before, target in linked]
    return {
        "changed": bool(written or linked) or any(others),
        "written": [str(file.path) for file in written],
        "replaced": [str(file.path) for file in written if file.before is not None],
        "diff": differences if given["diff"] else [],
    }


def main() -> None:
    """Reads the task as JSON, and prints its result."""
    os.umask(0o022)
    try:
        result = change(json.load(sys.stdin))
    except (RefusedError, OSError) as error:
        result = {"failed": True, "msg": str(error)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
