"""The end of site.yml: whether a time server keeps the clock right, with programs that say what a host's would."""

from pathlib import Path

import pytest

from tests.templates.conftest import HERE, play

SYNCED, AWAY = "yes", "no"
VPS, CONTAINER = "exit 1", "exit 0"


@pytest.mark.parametrize(
    ("synchronised", "virtualization", "wait_seconds", "fails"),
    [(SYNCED, VPS, 2, False), (AWAY, VPS, 2, True), (AWAY, VPS, 0, False), (AWAY, CONTAINER, 2, False)],
    ids=["kept right", "runs away", "not looked at", "a container's"],
)
def test_a_clock_must_be_kept_right(
    tmp_path: Path, synchronised: str, virtualization: str, wait_seconds: int, fails: bool
) -> None:
    programs = {
        "timedatectl": f"echo {synchronised}",
        "systemd-detect-virt": virtualization,
        "chronyc": "echo '^? 192.0.2.1 0 6 0 - +0ns'",
    }
    for name, script in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    done = play(HERE / "clock.yml", {"programs": str(tmp_path), "base_clock_wait_seconds": wait_seconds}, tmp_path)
    assert (done.returncode != 0) == fails, done.stdout
    said = " ".join(done.stdout.replace("''", "'").split())
    sentence = "localhost's clock doesn't synchronise within 2 s (^? 192.0.2.1 0 6 0 - +0ns): certificates"
    assert (sentence in said) == fails, said
