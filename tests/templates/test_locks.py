"""The hosts' hash-locked lists are made from uv.lock: `make lock` writes them anew."""

import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
UV = Path(sys.executable).parent / "uv"


def test_the_workers_list_is_that_of_uv_lock() -> None:
    exported = subprocess.run(
        [UV, "export", "--quiet", "--locked", "--no-dev", "--no-emit-project", "--no-annotate", "--no-header"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    path = CHECKOUT / "roles/worker/files/requirements.txt"
    assert _entries(path.read_text(encoding="utf-8")) == _entries(exported)


def test_everything_on_a_host_is_locked_by_hash() -> None:
    for role in ("worker", "supervisor"):
        text = (CHECKOUT / f"roles/{role}/files/requirements.txt").read_text(encoding="utf-8")
        for entry in _entries(text):
            assert "--hash=sha256:" in entry, entry


def _entries(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return "\n".join(lines).replace("\\\n", " ").splitlines()
