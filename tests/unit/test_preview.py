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
    "mailOptions": {"recipient": "Ann <ann@example.org>", "htmlContent": "<p>Hi", "colour": "red"},
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


SERVICES = """
REDIS_URL=rediss://default:secret@redis.example:6379
SUPABASE_URL=https://project.supabase.co
SUPABASE_SECRET_KEY=sb_secret_1
SMTP_HOST=smtp.example.com
SMTP_USER=news@example.com
SMTP_PASS=secret
"""


def test_a_files_jobs_are_checked_without_any_service(environment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environment.write_text(SERVICES)
    assert main(["check", "--jobs", "jobs.jsonl"]) == 1
    assert "jobs.jsonl:2: envelope can't be sent" in capsys.readouterr().err
    Path("good.jsonl").write_text(json.dumps(JOB) + "\n")
    assert main(["check", "--jobs", "good.jsonl"]) == 0
    assert "not sent, since nobody knows what it is: mailOptions.colour" in capsys.readouterr().out
