"""What the other roles get of the worker's variables."""

import json
from pathlib import Path

import pytest

from tests.templates.conftest import GOOD, HERE, play

CASES: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "as it comes": (
        {},
        {"bullmq": "bull:mail-queue", "mail_from": GOOD["worker_mail_from"], "prefixes": ["bull"]},
    ),
    "two prefixes, and a sender by the old name": (
        {
            "worker_bullmq_queue": "news",
            "worker_mail_from": "",
            "worker_extra_environment": {"FROM_EMAIL": "old@example.org"},
            "prefixes": ["{app}", "", "{app}"],
        },
        {"bullmq": "bull:news", "mail_from": "old@example.org", "prefixes": ["{app}", "bull"]},
    ),
    "no queue, and the SMTP user as the sender": (
        {"worker_bullmq_queue": None, "worker_mail_from": ""},
        {"bullmq": "", "mail_from": GOOD["worker_smtp_user"], "prefixes": ["bull"]},
    ),
    "an SMTP user that is no address": (
        {"worker_mail_from": "", "worker_smtp_user": "apikey"},
        {"bullmq": "bull:mail-queue", "mail_from": "", "prefixes": ["bull"]},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_roles_get_what_the_worker_has(name: str, tmp_path: Path) -> None:
    changes, expected = CASES[name]
    # It is the hosts' own here.
    good = {name: value for name, value in GOOD.items() if name != "worker_bullmq_prefix"}
    done = play(HERE / "wiring.yml", {**good, "prefixes": [], **changes, "render_to": str(tmp_path)}, tmp_path)
    assert done.returncode == 0, done.stdout
    assert json.loads((tmp_path / "wired.json").read_text(encoding="utf-8")) == expected
