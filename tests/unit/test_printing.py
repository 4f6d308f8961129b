"""How lines are shown in a terminal and in a pipe."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from worker.operating.printing import folded, print_lines

LINE = "host       mail1: load 0.1 on 2 processors, 900 of 2,000 MB of memory free, https://example.org/" + "x" * 40


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_terminals_lines_end_between_words(columns: int) -> None:
    lines = folded(LINE, columns, 11)
    assert " ".join(line.strip() for line in lines).split() == LINE.split()
    assert all(len(line) <= columns or " " not in line.strip() for line in lines)
    assert all(line.startswith(" " * 11) for line in lines[1:])
    assert folded("", columns, 11) == [""]


def test_what_goes_into_a_pipe_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_lines([LINE, "second"])
    assert capsys.readouterr().out == f"{LINE}\nsecond\n"


def test_whoever_reads_may_have_enough(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text('{"to": "a@example.org", "subject": "s", "text": "x"}\n')
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [Path(sys.executable).parent / "mail-worker", "check", "--jobs", jobs],
            env={"MAIL_FROM": "a@example.org"},
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")
