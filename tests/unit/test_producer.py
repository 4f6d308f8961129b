"""Files of jobs: JSON lines and CSV, and every line that's wrong."""

from pathlib import Path

import pytest

from worker.errors import InvalidFile
from worker.mail.addresses import Address
from worker.mail.jobs import Defaults, Job
from worker.mail.templates import no_template
from worker.queue.producer import check_file, read_jobs

DEFAULTS = Defaults(sender=Address("", "news@example.com"))


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def check(path: Path) -> int:
    return check_file(path, DEFAULTS, no_template, lambda _: None)


def test_json_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"to": "a@b.example", "html": "x"}\n\n{"to": "c@d.example", "text": "y"}\n')
    assert check(path) == 2
    assert [line for line, _ in read_jobs(path)] == [1, 3]


def test_csv_with_line_breaks_in_cells(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", '\ufeffto,subject,html,campaignId\na@b.example,"Hi, you","<p>\n</p>",\n')
    assert check(path) == 1
    assert [job for _, job in read_jobs(path)] == [{"to": "a@b.example", "subject": "Hi, you", "html": "<p>\n</p>"}]


@pytest.mark.parametrize("parted", [";", ",", "\t"])
def test_csv_as_spreadsheets_write_it(tmp_path: Path, parted: str) -> None:
    cells = [
        ["Email", "Subject", "HTML", "CampaignID", "Name", "City"],
        ["a@b.example", "Hi", '"<p>a;b,c"', "7", "A", "B"],
    ]
    path = write(tmp_path / "a.csv", "\ufeff" + "".join(parted.join(row) + "\r\n" for row in cells))
    assert check(path) == 1
    [(_, job)] = read_jobs(path)
    assert isinstance(job, dict)
    assert list(job) == ["email", "subject", "html", "campaignId", "name", "City"]
    assert job["html"] == "<p>a;b,c"
    assert list(read_jobs(write(tmp_path / "a.tsv", "to\ttext\na@b.example\tx, y\n"))) == [
        (2, {"to": "a@b.example", "text": "x, y"})
    ]


def test_columns_without_a_name_are_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'to,text,,\na@b.example,"5"" wide",,\nc@d.example,7" wide,lost,\n')
    jobs: list[Job] = []
    assert check_file(path, DEFAULTS, no_template, jobs.append) == 2
    assert [(job.text, job.unsent) for job in jobs] == [('5" wide', ()), ('7" wide', ("column 3",))]


def test_each_mistake_has_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"to": "a@b.example", "html": "x"}\n{"to": 5}\nrubbish\n[]\n')
    with pytest.raises(InvalidFile) as caught:
        check(path)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[1] for line in lines[:-1]] == ["2", "3", "4"]
    assert "to is a number" in lines[0]
    assert "isn't JSON" in lines[1]
    assert "the job is a list" in lines[2]
    assert lines[-1] == f"{path}: 3 of 4 jobs would be refused."


def test_many_mistakes_are_cut_off(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", "rubbish\n" * 1000)
    with pytest.raises(InvalidFile) as caught:
        check(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 21
    assert lines[-1] == f"{path}: 1,000 of 1,000 jobs would be refused; the first 20 are shown."


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b"", "holds no jobs"),
        ("a.jsonl", b"\xff\xfe", "isn't UTF-8"),
        ("a.csv", b"to,html\na@b.example,x,too many\n", "more cells than the header"),
        ("a.csv", b"to,html\n", "holds no jobs"),
        ("a.csv", b"Email,email\na@b.example,x\n", "has email twice in its header line"),
        ("a.csv", "to,text\na@b.example,größe\n".encode("cp1252"), "save it as such"),
        ("a.csv", b'to,text\na@b.example,x\nc@d.example,"y\ne@f.example,z\n', "isn't a CSV file from line 3 on"),
        ("a.csv", b'to,text\na@b.example,x\nc@d.example,"y\ne@f.example,"z"\n', "isn't a CSV file from line 3 on"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InvalidFile, match=words):
        check(path)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="can't be read: No such file"):
        check(tmp_path / "missing.jsonl")
