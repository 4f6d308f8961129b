"""A switch that goes on by itself: one command starts it, another waits for its end and repeats what it said."""

import os
from pathlib import Path

from mail_worker_release.errors import ReleaseError
from mail_worker_release.host import Host, read_json, write_json


def leave(host: Host) -> bool:
    """Goes on in a child, which keeps this command's lock; True in the one that was called, which is to return."""
    host.switched.unlink(missing_ok=True)
    if os.fork():
        return True
    os.setsid()
    _open(Path(os.devnull), os.O_RDONLY, 0)
    _open(host.switch_log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 1)
    os.dup2(1, 2)
    return False


def _open(path: Path, flags: int, descriptor: int) -> None:
    opened = os.open(path, flags, 0o600)
    os.dup2(opened, descriptor)
    os.close(opened)


def finish(host: Host, run: str, code: int) -> None:
    """Remembers how it ended."""
    write_json(host.switched, {"run": run, "code": code})


def outcome(host: Host, run: str) -> tuple[int, str]:
    """The exit code of the switch that `run` started, and what it printed.

    Raises:
        ReleaseError: it has left none.
    """
    ended = read_json(host.switched)
    if ended is None or ended["run"] != run:
        raise ReleaseError(
            "The switch was cut off, by a reboot or for lack of memory or disk: mail-worker-release status shows what"
            " runs; deploy again."
        )
    return int(ended["code"]), host.switch_log.read_text(encoding="utf-8", errors="replace")
