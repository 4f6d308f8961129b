"""testbed/bootstrap.sh refuses a system that it doesn't know, before it installs anything."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

BOOTSTRAP = Path(__file__).resolve().parents[2] / "testbed/bootstrap.sh"


@pytest.mark.parametrize(
    ("release", "shown"),
    [
        ('ID=fedora\nVERSION_ID="43"\n', "fedora 43"),
        ("ID=debian\nVERSION_ID=11\n", "debian 11"),
        ("", "unknown unknown"),
    ],
)
def test_another_system_is_refused_in_one_sentence(release: str, shown: str, tmp_path: Path) -> None:
    path = tmp_path / "os-release"
    path.write_text(release, encoding="utf-8")
    done = subprocess.run(
        [BOOTSTRAP, "containers"],
        env={**os.environ, "OS_RELEASE_FILE": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"bootstrap: this system is {shown}, but the test bed runs on Debian 12 or 13, or Ubuntu 24.04.\n"
    )


def test_an_unknown_group_is_refused() -> None:
    done = subprocess.run([BOOTSTRAP, "everything"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "there is no group 'everything': use python, lint, containers or browser." in done.stderr


@pytest.mark.parametrize(
    ("commands", "asked_for"),
    [("", ["nodejs", "npm"]), ("node", ["npm"]), ("node npm", [])],
    ids=lambda value: str(value),
)
def test_debians_node_is_asked_for_only_where_there_is_none(
    commands: str, asked_for: list[str], tmp_path: Path
) -> None:
    release = tmp_path / "os-release"
    release.write_text("ID=debian\nVERSION_ID=12\n", encoding="utf-8")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "cat", "dirname"):
        (programs / name).symlink_to(str(shutil.which(name)))
    # Nothing is installed, and nothing can be.
    for name in ("dpkg-query", "apt-get", "sudo", *commands.split()):
        (programs / name).write_text("#!/bin/sh\nexit 1\n", encoding="ascii")
        (programs / name).chmod(0o755)
    done = subprocess.run(
        [BOOTSTRAP, "containers"],
        env={"PATH": str(programs), "CI": "true", "HOME": str(tmp_path), "OS_RELEASE_FILE": str(release)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == "\nbootstrap: apt-get update failed: see above.\n"
    missing = done.stdout.rpartition(": ")[2].split()
    assert [name for name in missing if name in ("nodejs", "npm")] == asked_for
    assert "podman" in missing
