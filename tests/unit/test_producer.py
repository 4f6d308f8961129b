"""Files of jobs: JSON lines and CSV, and every line that's wrong."""

from pathlib import Path

import pytest

from worker.errors import InvalidFile
from worker.mail.addresses import Address
from worker.mail.jobs import Defaults
from worker.mail.templates import no_template
from worker.queue.producer import check_file, read_jobs

DEFAULTS = Defaults(sender=Address("", "news@example.com"))


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_json_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"to": "a@b.example", "html": "x"}\n\n{"to": "c@d.example", "text": "y"}\n')
    assert check_file(path, DEFAULTS, no_template) == 2
    assert [line for line, _ in read_jobs(path)] == [1, 3]


def test_csv_with_line_breaks_in_cells(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", '\ufeffto,subject,html,campaignId\na@b.example,"Hi, you","<p>\n</p>",\n')
    assert check_file(path, DEFAULTS, no_template) == 1
    assert [job for _, job in read_jobs(path)] == [{"to": "a@b.example", "subject": "Hi, you", "html": "<p>\n</p>"}]


def test_each_mistake_has_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"to": "a@b.example", "html": "x"}\n{"to": 5}\nrubbish\n[]\n')
    with pytest.raises(InvalidFile) as caught:
        check_file(path, DEFAULTS, no_template)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[1] for line in lines] == ["2", "3", "4"]
    assert "to is a int" in lines[0]
    assert "isn't JSON" in lines[1]
    assert "the job is a list" in lines[2]


def test_many_mistakes_are_cut_off(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", "rubbish\n" * 1000)
    with pytest.raises(InvalidFile) as caught:
        check_file(path, DEFAULTS, no_template)
    assert len(str(caught.value).splitlines()) == 21


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b"", "holds no jobs"),
        ("a.jsonl", b"\xff\xfe", "isn't UTF-8"),
        ("a.csv", b"to,html\na@b.example,x,too many\n", "more cells than the header"),
        ("a.csv", b"to,html\n", "holds no jobs"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InvalidFile, match=words):
        check_file(path, DEFAULTS, no_template)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="can't be read: No such file"):
        check_file(tmp_path / "missing.jsonl", DEFAULTS, no_template)
