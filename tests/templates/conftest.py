"""Runs ansible-playbook as a user does."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
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


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the rendered files."""
    directory = tmp_path_factory.mktemp("rendered")
    done = play(HERE / "render.yml", {**GOOD, "render_to": str(directory)}, directory)
    assert done.returncode == 0, done.stdout
    return directory
