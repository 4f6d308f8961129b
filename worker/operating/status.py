"""`mail-worker status`: what waits, who works, how far each open campaign is, when it ends, and what Redis costs. It
reads Redis only."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from worker.base import keys
from worker.mail.pacing import Limit, seconds_to_send
from worker.queue.bullmq_view import BullView, look
from worker.queue.processes import Process, alive, this_month

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
    """A look at the whole fleet. `oldest_seconds` is the age of the message that waits longest, None without one."""

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
    commands: int
    processes: list[Process]
    campaigns: list[CampaignCounts]
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


def read_status(client: "redis.Redis", account: str, limits: Sequence[Limit], bullmq: str) -> Status:
    """Reads it all.

    Args:
        bullmq: BullMQ's queue, `PREFIX:QUEUE`; empty without one.

    Raises:
        redis.RedisError: Redis is away.
    """
    # Dramatiq's own count would register a heartbeat for a process that isn't there.
    heartbeats: Any = client.zrange(keys.ALIVE, 0, -1)
    with client.pipeline(transaction=False) as pipeline:
        pipeline.hlen(keys.MESSAGES)
        pipeline.hlen(keys.DELAYED_MESSAGES)
        pipeline.zcard(keys.DEAD_LETTERS)
        pipeline.hlen(keys.HELD_MESSAGES)
        pipeline.lindex(keys.WAITING, 0)
        pipeline.lindex(keys.lane(""), 0)
        pipeline.xlen(keys.OUTBOX)
        pipeline.xlen(keys.PARKED_RESULTS)
        pipeline.hgetall(keys.PARKED_CAMPAIGNS)
        pipeline.hget(keys.COMMANDS, this_month())
        pipeline.smembers(keys.OPEN_CAMPAIGNS)
        pipeline.hgetall(keys.CONTROL)
        for process in heartbeats:
            pipeline.scard(keys.fetched(process.decode()))
        answers: list[Any] = pipeline.execute()
    messages, delayed, dead, held, *heads, outbox, parked, parked_campaigns, commands, campaign_ids, control = answers[
        :12
    ]
    in_work = sum(answers[12:])
    paused = {name for name, state in control.items() if state.startswith(b"paused")}
    campaigns = [
        _campaign(client, name.decode(), control.get(name, b"").decode(), bullmq)
        for name in sorted({*campaign_ids, *paused})
    ]
    heads += [client.lindex(keys.lane(campaign.campaign_id), 0) for campaign in campaigns]
    ages = [age for age in (_age_seconds(client, head) for head in heads) if age is not None]
    return Status(
        waiting=max(messages - in_work, 0),
        paused=sum(campaign.waiting for campaign in campaigns if campaign.state.startswith("paused")),
        in_work=in_work,
        delayed=delayed,
        dead_letters=dead,
        held=held,
        oldest_seconds=max(ages, default=None),
        outbox=outbox,
        parked=parked,
        parked_campaigns={name.decode(): json.loads(value)[1] for name, value in sorted(parked_campaigns.items())},
        commands=int(commands or 0),
        processes=alive(client),
        campaigns=campaigns,
        account=_account(client, account, limits),
        bullmq=look(client, bullmq) if bullmq else None,
    )


def show(status: Status) -> Iterator[str]:
    """The status in lines for people."""
    account = status.account
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
    if status.held:
        yield f"held       {status.held} mails that may have been accepted: see mail-worker uncertain list"
    if status.dead_letters:
        yield f"dead       {status.dead_letters} messages that can't be worked on: see mail-worker dead list"
    if not any(process.concurrency for process in status.processes):
        yield "workers    none: nothing will be sent; look at supervisorctl status on the hosts"
    now = time.time()
    for process in status.processes:
        at_once = f", {process.concurrency} mails at once" if process.concurrency else ""
        seen = f"seen {max(now - process.seen_at, 0):.0f} s ago"
        yield f"process    {process.name} {process.version}, pid {process.pid}{at_once}, {seen}"
    for campaign in status.campaigns:
        uncertain = f", {campaign.uncertain} uncertain" if campaign.uncertain else ""
        state = f"; {campaign.state}" if campaign.state else ""
        parked = f", {campaign.parked} put off" if campaign.parked else ""
        yield (
            f"campaign   {campaign.campaign_id}: {campaign.sent} sent, {campaign.failed} failed{uncertain},"
            f" {campaign.waiting} waiting{parked}{state}"
        )
    for limit, used in zip(account.limits, account.used, strict=True):
        yield f"limit      {used} of {limit.mails} mails in {duration(limit.window_ms / 1000)}"
    dollars = max(status.commands - FREE_COMMANDS, 0) * DOLLARS_PER_COMMAND
    yield f"redis      {status.commands:,} commands this month, ${dollars:.2f} at Upstash's price per command"


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


def _account(client: "redis.Redis", name: str, limits: Sequence[Limit]) -> AccountStatus:
    now_s, now_us = client.time()
    ahead: Any = client.hget(keys.CLOCK, "ahead")
    now_ms = int(now_s) * 1000 + int(now_us) // 1000 + int(ahead or 0)
    stored: Any = client.hgetall(keys.account(name))
    fields = {field.decode(): value.decode() for field, value in stored.items()}
    periods = now_ms // 10_000 - int(float(fields.get("period", 0)))
    granted = float(fields.get("granted", 0)) if periods <= 1 else 0.0
    seconds = (now_ms % 10_000) / 1000
    if periods == 0:
        granted += float(fields.get("granted_before", 0))
    seconds = min(seconds + 10, max((now_ms - float(fields.get("busy_since", 0))) / 1000, 0.5))
    in_flight: Any = client.zcard(keys.in_flight(name))
    used = tuple(
        in_flight + sum(int(at) > now_ms - limit.window_ms for at in _times(client, name, limit)) for limit in limits
    )
    return AccountStatus(
        name=name,
        stopped=fields.get("stopped", ""),
        stopped_seconds=max(float(fields.get("stopped_until", 0)) - now_ms, 0) / 1000,
        slowed=float(fields.get("interval_ms", 0)) > 0,
        speed=granted / seconds if granted else None,
        limits=tuple(limits),
        used=used,
    )


def _times(client: "redis.Redis", account: str, limit: Limit) -> list[bytes]:
    times: Any = client.lrange(keys.window(account, limit.window_ms), 0, -1)
    return list(times)


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size or seconds == size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _age_seconds(client: "redis.Redis", identity: bytes | None) -> float | None:
    data: Any = client.hget(keys.MESSAGES, identity.decode(errors="replace")) if identity else None
    try:
        return max(time.time() - float(json.loads(data)["message_timestamp"]) / 1000, 0.0)
    except (KeyError, TypeError, ValueError):
        return None  # It was taken in the meantime, or is rubbish that the dead letters will show.


def _campaign(client: "redis.Redis", campaign_id: str, state: str, bullmq: str) -> CampaignCounts:
    sent, failed, uncertain = client.hmget(keys.counts(campaign_id), ["sent", "failed", "uncertain"])
    waiting: Any = client.llen(keys.lane(campaign_id))
    parked: Any = client.scard(keys.bullmq_parked(bullmq, campaign_id))
    return CampaignCounts(
        campaign_id, int(sent or 0), int(failed or 0), int(uncertain or 0), waiting, parked, state.replace(":", ": ", 1)
    )
