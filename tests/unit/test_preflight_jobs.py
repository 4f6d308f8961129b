"""The preflight reads the first jobs of the app's queue by the worker's own rules, on a host that has no worker yet."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from preflight.jobs import JobsAnswer, judge_jobs
from preflight.verdicts import jobs_verdict
from tests.unit.action_plugins import load_action_plugin
from worker.mail.names import use_own_names

PACKAGE: str = load_action_plugin("preflight", "probe_services").package_for_jobs()
GOOD = {"email": "ann@example.org", "html": "<p>Hello {{name}}", "colour": "red"}
SETTINGS: dict[str, Any] = {"mail_from": "news@example.com", "placeholders": "name"}


@pytest.fixture(autouse=True)
def usual_names() -> Any:
    yield
    use_own_names({})


def judge(*jobs: object, **settings: object) -> JobsAnswer | None:
    return judge_jobs([json.dumps(job) for job in jobs], PACKAGE, {**SETTINGS, **settings})


def test_good_jobs_get_no_word_but_for_what_nobody_knows() -> None:
    assert judge(GOOD, GOOD) == JobsAnswer(2, (), ("colour",))
    assert judge() is None
    assert judge_jobs(["{}"], "", SETTINGS) is None


def test_what_would_be_refused_is_said() -> None:
    answer = judge(GOOD, {**GOOD, "envelope": {"to": "x"}}, [], mail_from="")
    assert answer is not None
    assert len(answer.refused) == 3
    assert answer.refused[0] == "from is missing, and no MAIL_FROM is set in the worker's settings"
    [refused, unsent] = jobs_verdict("bull:mail-queue", judge(GOOD, {**GOOD, "envelope": {"to": "x"}}))
    assert (refused.level, refused.sentence) == (
        "warning",
        "1 of the first 2 jobs in the BullMQ queue bull:mail-queue would be refused (envelope can't be sent: the"
        " envelope is made of from, to, cc and bcc): mend the app, or name its fields with worker_job_fields"
        " (docs/jobs.md).",
    )
    assert "hold colour, which isn't sent" in unsent.sentence


def test_an_apps_own_names_and_hosts_count() -> None:
    job = {"userEmail": "ann@example.org", "html": "x", "attachments": [{"path": "https://files.example.com/a.pdf"}]}
    answer = judge(job, fields={"email": "userEmail"}, attachment_hosts=["files.example.com"])
    assert answer == JobsAnswer(1)


def test_a_template_is_the_workers_matter() -> None:
    assert judge({"to": "ann@example.org", "templateId": "spring"}) == JobsAnswer(1)


def test_what_stays_unfilled_is_said() -> None:
    assert judge({**GOOD, "subject": "{{name}} <%= x %>"}) == JobsAnswer(1, (), ("colour",), ("{{name}}", "<%= x %>"))
    *_, unfilled = jobs_verdict("bull:mail-queue", judge(GOOD, placeholders="none"))
    assert "hold {{name}}, which goes out as it stands" in unfilled.sentence


def test_what_isnt_json_is_said() -> None:
    assert judge_jobs(["{"], PACKAGE, SETTINGS) == JobsAnswer(1, ("its data isn't JSON",))


def test_a_hosts_python_needs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "package").write_text(PACKAGE)
    module = Path(__file__).parents[2] / "roles/preflight/module_utils/preflight/jobs.py"
    (tmp_path / "program.py").write_text(
        "import runpy, sys\n"
        "judge = runpy.run_path(sys.argv[1])['judge_jobs']\n"
        'job = \'{"email": "a@x.example", "text": "x"}\'\n'
        "print(judge([job], open(sys.argv[2]).read(), {'mail_from': 'b@x.example'}))\n"
    )
    # Without this project's environment, and with nothing but the standard library.
    done = subprocess.run(
        [sys.executable, "-I", "-S", "program.py", str(module), "package"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.stdout.startswith("JobsAnswer(read=1, refused=(), unsent=(), unfilled=())"), done.stderr
