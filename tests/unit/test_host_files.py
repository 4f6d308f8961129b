"""The module `host_files`: it writes what changed, after the files' owners have taken it, and says what it did."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="it gives its files to root, which root alone may")


def _run(files: list[dict[str, str]], *, check: bool = False, diff: bool = False) -> dict[str, Any]:
    """As the action plugin runs it on a host."""
    arguments = {"files": files, "check": check, "diff": diff}
    done = subprocess.run(
        [sys.executable, CHECKOUT / "plugins/modules/host_files.py"],
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_it_writes_once(tmp_path: Path) -> None:
    new, old = tmp_path / "new.d" / "file", tmp_path / "old"
    old.write_text("before\n", encoding="utf-8")
    files = [
        {"path": str(new), "content": "Zoë\n", "mode": "0640"},
        {"path": str(old), "content": "after\n"},
    ]
    planned = _run(files, check=True, diff=True)
    assert planned["changed"]
    assert [(each["before"], each["after"]) for each in planned["diff"]] == [("", "Zoë\n"), ("before\n", "after\n")]
    assert not new.parent.exists()
    done = _run(files)
    assert (done["changed"], done["replaced"]) == (True, [str(old)])
    assert (new.read_text(encoding="utf-8"), old.read_text(encoding="utf-8")) == ("Zoë\n", "after\n")
    assert (new.stat().st_mode & 0o777, old.stat().st_mode & 0o777) == (0o640, 0o644)
    assert new.parent.stat().st_mode & 0o777 == 0o755
    assert not _run(files)["changed"]


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    files = [{"path": str(path), "content": base64.encodebytes(b"PK\xff\x00\n").decode(), "encoding": "base64"}]
    done = _run(files)
    assert (done["changed"], done["written"], done["replaced"], done["diff"]) == (True, [str(path)], [], [])
    assert path.read_bytes() == b"PK\xff\x00\n"
    assert not _run(files)["changed"]


def test_a_mode_alone_is_a_change(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files = [{"path": str(path), "content": "same\n"}]
    _run(files)
    path.chmod(0o666)
    done = _run(files)
    assert (done["changed"], done["replaced"]) == (True, [])
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_link_becomes_a_file(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("same\n", encoding="utf-8")
    (tmp_path / "link").symlink_to("target")
    assert _run([{"path": str(tmp_path / "link"), "content": "same\n"}])["changed"]
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").exists()


def test_links_are_made_once(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    old.write_text("a file\n", encoding="utf-8")
    (tmp_path / "target").touch()
    files = [{"path": str(path), "link": "target"} for path in (new, old)]
    planned = _run(files, check=True, diff=True)
    assert planned["changed"]
    assert [(each["before"], each["after"]) for each in planned["diff"]] == [("", "target")] * 2
    assert not new.is_symlink()
    assert _run(files)["changed"]
    assert [path.readlink() for path in (new, old)] == [Path("target")] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old", "target"]
    assert not _run(files)["changed"]
    refused = _run([{"path": str(new), "link": "/nowhere"}])
    assert refused["msg"] == f"{new} isn't made a link to /nowhere, because that doesn't exist."


def test_nothing_is_written_when_one_is_refused(tmp_path: Path) -> None:
    files = [
        {"path": str(tmp_path / "good"), "content": "x=1\n", "validate": "sh -n %s"},
        {"path": str(tmp_path / "bad"), "content": "if\n", "validate": "sh -n %s"},
    ]
    done = _run(files)
    assert done["failed"]
    assert f"{tmp_path}/bad isn't written, because sh -n {tmp_path}/bad refused it" in done["msg"]
    assert not (tmp_path / "good").exists()
