"""What the host remembers: what has proven itself, who has the lock, whether it's drained, and what was done."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from mail_worker_release.errors import ReleaseError
from mail_worker_release.host import Host, read_json, write_json

KEPT_IN_HISTORY = 10


@dataclass(frozen=True, slots=True)
class Proven:
    """What ran well last: a release, the fingerprint of its whole setup, and the releases before it, newest first."""

    release: str
    fingerprint: str
    previous: tuple[str, ...] = ()

    def followed_by(self, release: str, fingerprint: str) -> "Proven":
        """What is to be remembered once another release has proven itself."""
        earlier = tuple(name for name in (self.release, *self.previous) if name != release)
        return Proven(release, fingerprint, self.previous if release == self.release else earlier[:KEPT_IN_HISTORY])


def read_proven(host: Host) -> Proven | None:
    found = read_json(host.state)
    return None if found is None else Proven(found["release"], found["fingerprint"], tuple(found["previous"]))


def write_proven(host: Host, proven: Proven) -> None:
    write_json(host.state, asdict(proven))


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def record(host: Host, line: str) -> None:
    """Adds a line to the host's deploys.log."""
    with host.audit.open("a", encoding="utf-8") as file:
        file.write(f"{now()} {line}\n")


def take_lock(host: Host, run: str, who: str, why: str, may_take_over: Callable[[dict[str, str]], bool]) -> str:
    """Takes the host's lock for a run; returns whom it was taken from, or "".

    Raises:
        ReleaseError: another run has it.
    """
    held = read_json(host.lock)
    if held is not None and held["run"] != run and not may_take_over(held):
        raise ReleaseError(
            f"{held['who']} has locked this host since {held['since']} ({held['why']}): wait for that run. If it's"
            " dead, run yours with -e worker_take_lock=true."
        )
    write_json(host.lock, {"run": run, "who": who, "why": why, "since": now()})
    return "" if held is None or held["run"] == run else f"{held['who']}, {held['why']}, since {held['since']}"


def release_lock(host: Host, run: str) -> bool:
    """Gives the lock back, if this run has it; returns whether it had."""
    held = read_json(host.lock)
    if held is None or held["run"] != run:
        return False
    host.lock.unlink()
    return True
