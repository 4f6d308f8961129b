"""`mail-worker status --watch`: a live screen over SSH, for 80 by 24 characters and more."""

import time
from collections.abc import Callable

import redis
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from worker.base.redis_client import explain
from worker.operating.status import duration, versions
from worker.watching.status import CampaignCounts, Status

#: Two commands each time, with BullMQ's queue: 12 a minute.
EVERY_SECONDS = 10.0
TICK_SECONDS = 1.0
#: Lines beside the lists'.
_OTHER_LINES = 12


def watch(look: Callable[[], Status], *, console: Console | None = None, looks: int = 0) -> None:
    """Shows one look after the other until Ctrl-C.

    Args:
        looks: how many; 0 is no end.
    """
    console = console or Console()
    status, problem, looked_at, number = None, "", 0.0, 0
    with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
        while True:
            if time.monotonic() - looked_at >= EVERY_SECONDS or not looked_at:
                try:
                    status, problem = look(), ""
                except redis.RedisError as error:
                    problem = explain(error)
                looked_at, number = time.monotonic(), number + 1
            age = time.monotonic() - looked_at
            live.update(screen(status, problem, age, console.height), refresh=True)
            if number == looks:
                return
            time.sleep(TICK_SECONDS)


def screen(status: Status | None, problem: str, age_seconds: float, height: int) -> RenderableType:
    """What is shown: the last look, or why there's none."""
    if status is None:
        return Text(problem, style="bold red")
    rows = max((height - _OTHER_LINES - len(status.troubles)) // 2, 1)
    old = f"{problem} What follows is {age_seconds:.0f} s old." if problem else f"{age_seconds:.0f} s ago"
    parts: list[RenderableType] = [
        Text.assemble((" mail-worker ", "reverse"), f"  {old}   Ctrl-C ends", style="bold red" if problem else ""),
        *(Text(f"! {sentence}", style="bold red", no_wrap=True, overflow="ellipsis") for sentence in _wrong(status)),
        _numbers(status),
        _campaigns(status, rows),
        _hosts(status, rows),
    ]
    return Group(*parts)


def _wrong(status: Status) -> list[str]:
    wrong = list(status.troubles.values())
    if status.account.stopped and "account" not in status.troubles:
        wrong.append(status.account.stopped)
    if not status.working:
        wrong.append("no worker is there: nothing will be sent")
    if drift := versions(status):
        wrong.append(f"versions: {drift}")
    return wrong


def _numbers(status: Status) -> Table:
    bullmq, account = status.bullmq, status.account
    table = Table.grid(padding=(0, 2), expand=False)
    waiting = status.waiting + (bullmq.waiting if bullmq else 0)
    in_work = status.in_work + (bullmq.active if bullmq else 0)
    delayed = status.delayed + (bullmq.delayed if bullmq else 0)
    speed = f"{account.speed:.1f}/s" if account.speed else "–"
    left = status.seconds_left
    end = "–" if not status.to_send or left is None else duration(left)
    limits = "  ".join(
        f"{used:,}/{limit.mails:,} in {duration(limit.window_ms / 1000)}"
        for limit, used in zip(account.limits, account.used, strict=True)
    )
    slowed = "  SLOWED DOWN" if account.slowed else ""
    table.add_row("waiting", f"{waiting:,}", "in work", f"{in_work:,}", "delayed", f"{delayed:,}", "finish", end)
    table.add_row(
        *("accepted", f"{status.totals.get('accepted', 0):,}", "failed", f"{status.totals.get('failed', 0):,}"),
        *("dead", f"{status.dead_letters:,}", "outbox", f"{status.outbox:,}"),
    )
    table.add_row("speed", speed + slowed, "redis", f"{status.commands:,}/month", "", "", "limits", limits or "none")
    return table


def _campaigns(status: Status, rows: int) -> Table:
    table = Table(box=None, pad_edge=False, expand=True, header_style="dim")
    for name, ratio in (("campaign", 5), ("", 4)):
        table.add_column(name, ratio=ratio, no_wrap=True, overflow="ellipsis")
    for name in ("sent", "failed", "to go"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("state", ratio=4, no_wrap=True, overflow="ellipsis")
    for campaign in sorted(status.campaigns[:rows], key=lambda campaign: campaign.campaign_id):
        table.add_row(*_campaign(campaign))
    if more := status.number_of_campaigns - min(rows, len(status.campaigns)):
        table.add_row(f"and {more:,} more", "", "", "", "", "")
    return table


def _campaign(campaign: CampaignCounts) -> tuple[RenderableType, ...]:
    bar = ProgressBar(total=max(campaign.done + campaign.to_go, 1), completed=campaign.done)
    numbers = (f"{campaign.sent:,}", f"{campaign.failed + campaign.given_up:,}", f"{campaign.to_go:,}")
    return (campaign.campaign_id, bar, *numbers, campaign.state)


def _hosts(status: Status, rows: int) -> Table:
    now = time.time()
    table = Table(box=None, pad_edge=False, expand=True, header_style="dim")
    table.add_column("host", ratio=3, no_wrap=True, overflow="ellipsis")
    for name in ("run", "load", "free MB", "disk MB", "seen"):
        table.add_column(name, justify="right", no_wrap=True)
    for host in status.hosts[:rows]:
        run = f"{host.running}/{host.programs}" if host.programs else "–"
        free = "–" if host.available_mb is None else f"{host.available_mb:,}"
        seen = f"{max(now - host.at, 0):.0f} s"
        table.add_row(host.name, run, f"{host.load}", free, f"{host.disk_free_mb:,}", seen)
    if more := status.number_of_hosts - min(rows, len(status.hosts)):
        table.add_row(f"and {more:,} more", "", "", "", "", "")
    return table
