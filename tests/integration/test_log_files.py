"""`mail-worker logs`: what a host's programs have logged, in order, by time and words, while it's being written."""

import json
from pathlib import Path

import pytest

from tests.integration.programs import Programs, wait_until

#: They run beside the others, with services of their own (make watching).
pytestmark = pytest.mark.watching
FIRST = '{"time": "2026-11-28T05:00:00.000Z", "level": "INFO", "message": "sent <1@x>: 250 ok", "campaign": "c-1"}'
SECOND = '{"time": "2026-11-28T05:00:01.000Z", "level": "WARNING", "message": "failed <2@x>: 550 no"}'
TEXT = "2026-11-28 05:00:02,123 INFO    Stopped."


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "logs"
    directory.mkdir()
    (directory / "mail-worker_00.log").write_text(f"{SECOND}\n")
    (directory / "mail-worker_00.log.1").write_text(f"{FIRST}\n")
    (directory / "mail-recorder.log").write_text(f"{TEXT}\nnot a line of ours\n")
    return directory


def test_all_processes_in_the_order_of_time(programs: Programs, directory: Path) -> None:
    code, shown = programs.run("logs", "--directory", str(directory))
    assert code == 0
    assert shown.splitlines() == [
        "mail-worker_00  2026-11-28T05:00:00  INFO     sent <1@x>: 250 ok  campaign c-1",
        "mail-worker_00  2026-11-28T05:00:01  WARNING  failed <2@x>: 550 no",
        f"mail-recorder  {TEXT}",
        "mail-recorder  not a line of ours",
    ]
    assert programs.run("logs", "--directory", str(directory), "-n", "1")[1] == "mail-recorder  not a line of ours\n"
    assert "05:00:01" in programs.run("logs", "--directory", str(directory), "-g", "fail(ed)?")[1]
    since = programs.run("logs", "--directory", str(directory), "-s", "2026-11-28T05:00:01", "--json")[1]
    assert since.splitlines() == [SECOND, TEXT, "not a line of ours"]
    assert programs.run("logs", "--directory", str(directory), "-s", "1m")[1] == ""


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["-s", "yesterday"], "--since 'yesterday' isn't a time: write 30m, 2h, 1d or 2026-01-31T12:00 (UTC).\n"),
        (["-g", "("], "--grep '(' isn't a pattern: missing ), unterminated subpattern at position 0.\n"),
        (["-n", "-3"], "--lines -3 is less than none: write how many lines of the past you want.\n"),
        (["--directory", "/nowhere"], "/nowhere isn't there: this command is for a host that sends.\n"),
    ],
)
def test_what_is_wrong(programs: Programs, directory: Path, words: list[str], sentence: str) -> None:
    assert programs.run("logs", "--directory", str(directory), *words) == (1, sentence)


def test_files_of_others(programs: Programs, directory: Path) -> None:
    everything = programs.run("logs", "--directory", str(directory))
    (directory / "mail-worker_00.log.gz").write_bytes(b"\x1f\x8b\xff")
    (directory / "mail-worker_00.log.1.gz").write_bytes(b"\x1f\x8b\xff")
    (directory / "mail-worker_00.log.²").write_bytes(b"\x1f\x8b\xff")
    assert programs.run("logs", "--directory", str(directory)) == everything
    (directory / "other.log").write_bytes(
        b'{"time": "2026-11-28T04:00:00.000Z", "level": [], "message": 3}\n\xff\x1b[2J\n'
    )
    assert programs.run("logs", "--directory", str(directory))[1].splitlines()[:2] == [
        "other  2026-11-28T04:00:00  []       3",
        "other  \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[2J",
    ]


def test_it_follows_what_is_written_and_rotated(programs: Programs, directory: Path) -> None:
    following = programs.start("logs", "--directory", str(directory), "-f", "-n", "1")
    following.wait_for("not a line of ours")
    log = directory / "mail-worker_00.log"
    with log.open("a") as stream:
        stream.write('{"time": "2026-11-28T06:00:00.000Z", "level": "INFO", "message": "before"}\n')
    log.rename(directory / "mail-worker_00.log.2")
    log.write_text('{"time": "2026-11-28T06:00:01.000Z", "level": "INFO", "message": "after"}\n')
    wait_until(lambda: "after" in following.text())
    assert "before" in following.text()


def test_the_workers_log_in_json(programs: Programs) -> None:
    worker = programs.start("run", LOG_FORMAT="json")
    wait_until(lambda: worker.text().strip() != "")
    for line in worker.text().splitlines():
        assert json.loads(line)["account"].startswith("smtp:")
