"""Words that others wrote, where people read them."""

import json
from pathlib import Path

import pytest

from worker.mail.words import shown_line, shown_lines
from worker.operating.campaign import CampaignReport, Ended, write_csv
from worker.operating.log_files import _shown
from worker.operating.why import Life

#: What sets a terminal's colour, its title and its reading direction.
OBEYED = "\x1b[31m", "\x1b]0;title\x07", "\x9b2J", "\u202e", "\x7f", "\b"


@pytest.mark.parametrize("obeyed", OBEYED)
def test_a_terminal_gets_nothing_to_obey(obeyed: str) -> None:
    words = f"550 {obeyed} no"
    life = Life("c-1", "s-1", facts=[(0.0, words)])
    report = CampaignReport("c-1", "", 0, 1, 0, 0, 0, None, None, None, None, 0, {words: 1})
    line = json.dumps({"time": "2026-11-28T05:00:00.000Z", "message": words})
    for text in (
        shown_line(words),
        shown_lines(words),
        *life.lines(),
        *report.lines(),
        _shown(("", "mail-worker_00", line), as_json=False),
        _shown(("", "mail-worker_00", words), as_json=False),
    ):
        assert not {"\x1b", "\x07", "\x9b", "\u202e", "\x7f", "\b"} & set(text)


def test_words_are_left_alone() -> None:
    assert shown_line(" 550 Größe\r\n\t\u200d no 🌷 ") == "550 Größe \u200d no 🌷"
    assert shown_lines("Traceback:\n\tFile") == "Traceback:\n\tFile"


def test_a_spreadsheet_gets_no_formula(tmp_path: Path) -> None:
    ended = [
        Ended("=1+1", "failed", 0.0, "@SUM(1)"),
        Ended("s-2", "failed", 1.0, "\r=1+1"),
        Ended("-a1", "x", 2.0, "+"),
    ]
    write_csv(tmp_path / "failed.csv", ended)
    assert (tmp_path / "failed.csv").read_bytes().decode().split("\r\n")[1:] == [
        "'=1+1,failed,1970-01-01T00:00:00+00:00,'@SUM(1)",
        's-2,failed,1970-01-01T00:00:01+00:00,"\'\r=1+1"',
        "-a1,x,1970-01-01T00:00:02+00:00,'+",
        "",
    ]
