"""`mail-worker status` for people: what waits, who works, how far each open campaign is, when it ends, and what Redis
costs."""

import time
from collections.abc import Iterator

from worker.base import keys
from worker.base.sandbox import Sandbox
from worker.queue.bullmq_view import BullView
from worker.queue.processes import Process
from worker.watching.host import Host
from worker.watching.status import FREE_COMMANDS, Status, price


def show(status: Status, sandbox: Sandbox | None = None) -> Iterator[str]:
    """The status in lines for people."""
    account = status.account
    if sandbox is not None:
        yield f"SANDBOX    {sandbox} (MAIL_SANDBOX)"
    if account.stopped:
        again = f"next try in {account.stopped_seconds:.0f} s, or soon by mail-worker account resume"
        yield f"STOPPED    {account.stopped} {again}"
    for sentence in status.troubles.values():
        yield f"TROUBLE    {sentence}"
    oldest = _oldest(status.oldest_seconds)
    yield f"queue      {status.waiting} waiting{oldest}; {status.in_work} in work, {status.delayed} delayed"
    if status.bullmq:
        yield from _show_bullmq(status.bullmq)
    if status.is_paused:
        yield "finish     none: all open campaigns are paused or cancelled"
    elif status.to_send and status.working and not account.stopped:
        left = status.seconds_left
        end = "as fast as the server takes them" if left is None else f"done in about {duration(left)}"
        yield f"finish     {end}{', slowed down by the provider' if account.slowed else ''}"
    yield f"outbox     {status.outbox} results on their way to Supabase"
    if status.parked:
        yield f"put aside  {status.parked} results that Supabase refuses (XRANGE {keys.PARKED_RESULTS} - +)"
    for campaign_id, reason in status.parked_campaigns.items():
        yield f"put aside  campaign {campaign_id}: {reason} Then: mail-worker reconcile {campaign_id} --repair"
    if more := status.number_of_parked_campaigns - len(status.parked_campaigns):
        yield f"put aside  {more} campaigns more (HGETALL {keys.PARKED_CAMPAIGNS})"
    if status.held:
        yield f"held       {status.held} mails that may have been accepted: see mail-worker uncertain list"
    if status.dead_letters:
        yield f"dead       {status.dead_letters} messages that can't be worked on: see mail-worker dead list"
    if not status.working:
        yield "workers    none: nothing will be sent; look at supervisorctl status on the hosts"
    now = time.time()
    for host in status.hosts:
        yield f"host       {_host(host, now)}"
    if more := status.number_of_hosts - len(status.hosts):
        yield f"host       and {more} more"
    if drift := versions(status):
        yield f"versions   {drift}"
    for process in status.processes:
        yield f"process    {_process(process, now)}"
    if more := status.number_of_processes - len(status.processes):
        yield f"process    and {more} more"
    for campaign in status.campaigns:
        given_up = f", {campaign.given_up} given up" if campaign.given_up else ""
        uncertain = f", {campaign.uncertain} uncertain" if campaign.uncertain else ""
        state = f"; {campaign.state}" if campaign.state else ""
        parked = f", {campaign.parked} of them put off" if campaign.parked else ""
        yield (
            f"campaign   {campaign.campaign_id}: {campaign.sent} sent, {campaign.failed} failed{given_up}{uncertain},"
            f" {campaign.to_go} {left_words(campaign.state)}{parked}{state}"
        )
    if more := status.number_of_campaigns - len(status.campaigns):
        yield f"campaign   and {more} more; shown are those that wait for you, then those that send"
    if account.speed:
        yield f"speed      {account.speed:.1f} mails/s lately"
    for limit, used in zip(account.limits, account.used, strict=True):
        yield f"limit      {used} of {limit.mails} mails in {duration(limit.window_ms / 1000)}"
    if account.slowed_at is not None:
        ago = duration(max(now - account.slowed_at, 0))
        yield f"slowed     {ago} ago the provider asked for less speed: {account.slowed_why}"
    yield (
        f"redis      {status.commands:,} commands this month: ${price(status.commands):.2f} at Upstash's price after"
        f" {FREE_COMMANDS:,} free ones, or ${price(status.commands + status.commands_inside):.2f} if it bills the"
        f" {status.commands_inside:,} that scripts ran, too"
    )
    if status.memory is not None:
        most = f" of {status.memory.limit / 1_000_000:,.0f}" if status.memory.limit else ""
        yield f"           {status.memory.used / 1_000_000:,.0f}{most} MB of memory"


def versions(status: Status) -> str:
    """Which releases run, if there are several; empty otherwise."""
    by_version: dict[str, set[str]] = {}
    for process in status.processes:
        by_version.setdefault(process.version, set()).add(process.name.partition("/")[0])
    if len(by_version) < 2:
        return ""
    shown = "; ".join(f"{version} on {', '.join(sorted(hosts))}" for version, hosts in sorted(by_version.items()))
    return f"{len(by_version)} at once, so a deploy is under way or was left out somewhere: {shown}"


def _host(host: Host, now: float) -> str:
    free = "" if host.available_mb is None else f"{host.available_mb:,} of {host.ram_mb:,} MB of memory free, "
    programs = f", {host.running} of {host.programs} programs run" if host.programs else ""
    restarts = f", {host.restarts} starts in the last hour" if host.restarts else ""
    clock = ", NOBODY KEEPS ITS CLOCK RIGHT" if host.clock_kept is False else ""
    reboot = ", needs a reboot" if host.reboot_needed else ""
    return (
        f"{host.name}: load {host.load} on {host.cores} processors, {free}{host.disk_free_mb:,} of"
        f" {host.disk_mb:,} MB of disk free, up for {duration(max(now - host.booted_at, 0))}"
        f"{programs}{restarts}{clock}{reboot}, seen {max(now - host.at, 0):.0f} s ago"
    )


def _process(process: Process, now: float) -> str:
    at_once = f", {process.concurrency} mails at once" if process.concurrency else ""
    since = ""
    if process.started_at:
        up = duration(max(now - process.started_at, 0))
        since = f", up for {up}, {process.memory_mb} MB, {process.cpu_seconds:.0f} s of CPU"
    return (
        f"{process.name} {process.version}, pid {process.pid}{at_once}{since},"
        f" seen {max(now - process.seen_at, 0):.0f} s ago"
    )


def _show_bullmq(view: BullView) -> Iterator[str]:
    if not view.version:
        yield f"bullmq     no app has opened {view.name} in this Redis yet"
        return
    yield (
        f"bullmq     {view.name}: {view.waiting} waiting{_oldest(view.oldest_seconds)}; {view.active} in work,"
        f" {view.delayed} delayed, {view.completed} completed, {view.failed} failed"
    )
    if view.paused:
        yield "           its app has paused it: nothing is taken until it calls queue.resume()"
    if view.parked:
        yield f"           {view.parked} jobs of paused campaigns are put off until mail-worker resume"
    if view.foreign:
        yield f"           {view.foreign} jobs at its head are a scheduler's or a flow's: left to BullMQ's own workers"


def _oldest(seconds: float | None) -> str:
    return "" if seconds is None else f", the oldest for {seconds:.0f} s"


def left_words(state: str) -> str:
    """What the recipients are called whose mail hasn't left, by their campaign's state."""
    return "not sent" if state.startswith("cancelled") else "to go"


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size or seconds == size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
