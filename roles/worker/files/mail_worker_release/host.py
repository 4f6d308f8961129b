"""Where a host keeps its releases and what belongs to them, and how a file is put in place whole."""

import contextlib
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Host:
    """The paths, below `root`."""

    root: Path = Path("/")
    #: This command runs by the distribution's Python, by which releases run too.
    python: str = f"{sys.version_info.major}.{sys.version_info.minor}"

    @property
    def directory(self) -> Path:
        return self.root / "opt/mail-worker"

    @property
    def releases(self) -> Path:
        return self.directory / "releases"

    @property
    def current(self) -> Path:
        """Link to the release that processes start from."""
        return self.directory / "current"

    @property
    def environment(self) -> Path:
        return self.root / "etc/mail-worker/worker.env"

    @property
    def environment_candidate(self) -> Path:
        return self.environment.with_name("worker.env.candidate")

    @property
    def programs_candidate(self) -> Path:
        return self.directory / "programs.candidate"

    @property
    def programs(self) -> Path:
        """supervisord's programs as the deploy wrote them; drained hosts have others in `supervisor_programs`."""
        return self.directory / "programs.conf"

    @property
    def supervisor_programs(self) -> Path:
        return self.root / "etc/supervisor/conf.d/mail-worker.conf"

    @property
    def supervisor_socket(self) -> Path:
        return self.root / "run/supervisor/supervisor.sock"

    @property
    def supervisor_venv(self) -> Path:
        return self.root / "opt/supervisor/venv"

    @property
    def state(self) -> Path:
        """What has proven itself."""
        return self.directory / "state.json"

    @property
    def before(self) -> Path:
        """A copy of what ran before a switch that isn't proven yet."""
        return self.directory / "before"

    @property
    def switched(self) -> Path:
        """How the last switch ended that was started apart."""
        return self.directory / "switched.json"

    @property
    def switch_log(self) -> Path:
        """What it printed."""
        return self.directory / "switch.log"

    @property
    def lock(self) -> Path:
        return self.directory / "lock.json"

    @property
    def drained(self) -> Path:
        return self.directory / "drained.json"

    @property
    def audit(self) -> Path:
        return self.directory / "deploys.log"

    @property
    def logs(self) -> Path:
        return self.root / "var/log/mail-worker"

    @property
    def worker_command(self) -> Path:
        """Where people look for `mail-worker`."""
        return self.root / "usr/local/bin/mail-worker"

    def make_directories(self, group: str) -> None:
        """Makes what root alone writes to; members of `group` may read the environment."""
        for path, mode in ((self.directory, 0o755), (self.releases, 0o755), (self.environment.parent, 0o750)):
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(mode)
        shutil.chown(self.environment.parent, group=group)
        # Before the first release it leads nowhere.
        point(self.worker_command, str(self.current / "mail-worker"))

    def release_in_place(self) -> str:
        """The release that `current` leads to, "" without one."""
        return self.current.readlink().name if self.current.is_symlink() else ""

    def complete(self, release: str) -> bool:
        """Whether a release was installed to its end."""
        return bool(release) and (self.releases / release / "complete").is_file()

    def lost_python(self, release: str) -> str:
        """The Python that a release was built with, if an upgrade of the system has put another one in its place; else
        "". A venv's packages lie below their Python's version, so the new one doesn't find them."""
        built_with = pythons(self.releases / release / "venv")
        return "" if self.python in built_with else ", ".join(built_with)

    def runs(self, release: str) -> bool:
        """Whether a release is whole, and can be run by the Python that this host has."""
        return self.complete(release) and not self.lost_python(release)


def pythons(venv: Path) -> list[str]:
    """The versions of Python that a venv has packages for, such as 3.11."""
    return sorted(path.name.removeprefix("python") for path in venv.glob("lib/python3.*"))


def put(path: Path, content: bytes, mode: int, like: Path | None = None) -> None:
    """Replaces a file in one step, so that nobody sees half of it, and a full disk leaves the old one."""
    new = path.with_name(f"{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if like is not None:
                os.fchown(file.fileno(), like.stat().st_uid, like.stat().st_gid)
            os.fchmod(file.fileno(), mode)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def point(link: Path, target: str) -> None:
    """Makes a link lead elsewhere, in one step."""
    new = link.with_name(f"{link.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.replace(link)


def read_json(path: Path) -> dict[str, Any] | None:
    """A file of ours, or None without one; one that a dying host left broken counts as none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_json(path: Path, value: dict[str, Any]) -> None:
    put(path, (json.dumps(value, indent=1) + "\n").encode(), 0o644)


def remove(directory: Path) -> None:
    """Removes a directory; half of it is never left under its name."""
    gone = directory.with_name(f"{directory.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    if directory.exists():
        directory.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
