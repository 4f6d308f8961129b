"""Runs ansible-playbook as a user does."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ANSIBLE_PLAYBOOK = Path(sys.executable).parent / "ansible-playbook"

#: What a user's inventory holds at the least, in shapes that are hard on quoting.
GOOD = {
    "worker_redis_url": "rediss://default:p%23ss@redis.example:6379",
    "worker_supabase_url": "https://project.supabase.co",
    "worker_supabase_secret_key": "sb_secret_'single' \"double\" \\back\\\\slash",
    "worker_smtp_host": "smtp.example",
    "worker_smtp_user": "news@example.org",
    "worker_smtp_password": "#hash $HOME ${HOME} `id` %(x)s 'q' \"q\" \\n ü",
    "worker_mail_from": "Zoë 'Z' <news@example.org>",
    "worker_reply_to": "O'Hara <answers@example.org>",
    "worker_headers": {
        "X-Priority": 3,
        "X-Hard": "#hash ${HOME} 'q' \"q\" \\n {x} ü",
        "List-Unsubscribe": "<mailto:u@x.org>",
    },
    "worker_bullmq_prefix": "{bull}",
    "worker_ram_mb": 1900,
}


def play(playbook: Path, variables: Mapping[str, object], directory: Path) -> "subprocess.CompletedProcess[str]":
    """Runs a playbook on this machine with these extra variables."""
    path = directory / "variables.json"
    path.write_text(json.dumps({"ansible_python_interpreter": sys.executable, **variables}), encoding="utf-8")
    return subprocess.run(
        [ANSIBLE_PLAYBOOK, "-i", "localhost,", "-e", f"@{path}", str(playbook)],
        cwd=HERE.parent.parent,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def expect_nft_takes(rules: Path, directory: Path) -> None:
    """In a network namespace of its own; the tests on hosts look at what the rules do."""
    text = rules.read_text(encoding="utf-8")
    # The user whom this machine has.
    (directory / "rules.nft").write_text(text.replace('"mailworker"', '"nobody"'), encoding="utf-8")
    done = subprocess.run(
        ["unshare", "--map-root-user", "--net", "nft", "--check", "--file", str(directory / "rules.nft")],
        env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in done.stderr:
        pytest.skip("this user may have no network namespace; the tests on hosts load the rules")
    assert (done.returncode, done.stderr) == (0, "")


def expect_systemd_takes(units: Sequence[Path], program: str, directory: Path) -> None:
    """Verifies the last one, with the others beside it; `program` is what this machine needn't have."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("this machine has no systemd; the tests on hosts start the units")
    for unit in units:
        text = unit.read_text(encoding="utf-8").replace(program, "/bin/true")
        (directory / unit.name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [analyze, "verify", str(directory / units[-1].name)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the rendered files."""
    directory = tmp_path_factory.mktemp("rendered")
    done = play(HERE / "render.yml", {**GOOD, "render_to": str(directory)}, directory)
    assert done.returncode == 0, done.stdout
    return directory
