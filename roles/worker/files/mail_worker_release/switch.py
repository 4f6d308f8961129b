"""Switching to a release and its environment: one process at a time, judged, and taken back when it fails.

A switch that isn't proven yet has a copy of what ran before in `before/`. So one that was interrupted at any step, by a
dead controller, a reboot or a full disk, is finished by the next switch, or undone by a rollback.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mail_worker_release.errors import GateFailed, ReleaseError
from mail_worker_release.gate import Demands, look, prove, start
from mail_worker_release.host import Host, point, put, read_json, remove, write_json
from mail_worker_release.programs import changed_groups, for_supervisor
from mail_worker_release.records import Proven, read_proven, record, write_proven
from mail_worker_release.supervisor import GROUPS, WORKERS, Process, Supervisor, is_up

#: A rollback is to take 15 s at the most; without a network, a worker waits longer for its mails' answers and Redis.
ROLLBACK_KILLS_AFTER_SECONDS = 8.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Setup:
    """What a host runs: a release, its environment and supervisord's programs."""

    release: str
    environment: bytes
    programs: bytes

    @property
    def fingerprint(self) -> str:
        parts = (self.release.encode(), self.environment, self.programs)
        return hashlib.sha256(b"\0".join(parts)).hexdigest()

    def put_in_place(self, host: Host) -> None:
        put(host.environment, self.environment, 0o640, like=host.environment.parent)
        put(host.programs, self.programs, 0o644)
        point(host.current, f"releases/{self.release}")
        write_supervisor_programs(host)

    def keep(self, directory: Path) -> None:
        """Writes a copy into a new directory, which has its name only when it's whole."""
        new = directory.with_name(f"{directory.name}.new")
        remove(new)
        new.mkdir(mode=0o700)
        put(new / "worker.env", self.environment, 0o600)
        put(new / "programs.conf", self.programs, 0o600)
        write_json(new / "release.json", {"release": self.release})
        new.rename(directory)


def read_setup(host: Host) -> Setup | None:
    """What is in place, or None on a host that is new."""
    try:
        return Setup(host.release_in_place(), host.environment.read_bytes(), host.programs.read_bytes())
    except FileNotFoundError:
        return None


def read_before(host: Host) -> Setup | None:
    """What ran before a switch that isn't proven yet."""
    release = read_json(host.before / "release.json")
    if release is None:
        return None
    environment, programs = host.before / "worker.env", host.before / "programs.conf"
    return Setup(release["release"], environment.read_bytes(), programs.read_bytes())


def write_supervisor_programs(host: Host) -> None:
    """Gives supervisord the programs, as the host is drained or not."""
    put(host.supervisor_programs, _supervisor_programs(host).encode(), 0o644)


def _supervisor_programs(host: Host) -> str:
    return for_supervisor(host.programs.read_text(encoding="utf-8"), drained=host.drained.exists())


def _all_run(host: Host, supervisor: Supervisor) -> bool:
    """Whether supervisord has the programs that are in place, and each process that is due is up."""
    found = host.supervisor_programs
    given = found.exists() and found.read_text(encoding="utf-8") == _supervisor_programs(host)
    return given and all(map(is_up, due_processes(host, supervisor)))


def switch(host: Host, supervisor: Supervisor, wanted: Setup, demands: Demands, by: str, say: Say) -> bool:
    """Brings the host to `wanted`; returns whether anything had to be done.

    Raises:
        GateFailed: the release failed, and what ran before runs again.
        ReleaseError: something else is wrong; the sentence says what runs now.
    """
    if not host.complete(wanted.release):
        raise ReleaseError(f"The release {wanted.release} isn't on this host, or not completely: deploy it.")
    if python := host.lost_python(wanted.release):
        raise ReleaseError(f"The release {wanted.release} {without(python)}: deploy again.")
    interrupted, in_place, proven = read_before(host), read_setup(host), read_proven(host)
    # What isn't as it was proven, by an interrupted switch or by hand, may not be what the processes run with.
    untouched = in_place is not None and proven is not None and in_place.fingerprint == proven.fingerprint
    surely_runs = in_place if interrupted is None and untouched else None
    groups = _groups_to_restart(wanted, surely_runs)
    if wanted == surely_runs and _all_run(host, supervisor):
        return False
    before = interrupted or (in_place if proven is not None else None)
    if interrupted is None and before is not None and before != wanted:
        before.keep(host.before)
    were_running = {process.full_name for process in supervisor.processes() if process.running}
    try:
        wanted.put_in_place(host)
        supervisor.read_programs()
        say(f"{host.release_in_place()} is in place; restarting one process at a time")
        running: list[Process] = []
        for process in due_processes(host, supervisor):
            if process.group in groups and process.full_name in were_running:
                supervisor.stop(process.full_name)
            running.append(start(supervisor, host, process.full_name))
            look(supervisor, host, running, demands.max_rss_mb)
        for line in prove(supervisor, host, running, demands):
            say(line)
    except (GateFailed, ReleaseError, OSError) as error:
        if before is not None and before != wanted:
            if python := host.lost_python(before.release):
                # What of it runs still would end with a restart, so it's left alone.
                record(host, f"{by}: {wanted.release} failed ({error}), {before.release} {without(python)}")
                raise ReleaseError(
                    f"{error} {wanted.release} stays in place, for {before.release} {without(python)}: solve it, and"
                    " deploy again."
                ) from error
            _take_back(host, supervisor, wanted, before, by, error)
            say(f"{before.release} runs again")
        raise
    _remember(host, wanted, proven, by)
    return True


def without(python: str) -> str:
    """What is said of a release whose Python an upgrade has taken away."""
    return f"was built with Python {python}, which an upgrade of the system has replaced"


def _groups_to_restart(wanted: Setup, in_place: Setup | None) -> set[str]:
    if in_place is None or (wanted.release, wanted.environment) != (in_place.release, in_place.environment):
        return set(GROUPS)
    return changed_groups(in_place.programs.decode(), wanted.programs.decode())


def due_processes(host: Host, supervisor: Supervisor) -> list[Process]:
    """The processes that should run now."""
    drained = host.drained.exists()
    return [process for process in supervisor.processes() if not (drained and process.group == WORKERS)]


def _remember(host: Host, wanted: Setup, proven: Proven | None, by: str) -> None:
    if proven is None:
        write_proven(host, Proven(wanted.release, wanted.fingerprint))
    else:
        write_proven(host, proven.followed_by(wanted.release, wanted.fingerprint))
    (host.releases / wanted.release / "failed").unlink(missing_ok=True)
    (host.releases / wanted.release / "proven").touch()
    remove(host.before)
    was = "" if proven is None or proven.release == wanted.release else f", was {proven.release}"
    record(host, f"{by}: {wanted.release} runs{was}")


def _take_back(host: Host, supervisor: Supervisor, wanted: Setup, before: Setup, by: str, error: Exception) -> None:
    """Puts back what ran before and starts it again.

    Raises:
        ReleaseError: what ran before doesn't start any more either.
    """
    if isinstance(error, GateFailed) and before.release != wanted.release:
        (host.releases / wanted.release / "failed").write_text(f"{error}\n", encoding="utf-8")
    before.put_in_place(host)
    supervisor.read_programs()
    silent = []
    for process in due_processes(host, supervisor):
        supervisor.stop(process.full_name)
        if not supervisor.start(process.full_name):
            silent.append(process.full_name)
    remove(host.before)
    record(host, f"{by}: {wanted.release} failed ({error}), {before.release} is back")
    if silent:
        raise ReleaseError(
            f"{error} {before.release} was put back, but {', '.join(silent)} doesn't start with it either: look into"
            f" {host.logs}."
        ) from error


def rollback(
    host: Host, supervisor: Supervisor, release: str, by: str, wait_until_up: Callable[[], None], say: Say
) -> str:
    """Goes back to a release that is on the host, all processes at once and without any network; returns its name.
    What doesn't stop in ROLLBACK_KILLS_AFTER_SECONDS is killed.

    Raises:
        ReleaseError: there's nothing to go back to, or it doesn't start.
    """
    interrupted, in_place = read_before(host), read_setup(host)
    proven = read_proven(host)
    base = interrupted or in_place
    if base is None or proven is None:
        raise ReleaseError("Nothing has ever run on this host: there's nothing to go back to.")
    # The one before, even where it can't run any more: whoever goes back is to hear of that.
    target = release or (interrupted.release if interrupted else _previous(host, proven) or _lost(host, proven))
    if not host.complete(target):
        names = sorted(path.parent.name for path in host.releases.glob("*/complete"))
        there = ", ".join(name for name in names if host.runs(name)) or "none"
        raise ReleaseError(f"The release {target or 'before this one'} isn't on this host; there is: {there}.")
    if python := host.lost_python(target):
        raise ReleaseError(
            f"{target} can't run any more: it {without(python)}. Deploy the version that you want instead, which builds"
            " it anew."
        )
    if interrupted is None and target == host.release_in_place():
        raise ReleaseError(f"{target} runs already.")
    setup = Setup(target, base.environment, base.programs)
    setup.put_in_place(host)
    supervisor.read_programs()
    names = [process.full_name for process in due_processes(host, supervisor)]
    if killed := supervisor.stop_all(names, ROLLBACK_KILLS_AFTER_SECONDS):
        say(f"killed, not stopped after {ROLLBACK_KILLS_AFTER_SECONDS:.0f} s: {', '.join(killed)}")
    supervisor.start_all(names)
    wait_until_up()
    older = proven.previous[proven.previous.index(target) + 1 :] if target in proven.previous else proven.previous
    write_proven(host, Proven(target, setup.fingerprint, older))
    remove(host.before)
    record(host, f"{by}: back to {target} from {proven.release}")
    return target


def _previous(host: Host, proven: Proven) -> str:
    return next((name for name in proven.previous if host.runs(name)), "")


def _lost(host: Host, proven: Proven) -> str:
    return next((name for name in proven.previous if host.complete(name)), "")


def prune(host: Host, keep: int) -> list[str]:
    """Removes releases that were built and never ran, those whose Python is gone, and old ones but the newest `keep`;
    never one that runs, that a rollback leads to, or that failed, which somebody may want to look into. Returns their
    names."""
    proven, before = read_proven(host), read_before(host)
    kept = {host.release_in_place()}
    if proven is not None:
        kept |= {proven.release, _previous(host, proven)}
    if before is not None:
        kept.add(before.release)
    # Those that failed or never ran don't count, or a row of them would push out what a rollback may want.
    sound = [path for path in host.releases.iterdir() if path.is_dir() and not (path / "failed").exists()]
    usable = [path for path in sound if (path / "proven").exists() and not host.lost_python(path.name)]
    ran = sorted(usable, key=lambda path: path.stat().st_mtime)
    useless = [path for path in sound if path not in ran]
    removable = [path for path in (*useless, *ran[: max(len(ran) - keep, 0)]) if path.name not in kept]
    for path in removable:
        remove(path)
    return [path.name for path in removable]
