"""The demo's steps, one after the other."""

import json
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from demo.campaign import RECIPIENTS, Campaign
from demo.tally import Tally, tally
from testbed.app import App, AppError, Major, ensure_node_modules
from testbed.errors import TestbedError
from testbed.instance import Instance
from testbed.paths import CHECKOUT
from testbed.services import Services

NAME = "demo"
HOST = "mail1"
SUITES = {"debian13": "trixie", "debian12": "bookworm"}
#: A server far away takes its time for each mail.
MAIL_DELAY_MS = 50
DEADLINE_SECONDS = 300.0
LOOK_EVERY_SECONDS = 0.3
#: What a campaign that is left behind takes.
KEPT_MINUTES = 20
QUEUED_AT_ONCE = 100
#: The major that most web apps have.
BULLMQ_MAJOR: Major = 5

console = Console(highlight=False, soft_wrap=True)


def run_demo(system: str, *, kill: bool, keep: bool) -> int:
    """Provisions, sends, counts; returns 0 when every recipient is accounted for.

    Args:
        kill: end one worker with SIGKILL when a third of the mails are out.
        keep: leave a second campaign behind, which takes `KEPT_MINUTES`.
    """
    started = time.monotonic()
    _step("Starting a bare VPS, and the services that the worker needs")
    # What plays the web app, before anything takes minutes.
    ensure_node_modules()
    instance = Instance(NAME)
    _same_system(instance, system)
    instance.up(
        vps=1, suite=SUITES[system], services=True, mail_delay_ms=MAIL_DELAY_MS, say=lambda text: console.print(text)
    )
    services = Services.load(NAME)
    _step("Turning the VPS into a mail worker: ansible-playbook playbooks/site.yml")
    _provision(instance)
    campaign = Campaign.invent(RECIPIENTS)
    _step(f"Queueing a campaign of {RECIPIENTS:,} recipients, 10 kB each, as a web app does: BullMQ's addBulk")
    _queue(instance, services, campaign)
    _step("Sending")
    result = _watch(instance, services, campaign, kill=kill)
    _explain(result, time.monotonic() - started)
    if not result.accounted_for:
        console.print(
            f"[red]Not every recipient is accounted for within {DEADLINE_SECONDS:.0f} s:[/red] look at mail-worker"
            " status and /var/log/mail-worker in make demo-shell."
        )
    if keep and result.accounted_for:
        _step(f"Leaving a campaign behind that takes {KEPT_MINUTES} minutes: make demo-page")
        _queue_slowly(services, Campaign.invent(RECIPIENTS))
    print(f"demo: {result}", flush=True)
    return 0 if result.accounted_for else 1


def _step(text: str) -> None:
    console.print(f"\n[bold]── {text}[/bold]")


def _same_system(instance: Instance, system: str) -> None:
    path = instance.directory / "system"
    if path.exists() and path.read_text(encoding="ascii") != system:
        console.print("The VPS of the last demo has another system: starting over.")
        instance.down()
    instance.directory.mkdir(parents=True, mode=0o700, exist_ok=True)
    path.write_text(system, encoding="ascii")


def _provision(instance: Instance) -> None:
    playbook = [
        str(Path(sys.executable).parent / "ansible-playbook"),
        "-i",
        "inventory/example",
        "-i",
        str(instance.directory / "hosts.yml"),
        "playbooks/site.yml",
        # For make demo-page; otherwise sshd opens no tunnels (docs/dashboard.md).
        "--extra-vars",
        json.dumps({"access_sshd_settings": {"AllowTcpForwarding": "local", "PermitOpen": "127.0.0.1:8025"}}),
    ]
    if subprocess.run(playbook, cwd=CHECKOUT, check=False).returncode:
        raise TestbedError("ansible-playbook failed: the reason stands above.")


def _queue(instance: Instance, services: Services, campaign: Campaign) -> None:
    campaign.insert(services.database_url, status="draft")
    jobs = instance.directory / "jobs.jsonl"
    campaign.write_app_jobs(jobs)
    with App(BULLMQ_MAJOR, services.redis_url) as app:
        try:
            app.ask("addBulkFile", path=str(jobs))
        except AppError as error:
            raise TestbedError(f"The campaign can't be queued; BullMQ says: {error}") from error
    campaign.set_sending(services.database_url)


def _queue_slowly(services: Services, campaign: Campaign) -> None:
    """As an app does that spreads its mails itself: each job has its delay."""
    campaign.insert(services.database_url)
    spread_ms = KEPT_MINUTES * 60_000 // len(campaign.subscriber_ids)
    jobs = [
        {"name": "email", "data": job, "opts": {"delay": number * spread_ms}}
        for number, job in enumerate(campaign.app_jobs())
    ]
    with App(BULLMQ_MAJOR, services.redis_url) as app:
        for start in range(0, len(jobs), QUEUED_AT_ONCE):
            app.ask("addBulk", jobs=jobs[start : start + QUEUED_AT_ONCE])


def _watch(instance: Instance, services: Services, campaign: Campaign, *, kill: bool) -> Tally:
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("sent {task.fields[sent]}  failed {task.fields[failed]}  {task.fields[rate]:.0f} mails/s  left"),
        TimeRemainingColumn(),
    )
    begin = time.monotonic()
    with Progress(*columns, console=console, refresh_per_second=4) as progress:
        task = progress.add_task("", total=RECIPIENTS, sent=0, failed=0, rate=0.0)
        while True:
            now = tally(services, campaign)
            elapsed = time.monotonic() - begin
            done = now.unique + now.failed
            progress.update(
                task, completed=done, sent=now.unique, failed=now.failed, rate=now.unique / max(elapsed, 0.1)
            )
            if kill and done > RECIPIENTS / 3:
                kill = False
                progress.console.print("kill -9 to one of the workers; what it held comes back within two minutes")
                instance.shell(HOST, ["sh", "-c", "kill -9 $(supervisorctl pid mail-worker:mail-worker_00)"])
            if now.accounted_for or elapsed > DEADLINE_SECONDS:
                return now
            time.sleep(LOOK_EVERY_SECONDS)


def _explain(result: Tally, seconds: float) -> None:
    table = Table(title="The campaign, as the SMTP server and the database tell it", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for words, number in (
        ("recipients queued", result.queued),
        ("mails that the SMTP server accepted", result.accepted),
        ("different recipients among them", result.unique),
        ("recipients that it refused for good", result.failed),
        ("rows with sent = true in Supabase", result.rows_sent),
    ):
        table.add_row(words, f"{number:,}")
    table.add_row("the campaign's status in Supabase", result.status)
    table.add_row("the whole demo took", f"{seconds:.0f} s")
    console.print()
    console.print(table)
    console.print(
        "Look around:  make demo-page    the fleet on a page, at http://127.0.0.1:8025/\n"
        "              make demo-shell   then supervisorctl status, mail-worker status --watch,\n"
        "                                mail-worker campaign, mail-worker why ADDRESS\n"
        "              make demo-inbox   the mails that were accepted last\n"
        "Clean up:     make demo-down"
    )
