"""`mail-worker-release` with a real supervisord: releases here are small scripts, which is all that it sees of them."""

import base64
import contextlib
import grp
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mail_worker_release import candidate, drain, renewal, switch
from mail_worker_release.__main__ import main
from mail_worker_release.errors import GateFailed, ReleaseError
from mail_worker_release.gate import Demands
from mail_worker_release.host import Host, read_json
from mail_worker_release.records import read_proven, release_lock, take_lock
from mail_worker_release.supervisor import Supervisor
from testbed.paths import CHECKOUT

DEMANDS = Demands(watch_seconds=0.5, verify_seconds=0, max_rss_mb=80)
STEADY = "import time\ntime.sleep(1000)"
CRASHING = "raise SystemExit('no such table')"
DYING = "import time\ntime.sleep(1.4)\nraise SystemExit('gone')"
STUBBORN = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(1000)"
GREEDY = "import time\nheld = b'x' * (120 << 20)\ntime.sleep(1000)"
WHEEL_NAME = "mail_worker-1-py3-none-any.whl"
SETTINGS = {"environment": "SMTP_PASS='ü'\n", "programs": "[program:x]\n", "wheel_name": f"../{WHEEL_NAME}"}

_SUPERVISORD = """
[supervisord]
nodaemon=true
logfile={root}/var/log/supervisord.log
pidfile={root}/run/supervisor/supervisord.pid
[unix_http_server]
file={root}/run/supervisor/supervisor.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[rpcinterface:fleet]
supervisor.rpcinterface_factory=supervisor_fleet:make
[include]
files={root}/etc/supervisor/conf.d/*.conf
"""
_PROGRAM = """
[program:{name}]
command={python} {root}/opt/mail-worker/current/program.py
process_name=%(program_name)s{number}
{numprocs}
autostart=true
autorestart=true
startsecs={startsecs}
startretries=1
redirect_stderr=true
stdout_logfile={root}/var/log/mail-worker/%(program_name)s{number}.log
"""


class Fixture:
    """A host in a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.host = Host(root)
        self.said: list[str] = []
        for name in ("opt/mail-worker/releases", "etc/mail-worker", "etc/supervisor/conf.d", "run/supervisor"):
            (root / name).mkdir(parents=True)
        (root / "var/log/mail-worker").mkdir(parents=True)
        configuration = root / "etc/supervisor/supervisord.conf"
        configuration.write_text(_SUPERVISORD.format(root=root), encoding="utf-8")
        self._daemon = subprocess.Popen(
            [Path(sys.executable).parent / "supervisord", "--configuration", configuration],
            env={**os.environ, "PYTHONPATH": str(CHECKOUT / "roles/supervisor/files")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.supervisor = Supervisor(self.host.supervisor_socket)
        self._until_it_answers()

    def _until_it_answers(self) -> None:
        for _ in range(200):
            try:
                self.supervisor.processes()
            except ReleaseError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError("supervisord doesn't answer")

    def end(self) -> None:
        """At once: a stop in good order takes supervisord seconds."""
        running = [process.pid for process in self.supervisor.processes() if process.pid]
        self._daemon.kill()
        self._daemon.wait()
        for pid in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def release(self, name: str, program: str = STEADY) -> str:
        directory = self.host.releases / name
        directory.mkdir()
        (directory / "program.py").write_text(program, encoding="utf-8")
        (directory / "complete").touch()
        return name

    def setup(
        self, release: str, *, workers: int = 1, environment: str = "A=1\n", option: str = "", startsecs: int = 0
    ) -> switch.Setup:
        programs = _PROGRAM.format(
            name="mail-worker",
            python=sys.executable,
            root=self.root,
            number="_%(process_num)02d",
            numprocs=f"numprocs={workers}\n{option}",
            startsecs=startsecs,
        ) + _PROGRAM.format(
            name="mail-recorder", python=sys.executable, root=self.root, number="", numprocs="", startsecs=0
        )
        return switch.Setup(release, environment.encode(), programs.encode())

    def switch(self, setup: switch.Setup) -> bool:
        return switch.switch(self.host, self.supervisor, setup, DEMANDS, "ann", self.said.append)

    def upgrade_the_system(self) -> None:
        """The host has another Python from now on, and its releases were built with the one before."""
        for release in self.host.releases.iterdir():
            (release / "venv/lib/python3.11").mkdir(parents=True)
        self.host = Host(self.root, python="3.13")

    def rollback(self, release: str = "") -> str:
        return switch.rollback(
            self.host,
            self.supervisor,
            release,
            "ann",
            lambda: drain.wait_until_up(self.host, self.supervisor),
            self.said.append,
        )

    def pids(self) -> dict[str, int]:
        return {process.name: process.pid for process in self.supervisor.processes() if process.state == "RUNNING"}

    def runs(self, release: str) -> None:
        """Expects `release` to be in place, proven and running."""
        assert self.host.release_in_place() == release
        proven = read_proven(self.host)
        assert proven is not None
        assert proven.release == release
        assert not self.host.before.exists()
        assert set(self.pids()) == {"mail-recorder", "mail-worker_00"}


@pytest.fixture
def fixture() -> Iterator[Fixture]:
    # A socket's path can't be long.
    with tempfile.TemporaryDirectory() as directory:
        fixture = Fixture(Path(directory))
        try:
            fixture.switch(fixture.setup(fixture.release("1")))
            fixture.runs("1")
            yield fixture
        finally:
            fixture.end()


def test_an_upgrade_and_two_rollbacks(fixture: Fixture) -> None:
    first = fixture.pids()
    assert fixture.switch(fixture.setup(fixture.release("2")))
    assert not set(first.values()) & set(fixture.pids().values())
    fixture.switch(fixture.setup(fixture.release("3")))
    fixture.runs("3")
    assert fixture.rollback() == "2"
    fixture.runs("2")
    assert fixture.rollback() == "1"
    fixture.runs("1")
    with pytest.raises(ReleaseError, match="isn't on this host; there is: 1, 2, 3"):
        fixture.rollback()
    assert fixture.rollback("3") == "3"
    fixture.runs("3")
    lines = fixture.host.audit.read_text(encoding="utf-8").splitlines()
    assert [line.partition(" ")[2] for line in lines[:3]] == ["ann: 1 runs", "ann: 2 runs, was 1", "ann: 3 runs, was 2"]
    assert lines[-1].endswith("ann: back to 3 from 1")


def test_a_rollback_doesnt_wait_for_what_doesnt_stop(fixture: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    fixture.switch(fixture.setup(fixture.release("2", STUBBORN), startsecs=1))
    monkeypatch.setattr(switch, "ROLLBACK_KILLS_AFTER_SECONDS", 1.0)
    assert fixture.rollback() == "1"
    fixture.runs("1")
    # Before supervisord itself does, after its stopwaitsecs.
    assert fixture.said[-1] == "killed, not stopped after 1 s: mail-recorder:mail-recorder, mail-worker:mail-worker_00"


def test_what_changes_nothing_restarts_nothing(fixture: Fixture) -> None:
    before = fixture.pids()
    assert not fixture.switch(fixture.setup("1"))
    assert fixture.pids() == before


def test_what_was_changed_by_hand_is_restarted(fixture: Fixture) -> None:
    before = fixture.pids()
    fixture.host.environment.write_text("A=2\n", encoding="utf-8")
    assert fixture.switch(fixture.setup("1", environment="A=2\n"))
    assert not set(before.values()) & set(fixture.pids().values())
    # As where containers have run the worker meanwhile.
    fixture.host.supervisor_programs.unlink()
    fixture.supervisor.read_programs()
    assert fixture.pids() == {}
    assert fixture.switch(fixture.setup("1", environment="A=2\n"))
    fixture.runs("1")


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        (CRASHING, "doesn't start: supervisord says|ended soon after its start"),
        (DYING, "ended and is|ended soon|doesn't start"),  # By how busy this machine is.
        (GREEDY, "MB of memory, but 80 MB is the most"),
    ],
)
def test_a_broken_release_is_taken_back(fixture: Fixture, program: str, sentence: str) -> None:
    fixture.release("2", program)
    with pytest.raises(GateFailed, match=sentence) as caught:
        fixture.switch(fixture.setup("2", startsecs=1))
    fixture.runs("1")
    assert str(caught.value) in (fixture.host.releases / "2/failed").read_text(encoding="utf-8")
    if program == CRASHING:
        assert "no such table" in caught.value.log
    assert "2" not in switch.prune(fixture.host, 1)  # Somebody may want to look into it.


def test_a_bad_environment_is_taken_back(fixture: Fixture) -> None:
    fixture.release("2", CRASHING)
    with pytest.raises(GateFailed):
        fixture.switch(fixture.setup("2", environment="A=2\n", workers=3))
    fixture.runs("1")
    assert fixture.host.environment.read_text(encoding="utf-8") == "A=1\n"


def test_only_the_difference_starts_and_stops(fixture: Fixture) -> None:
    one = fixture.pids()
    assert fixture.switch(fixture.setup("1", workers=3))
    three = fixture.pids()
    assert len(three) == 4
    assert one.items() <= three.items()
    assert fixture.switch(fixture.setup("1", workers=1))
    assert fixture.pids() == one
    # As `supervisorctl update` sees it, nothing is left to do.
    assert fixture.supervisor._call("supervisor.reloadConfig") == [[[], [], []]]


def test_options_of_the_workers_dont_restart_the_recorder(fixture: Fixture) -> None:
    before = fixture.pids()
    assert fixture.switch(fixture.setup("1", option='environment=WORKER_CONCURRENCY="7"'))
    after = fixture.pids()
    assert after["mail-recorder"] == before["mail-recorder"]
    assert after["mail-worker_00"] != before["mail-worker_00"]


def interrupt(fixture: Fixture, release: str) -> None:
    """As if the host had died after the switch, before any restart."""
    in_place = switch.read_setup(fixture.host)
    assert in_place is not None
    in_place.keep(fixture.host.before)
    fixture.setup(release, environment="A=2\n").put_in_place(fixture.host)


def test_an_interrupted_switch_is_finished(fixture: Fixture) -> None:
    before = fixture.pids()
    interrupt(fixture, fixture.release("2"))
    assert fixture.switch(fixture.setup("2", environment="A=2\n"))
    fixture.runs("2")
    assert not set(before.values()) & set(fixture.pids().values())


def test_an_interrupted_switch_is_undone(fixture: Fixture) -> None:
    interrupt(fixture, fixture.release("2"))
    assert fixture.rollback() == "1"
    fixture.runs("1")
    assert fixture.host.environment.read_text(encoding="utf-8") == "A=1\n"


def test_an_interrupted_switch_that_fails_goes_back_to_what_ran(fixture: Fixture) -> None:
    interrupt(fixture, fixture.release("2", CRASHING))
    with pytest.raises(GateFailed):
        fixture.switch(fixture.setup("2", environment="A=2\n"))
    fixture.runs("1")


def test_a_drained_host_stays_drained(fixture: Fixture) -> None:
    assert drain.drain(fixture.host, fixture.supervisor, "ann", "new disk")
    assert set(fixture.pids()) == {"mail-recorder"}
    assert not drain.drain(fixture.host, fixture.supervisor, "ann", "new disk")
    assert "autostart=false" in fixture.host.supervisor_programs.read_text(encoding="utf-8")
    assert fixture.switch(fixture.setup(fixture.release("2")))
    assert set(fixture.pids()) == {"mail-recorder"}
    assert drain.resume(fixture.host, fixture.supervisor, "ann")
    fixture.runs("2")
    assert "autostart=false" not in fixture.host.supervisor_programs.read_text(encoding="utf-8")
    assert not drain.resume(fixture.host, fixture.supervisor, "ann")


def test_old_releases_go(fixture: Fixture) -> None:
    for name in "234":
        fixture.switch(fixture.setup(fixture.release(name)))
    for name in "56":
        fixture.release(name)
    (fixture.host.releases / "5/failed").touch()
    assert switch.prune(fixture.host, 3) == ["6", "1"]  # One that failed or never ran takes nobody's place.
    assert fixture.rollback("2") == "2"
    assert switch.prune(fixture.host, 1) == ["3"]  # 4 is the newest.
    assert {path.name for path in fixture.host.releases.iterdir()} == {"2", "4", "5"}
    fixture.runs("2")


def test_no_rollback_leads_to_a_release_whose_python_is_gone(fixture: Fixture) -> None:
    fixture.switch(fixture.setup(fixture.release("2")))
    fixture.upgrade_the_system()
    running = fixture.pids()
    with pytest.raises(ReleaseError, match=r"^1 can't run any more: it was built with Python 3\.11, which an upgrade"):
        fixture.rollback()
    assert fixture.pids() == running
    with pytest.raises(ReleaseError, match=r"^The release 1 was built with Python 3\.11, .*: deploy again\.$"):
        fixture.switch(fixture.setup("1"))
    fixture.switch(fixture.setup(fixture.release("2-py3.13")))
    fixture.runs("2-py3.13")
    with pytest.raises(ReleaseError, match=r"^2 can't run any more"):
        fixture.rollback("2")
    # None of them leads anywhere, and a small disk is full soon.
    assert sorted(switch.prune(fixture.host, 3)) == ["1", "2"]
    fixture.switch(fixture.setup(fixture.release("3-py3.13")))
    assert fixture.rollback() == "2-py3.13"


def test_a_release_that_fails_isnt_replaced_by_one_whose_python_is_gone(fixture: Fixture) -> None:
    fixture.upgrade_the_system()
    with pytest.raises(ReleaseError, match=r"2-py3\.13 stays in place, for 1 was built with Python 3\.11"):
        fixture.switch(fixture.setup(fixture.release("2-py3.13", CRASHING), startsecs=1))
    assert fixture.host.release_in_place() == "2-py3.13"
    assert "failed (" in fixture.host.audit.read_text(encoding="utf-8").splitlines()[-1]
    # The next one finishes what that one began.
    fixture.switch(fixture.setup(fixture.release("3-py3.13")))
    fixture.runs("3-py3.13")


def test_status_names_a_release_whose_python_is_gone(fixture: Fixture) -> None:
    # Of a version that no test runs by.
    (fixture.host.releases / "1/venv/lib/python3.2").mkdir(parents=True)
    code, printed = Commands(fixture).run("status")
    assert code == 0
    assert (
        "NO PYTHON  1 was built with Python 3.2, which an upgrade of the system has replaced: deploy again" in printed
    )


def test_supervisord_is_restarted_for_the_new_python_once(fixture: Fixture) -> None:
    marker = fixture.root / "restarted"
    restart = ("touch", str(marker))
    libraries = fixture.host.supervisor_venv / "lib"
    for name in ("python3.11", "python3.13"):
        (libraries / name).mkdir(parents=True)
    fixture.host = Host(fixture.root, python="3.13")
    with pytest.raises(ReleaseError, match=r"^false failed \(no message\)"):
        renewal.renew(fixture.host, fixture.supervisor, ("false",))
    assert renewal.renew(fixture.host, fixture.supervisor, restart)
    assert marker.exists()
    assert [path.name for path in libraries.iterdir()] == ["python3.13"]
    marker.unlink()
    assert not renewal.renew(fixture.host, fixture.supervisor, restart)
    assert not marker.exists()


def test_a_host_with_another_python_says_what_to_run(tmp_path: Path) -> None:
    packed = tmp_path / "mail-worker-release"
    subprocess.run([sys.executable, CHECKOUT / "roles/worker/files/pack.py", packed], check=True)
    # -S: without the venv's packages, as a new Python finds its own directory empty.
    done = subprocess.run([sys.executable, "-S", packed, "status"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("An upgrade of the system has brought Python ")
    assert done.stderr.endswith("run playbooks/site.yml (docs/upgrade-the-system.md).\n")


class Commands:
    """`mail-worker-release` as Ansible calls it, on a fixture's host."""

    def __init__(self, fixture: Fixture) -> None:
        self._command = [sys.executable, "-m", "mail_worker_release", f"--root={fixture.root}"]
        self._environment = {**os.environ, "PYTHONPATH": str(CHECKOUT / "roles/worker/files")}

    def run(self, *arguments: str) -> tuple[int, list[str]]:
        done = subprocess.run(
            [*self._command, *arguments], env=self._environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.stderr == ""
        return done.returncode, done.stdout.splitlines()

    def switch_apart(self, fixture: Fixture, wanted: switch.Setup) -> tuple[int, list[str]]:
        candidate.stage(fixture.host, wanted)
        options = ("--watch=0.5", "--verify=0", "--keep=3", "--run=ann:1", "--apart")
        return self.run("switch", wanted.release, *options)


def test_a_switch_apart_is_awaited(fixture: Fixture) -> None:
    commands = Commands(fixture)
    assert take_lock(fixture.host, "ann:1", "ann", "deploy", lambda held: False) == ""
    assert commands.switch_apart(fixture, fixture.setup(fixture.release("2"))) == (0, [])
    code, printed = commands.run("await", "--run=ann:1")
    assert (code, printed) == (0, ["2 is in place; restarting one process at a time"])
    fixture.runs("2")
    assert not fixture.host.lock.exists()
    assert commands.switch_apart(fixture, fixture.setup(fixture.release("3", CRASHING), startsecs=1)) == (0, [])
    code, printed = commands.run("await", "--run=ann:1")
    assert code == 1
    assert "  no such table" in printed
    assert "2 runs again" in printed
    assert printed[-1].startswith("mail-worker:mail-worker_00 ")
    fixture.runs("2")


def test_a_switch_that_was_cut_off_counts_as_failed(fixture: Fixture) -> None:
    commands = Commands(fixture)
    cut_off = (
        1,
        [
            "The switch was cut off, by a reboot or for lack of memory or disk: mail-worker-release status shows what"
            " runs; deploy again."
        ],
    )
    assert commands.run("await", "--run=ann:1") == cut_off
    commands.switch_apart(fixture, fixture.setup("1"))
    assert commands.run("await", "--run=ann:1")[0] == 0
    assert commands.run("await", "--run=ann:2") == cut_off


def test_the_lock(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.directory.mkdir(parents=True)
    assert take_lock(host, "ann@laptop:1", "ann@laptop", "deploy", lambda held: False) == ""
    with pytest.raises(ReleaseError, match=r"ann@laptop has locked this host since .* \(deploy\)"):
        take_lock(host, "bob@desk:2", "bob@desk", "deploy", lambda held: False)
    assert "ann@laptop, deploy" in take_lock(host, "bob@desk:2", "bob@desk", "deploy", lambda held: True)
    release_lock(host, "ann@laptop:1")
    assert read_json(host.lock) is not None
    release_lock(host, "bob@desk:2")
    assert read_json(host.lock) is None


def test_a_deploy_brings_its_settings_by_standard_input_and_leaves_nothing(tmp_path: Path) -> None:
    host = Host(tmp_path)
    (tmp_path / "usr/local/bin").mkdir(parents=True)
    umask = os.umask(0o077)
    host.make_directories(grp.getgrgid(os.getgid()).gr_name)
    os.umask(umask)
    modes = [path.stat().st_mode & 0o777 for path in (host.directory, host.releases, host.environment.parent)]
    assert modes == [0o755, 0o755, 0o750]
    assert host.worker_command.readlink() == host.current / "mail-worker"
    with pytest.raises(ReleaseError, match=r"worker\.env\.candidate isn't there: deploy again"):
        candidate.read(host, "v1")
    given = {**SETTINGS, "wheel": base64.b64encode(b"a zip file").decode()}
    for rubbish in ("", "[]", json.dumps({**given, "environment": 1}), json.dumps({**given, "wheel": "?"})):
        with pytest.raises(ReleaseError, match="prepare reads"):
            candidate.receive(io.StringIO(rubbish), "v1")
    wanted, wheel = candidate.receive(io.StringIO(json.dumps(given)), "v1")
    assert wheel == candidate.Wheel(WHEEL_NAME, b"a zip file")
    candidate.stage(host, wanted)
    assert host.environment_candidate.stat().st_mode & 0o777 == 0o640
    assert candidate.read(host, "v1") == switch.Setup("v1", "SMTP_PASS='ü'\n".encode(), b"[program:x]\n")
    candidate.discard(host)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == set()


def test_a_release_that_cant_be_built_leaves_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("usr/local/bin", "run"):
        (tmp_path / name).mkdir(parents=True)
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("worker/requirements.txt", "no-such-package==1 --hash=sha256:00\n")
    given = {**SETTINGS, "wheel": base64.b64encode(wheel.getvalue()).decode()}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(given)))
    command = ["prepare", "v1", f"--group={grp.getgrgid(os.getgid()).gr_name}", "--run=r", "--why=w"]
    assert main([f"--root={tmp_path}", "--by=ann@laptop", *command, f"--wheelhouse={tmp_path}"]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "locked"
    assert printed[-1].startswith("The release v1 can't be built (")
    host = Host(tmp_path)
    assert not host.lock.exists()
    assert not host.environment_candidate.exists()
    assert not host.complete("v1")


def test_without_supervisord_a_sentence_says_so(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"supervisord doesn't answer at .*: look at systemctl status supervisor"):
        Supervisor(tmp_path / "no.sock").processes()
