"""`mail-worker status --watch` on a terminal of 80 by 24, while a fleet of two sends. With PICTURES=DIRECTORY it leaves
a picture of itself there (docs/pictures/status.svg)."""

import functools
import io
import os
import re
from pathlib import Path

import pytest
import redis
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from demo.tally import tally
from testbed.services import Services
from tests.integration.conftest import MakeCampaign
from tests.integration.programs import Programs, wait_until
from worker.base.settings import load_settings
from worker.operating.watch import watch
from worker.watching.status import read_status

#: It runs beside the others, with services of its own (make watching).
pytestmark = pytest.mark.watching
QUICK = "tests.integration.quick_watcher"
ROOT = Path(__file__).parents[2]
RATE = "20/s,2000/h"


def test_without_a_terminal_it_says_what_to_do(programs: Programs) -> None:
    for words in (["--watch"], ["--watch", "--json"]):
        code, shown = programs.run("status", *words)
        assert (code, shown.partition(":")[0]) == (
            1,
            "status --watch is a screen, and there's no terminal to show it in",
        )


def test_a_fleet_fits_on_a_small_terminal(
    programs: Programs,
    environment: dict[str, str],
    make_campaign: MakeCampaign,
    services: Services,
    queue: redis.Redis,
    tmp_path: Path,
) -> None:
    paused = make_campaign(60)
    programs.run("enqueue", str(tmp_path / "jobs.jsonl"))
    programs.run("pause", paused.id)
    campaign = make_campaign(600)
    programs.run("enqueue", str(tmp_path / "jobs.jsonl"))
    for name in ("mail1", "mail2"):
        for program in ("record", "run"):
            programs.start(program, module=QUICK, PYTHONPATH=str(ROOT), HOST_NAME=name, MAIL_RATE=RATE)
    settings = load_settings({**environment, "MAIL_RATE": RATE})
    look = functools.partial(
        read_status, redis.Redis.from_url(services.redis_url), settings.account_name, settings.mail_rate, ""
    )
    wait_until(lambda: tally(services, campaign).accepted > 200)
    wait_until(lambda: look().number_of_hosts == 2)

    console = Console(record=True, file=io.StringIO(), width=80, height=24)
    watch(look, console=console, looks=1)
    lines = console.export_text(clear=False).rstrip("\n").splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    shown = "\n".join(lines)
    for words in (campaign.id[:8], paused.id[:8], "paused", "mail1", "mail2", "2,000 in 1 h"):
        assert words in shown, shown
    if directory := os.environ.get("PICTURES"):
        # Without the fonts from elsewhere, which no browser loads into a picture.
        plain = re.sub(r"@font-face {{.*?}}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
        console.save_svg(
            f"{directory}/status.svg", title="mail-worker status --watch", unique_id="status", code_format=plain
        )
