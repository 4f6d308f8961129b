#!/usr/bin/python
"""Writes several files in one go: on a small host, each task costs seconds."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_files
short_description: Writes several of root's files in one go
description:
  - What ansible.builtin.template does for one file, and ansible.builtin.file for one link, for several ones. The
    contents come from the lookup of the template module's name.
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
import os  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402


class _Module(AnsibleModule):  # type: ignore[misc]
    def _log_invocation(self) -> None:
        """Keeps the files' contents out of the host's journal."""


def _wanted(content: str, encoding: str) -> bytes:
    return base64.b64decode(content) if encoding == "base64" else content.encode(errors="surrogateescape")


def _current(path: Path) -> bytes | None:
    """What stands in a file of that name; a link is nothing that stays."""
    if path.is_symlink() or not path.exists():
        return None
    return path.read_bytes()


def _candidate(module: AnsibleModule, path: Path, content: bytes, mode: int, validate: str | None) -> str:
    """A temporary file with the content, once its owner's parser has taken it."""
    directory: str = module.tmpdir
    handle, name = tempfile.mkstemp(dir=directory)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    Path(name).chmod(mode)
    if validate:
        code, out, err = module.run_command(validate % name)
        if code != 0:
            module.fail_json(msg=f"{path} isn't written, because {validate % path} refused it: {(err or out).strip()}")
    return name


def _target(path: Path) -> Path | None:
    return path.readlink() if path.is_symlink() else None


def _make_link(module: AnsibleModule, path: Path, target: Path) -> None:
    """In one step: readers find the old one or the new one."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if not (path.parent / target).exists():
        module.fail_json(msg=f"{path} isn't made a link to {target}, because that doesn't exist.")
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        new = Path(directory) / path.name
        new.symlink_to(target)
        new.replace(path)


def _difference(path: Path, before: bytes, after: bytes) -> dict[str, str]:
    texts = {"before": before.decode(errors="replace"), "after": after.decode(errors="replace")}
    return {**texts, "before_header": str(path), "after_header": str(path)}


def main() -> None:
    """Runs as a module."""
    suboptions = {
        "path": {"type": "path", "required": True},
        "content": {"type": "str"},
        "link": {"type": "str"},
        "encoding": {"type": "str", "choices": ["utf-8", "base64"], "default": "utf-8"},
        "mode": {"type": "str", "default": "0644"},
        "validate": {"type": "str"},
    }
    module = _Module(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": suboptions,
                "mutually_exclusive": [("content", "link")],
                "required_one_of": [("content", "link")],
            },
            "before": {"type": "str"},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    files = [
        (Path(each["path"]), _wanted(each["content"], each["encoding"]), int(each["mode"], 8), each["validate"])
        for each in module.params["files"]
        if each["link"] is None
    ]
    links = [(Path(each["path"]), Path(each["link"])) for each in module.params["files"] if each["link"] is not None]
    current = {path: _current(path) for path, *_ in files}
    written = [file for file in files if current[file[0]] != file[1]]
    linked = [(path, _target(path), target) for path, target in links if _target(path) != target]
    changed = bool(written or linked)
    if not module.check_mode:
        candidates = [(_candidate(module, *file), file[0]) for file in written]
        if module.params["before"] and changed:
            code, out, err = module.run_command(["bash", "-c", module.params["before"]])
            if code != 0:
                module.fail_json(msg=f"Nothing is written, because what must run before failed: {(err or out).strip()}")
        for name, path in candidates:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            module.atomic_move(name, str(path))
        for path, _, target in linked:
            _make_link(module, path, target)
    for path, _, mode, _ in files:
        if path.exists():
            changed = module.set_mode_if_different(str(path), mode, changed)
            changed = module.set_owner_if_different(str(path), "root", changed)
            changed = module.set_group_if_different(str(path), "root", changed)
    differences = [_difference(path, current[path] or b"", wanted) for path, wanted, *_ in written]
    differences += [_difference(path, bytes(before or b""), bytes(target)) for path, before, target in linked]
    module.exit_json(
        changed=changed,
        written=[str(path) for path, *_ in written],
        replaced=[str(path) for path, *_ in written if current[path] is not None],
        diff=differences if module._diff else [],
    )


if __name__ == "__main__":
    main()
