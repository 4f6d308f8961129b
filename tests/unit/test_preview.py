"""What `mail-worker preview`, `check --jobs` and `send-test --job` make of a file's jobs, without any service."""

import json
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest

from worker.base.settings import ENV_FILE_VARIABLE
from worker.cli import main
from worker.mail.names import use_own_names

JOB: dict[str, Any] = {
    "campaignId": 7,
    "mailOptions": {"recipient": "Ann <ann@example.org>", "htmlContent": "<p>Hi", "subject": "S", "colour": "red"},
}


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "env"
    path.write_text("FROM_EMAIL=news@example.com\n")
    monkeypatch.setenv(ENV_FILE_VARIABLE, str(path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs.jsonl").write_text(json.dumps(JOB) + "\n" + json.dumps({**JOB, "envelope": {"to": "x"}}) + "\n")
    return path


def test_the_mail_is_on_standard_output_and_its_reading_beside_it(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["preview", "jobs.jsonl"]) == 0
    mail, words = capfdbinary.readouterr()
    message = message_from_bytes(mail, policy=policy.default)
    assert (message["To"], message["From"]) == ("Ann <ann@example.org>", "news@example.com")
    lines = {line.split()[0]: line.split()[1:] for line in words.decode().splitlines()}
    assert lines["to"] == ["mailOptions.recipient", "Ann", "<ann@example.org>"]
    assert lines["campaign"] == ["campaignId", "7"]
    assert lines["subscriber"] == ["-", "ann@example.org"]
    assert lines["html"] == ["mailOptions.htmlContent", "5", "characters"]
    assert lines["not"] == ["sent", "mailOptions.colour"]


def test_what_cant_be_sent_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["preview", "jobs.jsonl", "--line", "2"]) == 1
    assert capsys.readouterr().err == (
        "jobs.jsonl can't become a mail: envelope can't be sent: the envelope is made of from, to, cc and bcc.\n"
    )
    assert main(["preview", "jobs.jsonl", "--line", "3"]) == 1
    assert capsys.readouterr().err == "jobs.jsonl holds no job in line 3.\n"


def test_an_apps_own_names_count(environment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environment.write_text("FROM_EMAIL=news@example.com\nMAIL_FIELDS=email=userEmail, html=emailBody\n")
    Path("own.jsonl").write_text('{"userEmail": "ann@example.org", "emailBody": "<p>Hi"}\n')
    try:
        assert main(["preview", "own.jsonl"]) == 0
    finally:
        use_own_names({})
    assert "userEmail" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["email", "email=", "nonsense=a", "email=a b", "email=a,to=b", "html=text"])
def test_names_that_are_none_are_a_mistake(value: str, environment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environment.write_text(f"MAIL_FIELDS={value}\n")
    assert main(["preview", "jobs.jsonl"]) == 2
    assert "FAIL settings  MAIL_FIELDS" in capsys.readouterr().out


def test_a_template_that_nobody_gives(capsys: pytest.CaptureFixture[str]) -> None:
    Path("spring.jsonl").write_text('{"to": "a@example.org", "templateId": "spring", "vars": {"name": "Ann"}}\n')
    Path("spring.html").write_text("<p>Hi {{name}}")
    for command in (["preview", "spring.jsonl"], ["check", "--jobs", "spring.jsonl"]):
        assert main(command) == 1
        assert "it needs the template spring: give its file by --template" in capsys.readouterr().err
        assert main([*command, "--template", "spring.html"]) == 0
        capsys.readouterr()


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    for what in ("nonexist.jsonl", "nowhere/jobs"):
        assert main(["preview", what]) == 1
        assert capsys.readouterr().err == f"{what} can't be read: No such file or directory.\n"


def test_what_stands_twice_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("twice.jsonl").write_text('{"to": "a@example.org", "to": "b@example.org", "text": "x"}\n')
    Path("twice.csv").write_text("to, subject ,to\na@example.org,x,b@example.org\n")
    Path("blanks.csv").write_text("to, text\na@example.org,x\n")
    assert main(["check", "--jobs", "twice.jsonl"]) == 1
    assert "twice.jsonl:1: 'to' stands twice in the line: one of them would be lost." in capsys.readouterr().err
    assert main(["check", "--jobs", "twice.csv"]) == 1
    assert "twice.csv has to twice in its header line: one of them would be lost." in capsys.readouterr().err
    assert main(["check", "--jobs", "blanks.csv"]) == 0


def test_all_that_is_not_sent_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    fields = {f"field{number}": "x" for number in range(13)}
    Path("many.jsonl").write_text(json.dumps({"to": "a@example.org", "text": "x", **fields}) + "\n")
    for command in (["preview", "many.jsonl"], ["check", "--jobs", "many.jsonl"]):
        assert main(command) == 0
        printed = capsys.readouterr()
        assert "field9 and 3 more" in printed.out + printed.err


def test_a_files_jobs_are_checked_without_any_service(environment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--jobs", "jobs.jsonl"]) == 1
    assert "jobs.jsonl:2: envelope can't be sent" in capsys.readouterr().err
    Path("good.jsonl").write_text(json.dumps(JOB) + "\n")
    assert main(["check", "--jobs", "good.jsonl"]) == 0
    assert "not sent: mailOptions.colour" in capsys.readouterr().out


def test_what_stays_unfilled_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    Path("left.jsonl").write_text('{"to": "a@example.org", "subject": "Hello {{ name }}", "text": "*|FNAME|*"}\n')
    assert main(["preview", "left.jsonl"]) == 0
    assert "unfilled     {{ name }}, *|FNAME|*" in capsys.readouterr().err
    assert main(["check", "--jobs", "left.jsonl"]) == 0
    assert "goes out as it stands: {{ name }}, *|FNAME|* (worker_placeholders" in capsys.readouterr().out


@pytest.mark.parametrize(
    "fields",
    [
        {"unsubscribeUrl": "https://app.example.com/u/{{id}}"},
        {"headers": {"List-Unsubscribe": "<https://app.example.com/u/{{id}}>"}},
        {"from": "{{id}} <news@example.com>"},
        {"to": {"name": "{{id}}", "address": "a@example.org"}},
    ],
    ids=str,
)
def test_what_stays_unfilled_in_the_header_is_said(fields: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    Path("left.jsonl").write_text(json.dumps({"to": "a@example.org", "subject": "s", "text": "x", **fields}) + "\n")
    assert main(["check", "--jobs", "left.jsonl"]) == 0
    assert "goes out as it stands: {{id}} (worker_placeholders" in capsys.readouterr().out


def test_what_is_refused_is_listed_by_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    job = {"to": "a@example.org", "text": "x", "colour": "red"}
    lines = [job if number % 2 else {**job, "sendAt": "2099-01-01"} for number in range(60)]
    Path("some.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["check", "--jobs", "some.jsonl"]) == 1
    printed = capsys.readouterr()
    sentences = printed.err.splitlines()
    assert [one.split(":")[1] for one in sentences[:-1]] == [str(number) for number in range(1, 40, 2)]
    assert sentences[-1] == "some.jsonl: 30 of 60 jobs would be refused; the first 20 are shown."
    assert "not sent: colour" in printed.out


def test_a_job_that_redis_takes_no_more_isnt_previewed(capsys: pytest.CaptureFixture[str]) -> None:
    Path("long.jsonl").write_text(json.dumps({"to": "a@example.org", "text": "x" * 8_000_000}) + "\n")
    for command in (["preview", "long.jsonl"], ["check", "--jobs", "long.jsonl"]):
        assert main(command) == 1
        assert "long.jsonl:1: the job has 8,000," in capsys.readouterr().err
