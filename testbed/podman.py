"""Podman, with a store of its own, so that the user's containers stay untouched.

systemd in a container needs cgroup v2. On a host that has v1 (or a mix of both) all of podman runs in a private mount
namespace with a cgroup2 tree, held open by one sleeping process; on any other host it runs as it is.
"""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from testbed.errors import TestbedError
from testbed.paths import CACHE, RUN

_STORE = CACHE / "podman"
_OWN_FILES = (
    *("--root", str(_STORE), "--runroot", str(RUN / "containers"), "--tmpdir", str(RUN / "libpod")),
    *("--network-config-dir", str(CACHE / "networks")),
)
_NAMESPACE_PID = RUN / "namespace.pid"
_HOLDER = "mail-worker-testbed-namespace"
_NAMESPACE_SCRIPT = f"""
set -e
mount --make-rprivate /
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec -a {_HOLDER} sleep infinity
"""

# Small limits: a host may not be allowed to raise its own.
_CONTAINERS_CONF = """\
[containers]
pids_limit = 0
default_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
"""


def podman(*arguments: str, input_text: str | None = None, check: bool = True) -> str:
    """Runs podman and returns its standard output.

    Raises:
        TestbedError: podman failed; with its last line.
    """
    done = subprocess.run(
        [*command(), *arguments], input=input_text, capture_output=True, text=True, env=environment(), check=False
    )
    if check and done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise TestbedError(f"podman {arguments[0]} failed: {lines[-1]}")
    return done.stdout


def command() -> list[str]:
    """The words that start podman on this host."""
    if os.geteuid() != 0:
        raise TestbedError("The test bed needs root: run it with sudo.")
    if shutil.which("podman") is None:
        raise TestbedError("podman is missing: run testbed/bootstrap.sh containers.")
    RUN.mkdir(mode=0o700, exist_ok=True)
    if _has_cgroup2():
        return ["podman", *_OWN_FILES]
    return _command_in(_namespace())


def _command_in(holder: int) -> list[str]:
    # Where /sys/fs/cgroup can't be v2, resource limits usually can't be raised either, which crun insists on.
    return ["nsenter", "--target", str(holder), "--mount", "podman", "--runtime", "runc", *_OWN_FILES]


def environment() -> dict[str, str]:
    """The environment for podman."""
    configuration = RUN / "containers.conf"
    RUN.mkdir(mode=0o700, exist_ok=True)
    configuration.write_text(_CONTAINERS_CONF, encoding="utf-8")
    return {**os.environ, "CONTAINERS_CONF": str(configuration)}


def leave_nothing() -> None:
    """Ends what podman leaves running, if no container of any checkout is there any more."""
    if podman("ps", "--all", "--quiet").strip():
        return
    podman("network", "prune", "--force")
    holder = _holder()
    if holder is not None:
        os.kill(holder, signal.SIGTERM)
    for mount in reversed(_mounts_below(_STORE)):
        subprocess.run(["umount", mount], check=False)
    shutil.rmtree(RUN, ignore_errors=True)


def _has_cgroup2() -> bool:
    return (Path("/sys/fs/cgroup") / "cgroup.controllers").exists()


def _namespace() -> int:
    """The process that holds the mount namespace open; starts it if need be."""
    holder = _holder()
    if holder is not None:
        return holder
    stale = _NAMESPACE_PID.exists()
    if stale:
        # Without these podman does as after a boot; /run isn't emptied by one everywhere.
        for state in ("containers", "libpod"):
            shutil.rmtree(RUN / state, ignore_errors=True)
    process = subprocess.Popen(
        ["unshare", "--mount", "bash", "-c", _NAMESPACE_SCRIPT],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    _NAMESPACE_PID.write_text(str(process.pid), encoding="ascii")
    for _ in range(100):
        if _holder() is not None:
            break
        if process.poll() is not None:
            break
        time.sleep(0.05)
    if _holder() is None:
        raise TestbedError("A private mount namespace with cgroup v2 can't be made: boot the host with cgroup v2.")
    if stale:
        _remove_what_died(process.pid)
    return process.pid


def _remove_what_died(holder: int) -> None:
    """The last holder ended without `down`, by a reboot perhaps; the containers' networks went with it."""
    for words in (("rm", "--all", "--force"), ("network", "prune", "--force")):
        subprocess.run([*_command_in(holder), *words], env=environment(), capture_output=True, check=False)


def _holder() -> int | None:
    try:
        pid = int(_NAMESPACE_PID.read_text(encoding="ascii"))
        words = (Path("/proc") / str(pid) / "cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if words.startswith(_HOLDER.encode()) else None


def _mounts_below(directory: Path) -> list[str]:
    lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    return [line.split()[1] for line in lines if line.split()[1].startswith(str(directory))]
