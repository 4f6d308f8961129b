"""`mail-worker status`: what waits, who works, how far each open campaign is, when it ends, and what Redis costs. It
reads Redis only."""

import json
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from worker.base import keys
from worker.base.redis_client import script
from worker.base.sandbox import Sandbox
from worker.mail.pacing import Limit, seconds_to_send
from worker.queue.bullmq_view import BullView, look
from worker.queue.processes import SILENT_AFTER_SECONDS, Process, read_line, this_month

#: https://upstash.com/pricing/redis: pay as you go, after the free commands of a month.
DOLLARS_PER_COMMAND = 0.2 / 100_000
FREE_COMMANDS = 500_000


@dataclass(frozen=True, slots=True)
class CampaignCounts:
    """Mails of one open campaign by result; `state` is empty while it's running, or else says why it isn't."""

    campaign_id: str
    sent: int
    failed: int
    uncertain: int
    waiting: int
    #: Its jobs in BullMQ's queue that are put off, because it's paused.
    parked: int
    state: str


@dataclass(frozen=True, slots=True)
class AccountStatus:
    """What the sending account may do. `speed` is in mails per second of late, None without any."""

    name: str
    stopped: str
    stopped_seconds: float
    slowed: bool
    speed: float | None
    limits: tuple[Limit, ...]
    used: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """A look at the whole fleet. `oldest_seconds` is the age of the message that waits longest, None without one. Of
    campaigns and processes it holds some, and how many there are."""

    waiting: int
    paused: int
    in_work: int
    delayed: int
    dead_letters: int
    held: int
    oldest_seconds: float | None
    outbox: int
    parked: int
    #: Campaign → why the database takes nothing of it.
    parked_campaigns: dict[str, str]
    number_of_parked_campaigns: int
    #: Of this month: sent by workers and recorders, and run by their scripts.
    commands: int
    commands_inside: int
    processes: list[Process]
    number_of_processes: int
    #: Processes that send.
    working: int
    campaigns: list[CampaignCounts]
    number_of_campaigns: int
    account: AccountStatus
    #: None without such a queue.
    bullmq: BullView | None = None

    @property
    def may_leave(self) -> int:
        """Mails that wait for nothing but a worker, in both queues."""
        return self.waiting - self.paused + (self.bullmq.may_leave if self.bullmq else 0)

    @property
    def seconds_left(self) -> float | None:
        """Until all that waits and may leave is sent, None if nothing is known of the speed."""
        mails = self.may_leave + self.in_work + self.delayed
        if self.bullmq:
            mails += self.bullmq.active + self.bullmq.delayed
        return seconds_to_send(mails, self.account.limits, self.account.used, self.account.speed)


def read_status(
    client: "redis.Redis", account: str, limits: Sequence[Limit], bullmq: str, processes: Collection[str] = ()
) -> Status:
    """Reads it all: one command, and one more for BullMQ's queue.

    Args:
        bullmq: BullMQ's queue, `PREFIX:QUEUE`; empty without one.
        processes: those that it holds in any case, by name.

    Raises:
        redis.RedisError: Redis is away.
    """
    found = _ask(client, account, limits, bullmq, processes)
    oldest_ms = found["oldest_ms"]
    return Status(
        waiting=max(found["messages"] - found["in_work"], 0),
        paused=found["paused"],
        in_work=found["in_work"],
        delayed=found["delayed"],
        dead_letters=found["dead"],
        held=found["held"],
        oldest_seconds=max(found["real_ms"] - oldest_ms, 0) / 1000 if oldest_ms else None,
        outbox=found["outbox"],
        parked=found["parked"],
        parked_campaigns=dict(found["parked_campaigns"]),
        number_of_parked_campaigns=found["number_of_parked_campaigns"],
        commands=found["commands"],
        commands_inside=found["commands_inside"],
        processes=sorted((read_line(line) for _, line in found["processes"]), key=lambda process: process.name),
        number_of_processes=found["number_of_processes"],
        working=found["working"],
        campaigns=[_campaign(*row) for row in sorted(found["campaigns"])],
        number_of_campaigns=found["number_of_campaigns"],
        account=_account(account, limits, found),
        bullmq=look(client, bullmq) if bullmq else None,
    )


def _ask(
    client: "redis.Redis", account: str, limits: Sequence[Limit], bullmq: str, processes: Collection[str]
) -> dict[str, Any]:
    status_keys = [
        keys.WAITING,
        keys.MESSAGES,
        keys.DELAYED_MESSAGES,
        keys.DEAD_LETTERS,
        keys.HELD_MESSAGES,
        keys.OUTBOX,
        keys.PARKED_RESULTS,
        keys.PARKED_CAMPAIGNS,
        keys.COMMANDS,
        keys.OPEN_CAMPAIGNS,
        keys.CONTROL,
        keys.ALIVE,
        keys.PROCESSES,
        keys.LANES,
        keys.account(account),
        keys.in_flight(account),
        *(keys.window(account, limit.window_ms) for limit in limits),
    ]
    args: list[str | int] = [
        this_month(),
        keys.bullmq_parked(bullmq, ""),
        int(SILENT_AFTER_SECONDS * 1000),
        json.dumps([limit.window_ms for limit in limits]),
        json.dumps(dict.fromkeys(processes, 1)),
    ]
    answer: Any = client.register_script(script("clock", "status"))(keys=status_keys, args=args)
    found: dict[str, Any] = json.loads(answer.decode(errors="replace"))
    return found


def show(status: Status, sandbox: Sandbox | None = None) -> Iterator[str]:
    """The status in lines for people."""
    account = status.account
    if sandbox is not None:
        yield f"SANDBOX    {sandbox} (MAIL_SANDBOX)"
    if account.stopped:
        again = f"next try in {account.stopped_seconds:.0f} s, or soon by mail-worker account resume"
        yield f"STOPPED    {account.stopped} {again}"
    oldest = "" if status.oldest_seconds is None else f", the oldest for {status.oldest_seconds:.0f} s"
    yield f"queue      {status.waiting} waiting{oldest}; {status.in_work} in work, {status.delayed} delayed"
    if status.bullmq:
        yield from _show_bullmq(status.bullmq)
    if status.may_leave + status.in_work + status.delayed + (status.bullmq.active if status.bullmq else 0):
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
    for process in status.processes:
        at_once = f", {process.concurrency} mails at once" if process.concurrency else ""
        seen = f"seen {max(now - process.seen_at, 0):.0f} s ago"
        yield f"process    {process.name} {process.version}, pid {process.pid}{at_once}, {seen}"
    if more := status.number_of_processes - len(status.processes):
        yield f"process    and {more} more"
    for campaign in status.campaigns:
        uncertain = f", {campaign.uncertain} uncertain" if campaign.uncertain else ""
        state = f"; {campaign.state}" if campaign.state else ""
        parked = f", {campaign.parked} put off" if campaign.parked else ""
        yield (
            f"campaign   {campaign.campaign_id}: {campaign.sent} sent, {campaign.failed} failed{uncertain},"
            f" {campaign.waiting} waiting{parked}{state}"
        )
    if more := status.number_of_campaigns - len(status.campaigns):
        yield f"campaign   and {more} more; these are the ones with waiting mails, and those that had a result last"
    for limit, used in zip(account.limits, account.used, strict=True):
        yield f"limit      {used} of {limit.mails} mails in {duration(limit.window_ms / 1000)}"
    yield (
        f"redis      {status.commands:,} commands this month: ${_price(status.commands):.2f} at Upstash's price after"
        f" {FREE_COMMANDS:,} free ones, or ${_price(status.commands + status.commands_inside):.2f} if it bills the"
        f" {status.commands_inside:,} that scripts ran, too"
    )


def _price(commands: int) -> float:
    """In dollars."""
    return max(commands - FREE_COMMANDS, 0) * DOLLARS_PER_COMMAND


def _show_bullmq(view: BullView) -> Iterator[str]:
    if not view.version:
        yield f"bullmq     no app has opened {view.name} in this Redis yet"
        return
    yield (
        f"bullmq     {view.name}: {view.waiting} waiting; {view.active} in work, {view.delayed} delayed,"
        f" {view.completed} completed, {view.failed} failed"
    )
    if view.paused:
        yield "           its app has paused it: nothing is taken until it calls queue.resume()"
    if view.parked:
        yield f"           {view.parked} jobs of paused campaigns are put off until mail-worker resume"
    if view.foreign:
        yield f"           {view.foreign} jobs at its head are a scheduler's or a flow's: left to BullMQ's own workers"


def _campaign(
    campaign_id: str, sent: int, failed: int, uncertain: int, waiting: int, parked: int, state: str
) -> CampaignCounts:
    return CampaignCounts(campaign_id, sent, failed, uncertain, waiting, parked, state.replace(":", ": ", 1))


def _account(name: str, limits: Sequence[Limit], found: dict[str, Any]) -> AccountStatus:
    now_ms: int = found["now_ms"]
    stopped, *numbers = found["account"]
    stopped_until, period, granted, granted_before, busy_since, interval_ms = (float(value or 0) for value in numbers)
    periods = now_ms // 10_000 - int(period)
    lately = granted if periods <= 1 else 0.0
    seconds = (now_ms % 10_000) / 1000
    if periods == 0:
        lately += granted_before
    seconds = min(seconds + 10, max((now_ms - busy_since) / 1000, 0.5))
    return AccountStatus(
        name=name,
        stopped=stopped,
        stopped_seconds=max(stopped_until - now_ms, 0) / 1000,
        slowed=interval_ms > 0,
        speed=lately / seconds if lately else None,
        limits=tuple(limits),
        used=tuple(found["in_flight"] + used for used in found["used"]),
    )


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size or seconds == size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
