"""What the documentation names exists, and what exists is documented."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from worker.errors import InvalidJob
from worker.mail.addresses import Address
from worker.mail.jobs import Defaults, parse_job
from worker.mail.message import build_mail
from worker.mail.names import NAMES, REFUSED, TIMES, TRIALS
from worker.mail.templates import read_template
from worker.operating.why import STATES
from worker.queue.search import MESSAGES

CHECKOUT = Path(__file__).resolve().parents[2]
PAGES = [
    CHECKOUT / page
    for pattern in ("*.md", "docs/*.md", "testbed/README.md", "roles/*/README.md")
    for page in CHECKOUT.glob(pattern)
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_make_verbs_exist(page: Path) -> None:
    makefile = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    verbs = set(re.findall(r"^([a-z0-9-]+):", makefile, re.MULTILINE))
    for verb in re.findall(
        r"(?:^|`)(?:[A-Z_]+=\S+ )?make ([a-z0-9-]+)", page.read_text(encoding="utf-8"), re.MULTILINE
    ):
        assert verb in verbs


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_commands_of_the_worker_exist(page: Path) -> None:
    source = (CHECKOUT / "worker/commands.py").read_text(encoding="utf-8")
    commands = set(re.findall(r'add(?:_campaign_command)?\(\s*"([a-z-]+)"', source))
    for command in re.findall(r"`mail-worker ([a-z-]+)", page.read_text(encoding="utf-8")):
        assert command in commands


def test_every_variable_of_a_role_is_in_its_specs_and_in_the_documentation() -> None:
    page = (CHECKOUT / "docs/configure.md").read_text(encoding="utf-8")
    for role in (CHECKOUT / "roles").iterdir():
        specs = yaml.safe_load((role / "meta/argument_specs.yml").read_text(encoding="utf-8"))
        options = specs["argument_specs"]["main"]["options"]
        defaults = yaml.safe_load((role / "defaults/main.yml").read_text(encoding="utf-8"))
        assert set(defaults) <= set(options)
        for name, option in options.items():
            assert f"| `{name}` |" in page
            assert option.get("required", False) == (name not in defaults)


def test_every_variable_of_the_environment_is_documented() -> None:
    page = (CHECKOUT / "docs/configure.md").read_text(encoding="utf-8")
    source = (CHECKOUT / "worker/base/settings.py").read_text(encoding="utf-8")
    names = re.findall(r'"([A-Z][A-Z_]{5,})"', source)
    assert len(names) > 20
    for name in set(names) - {"WARNING"}:
        assert f"`{name}`" in page, name


def test_the_example_of_a_job_is_one() -> None:
    page = (CHECKOUT / "docs/operate.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```json\n(.*?)\n```", page, re.DOTALL)
    assert parse_job(json.loads(example)).to[0].name == "Ann"


JOBS = (CHECKOUT / "docs/jobs.md").read_text(encoding="utf-8")
DEFAULTS = Defaults(sender=Address("", "news@example.com"), placeholders="fields")


@pytest.mark.parametrize("example", re.findall(r"```json\n(.*?)\n```", JOBS, re.DOTALL))
def test_each_example_of_a_job_is_one(example: str) -> None:
    job = parse_job(json.loads(example), DEFAULTS)
    assert build_mail(job, "id").data
    assert job.unsent == ()


@pytest.mark.parametrize(("example", "words"), re.findall(r"```json refused\n(.*?)\n```\n\n> (.*?)\n", JOBS, re.DOTALL))
def test_each_example_of_a_wrong_job_is_refused(example: str, words: str) -> None:
    with pytest.raises(InvalidJob, match=re.escape(words)):
        parse_job(json.loads(example), DEFAULTS)


def test_the_example_of_a_templates_job_is_one() -> None:
    [example] = re.findall(r"```json template\n(.*?)\n```", JOBS, re.DOTALL)
    template = read_template("spring", {"subject": "Hello {{name}}", "html": "<p>to {{user.city}}"})
    job = parse_job(json.loads(example), DEFAULTS, lambda _: template)
    assert (job.subject, job.html, job.unsent) == ("Hello Ann", "<p>to Zürich", ())


def test_every_name_of_a_field_is_documented() -> None:
    for canonical, names in NAMES.items():
        for name in names:
            assert f"`{name}`" in JOBS, (canonical, name)
    for name in (*TIMES, *TRIALS):
        assert f"`{name}`" in JOBS, name
    for name, why in REFUSED.items():
        assert f"| `{name}` | {why} |" in JOBS


def test_the_example_of_an_apps_job_is_one() -> None:
    page = (CHECKOUT / "docs/migrate-from-bullmq.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```json\n(.*?)\n```", page, re.DOTALL)
    job = parse_job(json.loads(example), Defaults(sender=Address("", "news@example.com"), placeholders="name"))
    assert (job.to[0].email, job.html) == ("ann@example.org", "<p>Hello Ann</p>")


def test_the_readme_lists_each_page_once() -> None:
    table = (CHECKOUT / "README.md").read_text(encoding="utf-8").partition("## Where to go next")[2]
    listed = re.findall(r"\| \[docs/([a-z-]+\.md)\]", table)
    assert sorted(listed) == sorted(page.name for page in (CHECKOUT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_prose_is_wrapped(page: Path) -> None:
    """Tables, quotes and code have lines of their own."""
    prose = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert [line for line in prose.splitlines() if len(line) > 120 and not line.startswith(("|", ">"))] == []


PICTURES = CHECKOUT / "docs/pictures"


def states_in(drawing: str) -> set[str]:
    """By the names that people see."""
    return set(re.findall(r'<text class="state" [^>]*>(.*?)</text>', (PICTURES / drawing).read_text(encoding="utf-8")))


def campaign_controls() -> set[str]:
    """What an operator, or the worker itself, makes of a campaign."""
    source = (CHECKOUT / "worker/lua/control.lua").read_text(encoding="utf-8")
    return set(re.findall(r"'HSET(?:NX)?', CONTROL, campaign, '([a-z]+):'", source))


def test_a_mails_states_are_those_that_why_tells() -> None:
    verdicts = {verdict for verdict, _ in STATES.values()} | {place for _, place in MESSAGES}
    # The database alone has whom nobody has queued.
    assert states_in("mail.svg") == verdicts | campaign_controls() | {"not queued"}
    page = (CHECKOUT / "docs/why.md").read_text(encoding="utf-8")
    explained = {verdict for row in re.findall(r"^\| (`.+?`) \|", page, re.M) for verdict in re.findall("`(.+?)`", row)}
    assert explained == states_in("mail.svg")


def test_a_campaigns_states_are_those_that_the_commands_tell() -> None:
    told = re.findall(r' state = "([a-z]+)"', (CHECKOUT / "worker/operating/campaign.py").read_text(encoding="utf-8"))
    aside = re.findall(r'f"(put aside)  campaign', (CHECKOUT / "worker/operating/status.py").read_text("utf-8"))
    assert states_in("campaign.svg") == {*told, *aside} | campaign_controls()


def test_each_picture_is_shown() -> None:
    shown = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"!\[[^\]]*\]\((\S+)\)", page.read_text(encoding="utf-8"))
    }
    assert shown == set(PICTURES.iterdir())


@pytest.mark.parametrize("picture", list(PICTURES.glob("*.svg")), ids=lambda picture: picture.name)
def test_a_drawing_takes_nothing_from_elsewhere(picture: Path) -> None:
    """GitHub shows it without scripts, and without fonts and files of others."""
    text = picture.read_text(encoding="utf-8")
    assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert re.findall(r'<script|@import|url\((?!#)|href="(?!#)', text) == []
