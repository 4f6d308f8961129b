"""The command `mail-worker-release`. Exit codes: 0 well, 1 not well (the last line says why), 2 wrong arguments."""

import argparse
import contextlib
import fcntl
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mail_worker_release import apart, build, candidate, drain, gate, records, renewal, switch
from mail_worker_release.errors import GateFailed, ReleaseError
from mail_worker_release.host import Host, read_json
from mail_worker_release.supervisor import Supervisor

#: Another run of this command on the host may be ending still, one whose controller died.
OTHER_RUN_SECONDS = 300.0


def main(arguments: list[str] | None = None) -> int:
    """Runs one command."""
    # A controller that dies in the middle must not leave half a switch.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # The worker's user reads what root's umask might close.
    os.umask(0o022)
    options = _parser().parse_args(arguments)
    host = Host(options.root)

    def command() -> int:
        with _alone(host, options.patience):
            return int(options.command(host, Supervisor(host.supervisor_socket), options))

    return _told(host, command)


def _told(host: Host, action: Callable[[], int]) -> int:
    """Runs it; what goes wrong is said."""
    try:
        return action()
    except GateFailed as error:
        if error.log:
            say("The log ends with:")
        for line in error.log:
            say(f"  {line}")
        say(str(error))
    except ReleaseError as error:
        say(str(error))
    except OSError as error:
        say(f"{error.strerror or error}: {error.filename or host.directory}. Solve it, and do the same again.")
    return 1


def say(line: str) -> None:
    """Prints a line, whether or not somebody listens still."""
    with contextlib.suppress(OSError):
        print(line, flush=True)


@contextlib.contextmanager
def _alone(host: Host, patience_seconds: float) -> Iterator[None]:
    deadline = time.monotonic() + patience_seconds
    with (host.root / "run/mail-worker-release.lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ReleaseError("Another mail-worker-release is at work on this host: wait for it.") from None
                time.sleep(0.2)
        yield


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mail-worker-release", description="The releases of this host's mail worker.")
    parser.add_argument("--root", type=Path, default=Path("/"), help=argparse.SUPPRESS)
    parser.add_argument("--by", default="somebody on the host", help="who does it, for deploys.log")
    parser.set_defaults(patience=OTHER_RUN_SECONDS)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: object, text: str) -> argparse.ArgumentParser:
        subparser = commands.add_parser(name, help=text, description=text)
        subparser.set_defaults(command=command)
        return subparser

    add("status", _status, "Show the releases, the processes, and whether the host is drained or locked.")
    rollback = add("rollback", _rollback, "Go back to the release before, or to a named one, without any network.")
    rollback.add_argument("release", nargs="?", default="", metavar="RELEASE")
    verify = add("verify", _verify, "See whether the processes that run prove themselves.")
    verify.add_argument("--verify", type=float, default=60.0, metavar="SECONDS")
    verify.add_argument("--canary", default="", metavar="ADDRESS")
    drain_command = add("drain", _drain, "Stop taking mails, after a reboot too, until resume.")
    drain_command.add_argument("--why", default="no reason given")
    add("resume", _resume, "Take mails again.")
    prepare = add("prepare", _prepare, "Build a release beside the one that runs, and ask the services with it.")
    prepare.add_argument("release", metavar="RELEASE")
    sources = prepare.add_mutually_exclusive_group()
    sources.add_argument("--wheelhouse", metavar="DIRECTORY", help="take the dependencies from there")
    sources.add_argument("--index", metavar="URL", help="take them from this package index instead of PyPI")
    prepare.add_argument("--group", required=True, help="who may read the environment")
    prepare.add_argument("--why", required=True)
    prepare.add_argument("--take-over", default="", metavar="RUN", help="a run that is dead; 'any' for each")
    switch_command = add("switch", _switch, "Run a release that was prepared.")
    switch_command.add_argument("release", metavar="RELEASE")
    switch_command.add_argument("--watch", type=float, default=5.0, metavar="SECONDS")
    switch_command.add_argument("--verify", type=float, default=60.0, metavar="SECONDS")
    switch_command.add_argument("--max-rss", type=int, default=0, metavar="MB")
    switch_command.add_argument("--canary", default="", metavar="ADDRESS")
    switch_command.add_argument("--keep", type=int, required=True, metavar="NUMBER", help="remove older releases")
    switch_command.add_argument("--apart", action="store_true", help="return at once; await tells the end")
    awaiting = add("await", _await, "Wait for the end of a switch that was started apart.")
    awaiting.set_defaults(patience=math.inf)
    unlock = add("unlock", _unlock, "Forget what was prepared, and let others onto this host.")
    for command in (prepare, switch_command, awaiting, unlock):
        command.add_argument("--run", required=True, help="who has the lock, from prepare to switch or unlock")
    return parser


def _status(host: Host, supervisor: Supervisor, options: argparse.Namespace) -> int:
    proven, before = records.read_proven(host), switch.read_before(host)
    if proven is None:
        say("release    none has proven itself yet")
    else:
        earlier = ", ".join(name for name in proven.previous if host.runs(name)) or "none"
        say(f"release    {host.release_in_place()}; before it: {earlier}")
    for path in sorted(host.releases.glob("*/complete")):
        if python := host.lost_python(path.parent.name):
            say(f"NO PYTHON  {path.parent.name} {switch.without(python)}: deploy again")
    if before is not None:
        say(f"UNPROVEN   a deploy was interrupted; before it {before.release} ran: deploy again, or roll back")
    for path in sorted(host.releases.glob("*/failed")):
        say(f"failed     {path.parent.name}: {path.read_text(encoding='utf-8').strip()}")
    if (lock := read_json(host.lock)) is not None:
        say(f"locked     by {lock['who']} since {lock['since']} ({lock['why']})")
    if (drained := read_json(host.drained)) is not None:
        say(f"drained    by {drained['by']} since {drained['since']} ({drained['why']})")
    for process in supervisor.processes():
        say(f"process    {process.full_name:<26} {process.state:<8} {gate.rss(process.pid):>4} MB")
    return 0


def _prepare(host: Host, supervisor: Supervisor, options: argparse.Namespace) -> int:
    wanted, wheel = candidate.receive(sys.stdin, options.release)
    host.make_directories(options.group)
    held = read_json(host.lock)
    if held is not None:
        say(f"held by {held['run']}")
    taken_from = records.take_lock(
        host, options.run, options.by, options.why, lambda held: options.take_over in ("any", held["run"])
    )
    say(f"locked, taken over from {taken_from}" if taken_from else "locked")
    try:
        built = _build(host, wheel, options)
        say(f"built {options.release}" if built else f"unchanged: {options.release} is there")
        candidate.stage(host, wanted)
        say(candidate.ask(host, options.release))
    except BaseException:
        _let_go(host, options.run)
        raise
    return 0


def _build(host: Host, wheel: candidate.Wheel, options: argparse.Namespace) -> bool:
    source: tuple[str, ...] = ("--no-index", f"--find-links={options.wheelhouse}") if options.wheelhouse else ()
    if options.index:
        source = (f"--index-url={options.index}",)
    try:
        return build.build(host, options.release, wheel, source, say)
    except (ReleaseError, OSError) as error:
        raise ReleaseError(f"The release {options.release} can't be built ({error}).") from error


def _switch(host: Host, supervisor: Supervisor, options: argparse.Namespace) -> int:
    if not options.apart:
        return _switch_here(host, supervisor, options)
    if apart.leave(host):
        return 0
    code = _told(host, lambda: _switch_here(host, supervisor, options))
    apart.finish(host, options.run, code)
    return code


def _await(host: Host, supervisor: Supervisor, options: argparse.Namespace) -> int:
    code, printed = apart.outcome(host, options.run)
    say(printed.rstrip())
    return code


def _switch_here(host: Host, supervisor: Supervisor, options: argparse.Namespace) -> int:
    demands = gate.Demands(options.watch, options.verify, options.max_rss, options.canary)
    try:
        wanted = candidate.read(host, options.release)
        if not switch.switch(host, supervisor, wanted, demands, options.by, say):
            say(f"unchanged: {options.release} runs, with this environment and these programs")
        if renewal.renew(host, supervisor):
            say(f"supervisord was restarted, by Python {host.python}")
        if removed := switch.prune(host, options.keep):
            say(f"removed {', '.join(removed)}")
    finally:
        _let_go(host, options.run)
    return 0


def _verify(host: Host, supervisor: Supervisor, options: argparse.Namespace) -> int:
    drain.wait_until_up(host, supervisor)
    demands = gate.Demands(0.0, options.verify, 0, options.canary)
    for line in gate.prove(supervisor, host, switch.due_processes(host, supervisor), demands):
        say(line)
    return 0


def _rollback(host: Host, supervisor: Supervisor, options: argparse.Namespace) -> int:
    if (lock := read_json(host.lock)) is not None:
        say(f"{lock['who']} has locked this host since {lock['since']} ({lock['why']}): stop that run if it lives")
    release = switch.rollback(
        host, supervisor, options.release, options.by, lambda: drain.wait_until_up(host, supervisor), say
    )
    say(f"{release} runs again")
    return 0


def _drain(host: Host, supervisor: Supervisor, options: argparse.Namespace) -> int:
    changed = drain.drain(host, supervisor, options.by, options.why)
    say("drained: no mail leaves from this host until resume" if changed else "unchanged: it is drained already")
    return 0


def _resume(host: Host, supervisor: Supervisor, options: argparse.Namespace) -> int:
    changed = drain.resume(host, supervisor, options.by)
    say("resumed: this host sends again" if changed else "unchanged: it wasn't drained")
    return 0


def _unlock(host: Host, supervisor: Supervisor, options: argparse.Namespace) -> int:
    _let_go(host, options.run)
    return 0


def _let_go(host: Host, run: str) -> None:
    """Keeps the next deploy off no longer."""
    if records.release_lock(host, run):
        candidate.discard(host)


if __name__ == "__main__":
    sys.exit(main())
