"""`mail-worker status`: what waits, who works, and how far each open campaign is. It reads Redis only."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import redis

from worker import keys
from worker.processes import Process, alive


@dataclass(frozen=True, slots=True)
class CampaignCounts:
    """Mails of one open campaign by result."""

    campaign_id: str
    sent: int
    failed: int
    uncertain: int


@dataclass(frozen=True, slots=True)
class Status:
    """A look at the whole fleet. `oldest_seconds` is the age of the message that waits longest, None without one."""

    waiting: int
    in_work: int
    delayed: int
    dead_letters: int
    oldest_seconds: float | None
    outbox: int
    parked: int
    processes: list[Process]
    campaigns: list[CampaignCounts]


def read_status(client: "redis.Redis") -> Status:
    """Reads it all.

    Raises:
        redis.RedisError: Redis is away.
    """
    # Dramatiq's own count would register a heartbeat for a process that isn't there.
    heartbeats: Any = client.zrange(f"{keys.QUEUE_NAMESPACE}:__heartbeats__", 0, -1)
    with client.pipeline(transaction=False) as pipeline:
        pipeline.llen(keys.WAITING)
        pipeline.hlen(keys.DELAYED_MESSAGES)
        pipeline.zcard(keys.DEAD_LETTERS)
        pipeline.lindex(keys.WAITING, 0)
        pipeline.xlen(keys.OUTBOX)
        pipeline.xlen(keys.PARKED_RESULTS)
        pipeline.smembers(keys.OPEN_CAMPAIGNS)
        for process in heartbeats:
            pipeline.scard(f"{keys.QUEUE_NAMESPACE}:__acks__.{process.decode()}.{keys.QUEUE}")
        answers: list[Any] = pipeline.execute()
    waiting, delayed, dead, oldest_id, outbox, parked, campaign_ids = answers[:7]
    return Status(
        waiting=waiting,
        in_work=sum(answers[7:]),
        delayed=delayed,
        dead_letters=dead,
        oldest_seconds=_age_seconds(client, oldest_id),
        outbox=outbox,
        parked=parked,
        processes=alive(client),
        campaigns=[_campaign(client, campaign_id.decode()) for campaign_id in sorted(campaign_ids)],
    )


def show(status: Status) -> Iterator[str]:
    """The status in lines for people."""
    oldest = "" if status.oldest_seconds is None else f", the oldest for {status.oldest_seconds:.0f} s"
    yield f"queue      {status.waiting} waiting{oldest}; {status.in_work} in work, {status.delayed} delayed"
    yield f"outbox     {status.outbox} results on their way to Supabase"
    if status.parked:
        yield f"put aside  {status.parked} results that Supabase refuses (XRANGE {keys.PARKED_RESULTS} - +)"
    if status.dead_letters:
        yield f"dead       {status.dead_letters} messages that can't be worked on (ZRANGE {keys.DEAD_LETTERS} 0 -1)"
    if not status.processes:
        yield "processes  none: nothing will be sent; look at supervisorctl status on the hosts"
    now = time.time()
    for process in status.processes:
        at_once = f", {process.concurrency} mails at once" if process.concurrency else ""
        seen = f"seen {max(now - process.seen_at, 0):.0f} s ago"
        yield f"process    {process.name} {process.version}, pid {process.pid}{at_once}, {seen}"
    for campaign in status.campaigns:
        uncertain = f", {campaign.uncertain} uncertain" if campaign.uncertain else ""
        yield f"campaign   {campaign.campaign_id}: {campaign.sent} sent, {campaign.failed} failed{uncertain}"


def _age_seconds(client: "redis.Redis", identity: bytes | None) -> float | None:
    data: Any = client.hget(keys.WAITING_MESSAGES, identity.decode()) if identity else None
    try:
        return max(time.time() - float(json.loads(data)["message_timestamp"]) / 1000, 0.0)
    except (KeyError, TypeError, ValueError):
        return None  # It was taken in the meantime, or is rubbish that the dead letters will show.


def _campaign(client: "redis.Redis", campaign_id: str) -> CampaignCounts:
    sent, failed, uncertain = client.hmget(keys.counts(campaign_id), ["sent", "failed", "uncertain"])
    return CampaignCounts(campaign_id, int(sent or 0), int(failed or 0), int(uncertain or 0))
