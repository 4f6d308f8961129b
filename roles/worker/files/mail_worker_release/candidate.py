"""What a deploy brings: a wheel to build a release from, and an environment and supervisord's programs, which are
beside those in place until the switch."""

import base64
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from mail_worker_release.errors import ReleaseError
from mail_worker_release.host import Host, put
from mail_worker_release.switch import Setup


@dataclass(frozen=True, slots=True)
class Wheel:
    """A file of the controller's; `name` is its own, without a directory."""

    name: str
    content: bytes


def receive(stream: TextIO, release: str) -> tuple[Setup, Wheel]:
    """Reads JSON, so that the environment's secrets are on no command line.

    Raises:
        ReleaseError: it's something else.
    """
    try:
        given = json.load(stream)
        setup = Setup(release, given["environment"].encode(), given["programs"].encode())
        return setup, Wheel(Path(given["wheel_name"]).name, base64.b64decode(given["wheel"], validate=True))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ReleaseError(
            'prepare reads {"environment": ..., "programs": ..., "wheel_name": ..., "wheel": ...} from its standard'
            " input, the wheel in Base64."
        ) from None


def stage(host: Host, wanted: Setup) -> None:
    """Writes the candidates."""
    put(host.environment_candidate, wanted.environment, 0o640, like=host.environment.parent)
    put(host.programs_candidate, wanted.programs, 0o644)


def ask(host: Host, release: str) -> str:
    """Lets the release ask each service, with the candidate's settings and the worker's few rights; returns what it
    heard.

    Raises:
        ReleaseError: not all is well.
    """
    done = subprocess.run(
        [
            *("runuser", "--user=mailworker", "--", "env", f"MAIL_WORKER_ENV_FILE={host.environment_candidate}"),
            *(str(host.releases / release / "mail-worker"), "check"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stdout.splitlines() or ["It printed nothing."]
        failed = [line for line in lines if line.startswith("FAIL")]
        raise ReleaseError(f"mail-worker check failed: {' '.join(failed or lines[-1:])}")
    return done.stdout.rstrip()


def read(host: Host, release: str) -> Setup:
    """What the host is to run.

    Raises:
        ReleaseError: nothing was staged.
    """
    try:
        return Setup(release, host.environment_candidate.read_bytes(), host.programs_candidate.read_bytes())
    except FileNotFoundError as error:
        raise ReleaseError(f"{error.filename} isn't there: deploy again.") from None


def discard(host: Host) -> None:
    """Removes the candidates."""
    for path in (host.environment_candidate, host.programs_candidate):
        path.unlink(missing_ok=True)
