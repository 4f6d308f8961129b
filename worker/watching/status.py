"""A look at the whole fleet: what waits, who works, how far each open campaign is, when it ends, and what Redis costs.
It reads Redis only. `mail-worker status`, the page, the metrics and the alerts all have their numbers from it."""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import redis

from worker.base import keys
from worker.base.redis_client import script
from worker.mail.pacing import Limit, seconds_to_send
from worker.queue.bullmq_view import BullView, look
from worker.queue.control import BY_HAND, state_words
from worker.queue.processes import SILENT_AFTER_SECONDS, Process, read_line, this_month
from worker.watching.host import Host

#: https://upstash.com/pricing/redis: pay as you go, after the free commands of a month.
DOLLARS_PER_COMMAND = 0.2 / 100_000
FREE_COMMANDS = 500_000

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class CampaignCounts:
    """Mails of one open campaign by result; `state` is empty while it's running, or else says why it isn't."""

    campaign_id: str
    sent: int
    failed: int
    given_up: int
    uncertain: int
    #: In all, as the recorder counted them at its last look; 0 before that.
    recipients: int
    #: In its lane of Dramatiq's queue.
    waiting: int
    #: Its jobs in BullMQ's queue that are put off, because it's paused.
    parked: int
    state: str

    @property
    def done(self) -> int:
        """Recipients to whom nothing more goes."""
        return self.sent + self.failed + self.given_up

    @property
    def to_go(self) -> int:
        """Recipients whose mail is still to go, wherever it is."""
        return max(self.recipients - self.done, self.waiting + self.parked)


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
    #: When the provider asked for less speed last, in seconds since 1970 (None: not that is known), and its words.
    slowed_at: float | None = None
    slowed_why: str = ""


@dataclass(frozen=True, slots=True)
class RedisMemory:
    """In bytes; `limit` is Redis's maxmemory, 0 without one."""

    used: int
    limit: int


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
    #: The age of the oldest result that the database doesn't have, None without one.
    unrecorded_seconds: float | None
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
    #: Those that paused by themselves first, then those with waiting mails, then by their last result.
    campaigns: list[CampaignCounts]
    number_of_campaigns: int
    #: As each host described itself last, by name.
    hosts: list[Host]
    number_of_hosts: int
    #: Results of mails since the fleet's first day: accepted, failed, given_up, uncertain.
    totals: dict[str, int]
    #: None where Redis doesn't tell.
    memory: RedisMemory | None
    #: What is wrong, as it was told: sentence by key.
    troubles: dict[str, str]
    account: AccountStatus
    #: None without such a queue.
    bullmq: BullView | None = None
    #: Campaigns that wait for somebody, by id; `campaigns` may hold some of them only.
    paused_themselves: Collection[str] = ()
    #: By Redis's clock, in seconds since 1970: the hosts' own ones may differ.
    seen_at: float = 0.0

    @property
    def dollars(self) -> float:
        """The price of this month's commands."""
        return price(self.commands)

    @property
    def may_leave(self) -> int:
        """Mails that wait for nothing but a worker, in both queues."""
        return self.waiting - self.paused + (self.bullmq.may_leave if self.bullmq else 0)

    @property
    def to_send(self) -> int:
        """Mails of both queues that are sent, or refused, without anybody's doing: those that come again, too."""
        mails = self.may_leave + self.in_work + self.delayed
        return mails + (self.bullmq.active + self.bullmq.delayed if self.bullmq else 0)

    @property
    def seconds_left(self) -> float | None:
        """Until all of them are sent, None if nothing is known of the speed, or nothing leaves."""
        if not self.working or self.account.stopped or self.is_paused:
            return None
        seconds = seconds_to_send(self.to_send, self.account.limits, self.account.used, self.account.speed)
        # The speed of late is of no use where the app has spread its jobs over an hour.
        return seconds if self.bullmq is None or seconds is None else max(seconds, self.bullmq.last_due_seconds)

    @property
    def is_paused(self) -> bool:
        """Whether all that waits is of paused or cancelled campaigns, as far as is known."""
        known = len(self.campaigns) == self.number_of_campaigns > 0
        return not self.may_leave and not self.in_work and known and all(one.state for one in self.campaigns)


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
    return Status(
        waiting=max(found["messages"] - found["in_work"], 0),
        paused=found["paused"],
        in_work=found["in_work"],
        delayed=found["delayed"],
        dead_letters=found["dead"],
        held=found["held"],
        oldest_seconds=_age(found, "oldest_ms"),
        outbox=found["outbox"],
        unrecorded_seconds=_age(found, "unrecorded_ms"),
        parked=found["parked"],
        parked_campaigns=dict(found["parked_campaigns"]),
        number_of_parked_campaigns=found["number_of_parked_campaigns"],
        commands=found["commands"],
        commands_inside=found["commands_inside"],
        processes=sorted(_told(read_line(line) for _, line in found["processes"]), key=lambda process: process.name),
        number_of_processes=found["number_of_processes"],
        working=found["working"],
        campaigns=[_campaign(row) for row in found["campaigns"]],
        number_of_campaigns=found["number_of_campaigns"],
        hosts=sorted(_told(map(Host.read, found["hosts"])), key=lambda host: host.name),
        number_of_hosts=found["number_of_hosts"],
        totals={result: int(number) for result, number in found["totals"]},
        memory=_memory(found["info"]),
        troubles=dict(found["troubles"]),
        account=_account(account, limits, found),
        bullmq=look(client, bullmq) if bullmq else None,
        paused_themselves=sorted(found["paused_themselves"]),
        seen_at=found["real_ms"] / 1000,
    )


def _told(found: Iterable[Found | None]) -> Iterator[Found]:
    return (one for one in found if one is not None)


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
        keys.HOSTS,
        keys.TOTALS,
        keys.TROUBLES,
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
        f"paused:{BY_HAND}",
    ]
    answer: Any = client.register_script(script("clock", "status"))(keys=status_keys, args=args)
    found: dict[str, Any] = json.loads(answer.decode(errors="replace"))
    return found


def _age(found: dict[str, Any], name: str) -> float | None:
    return max(found["real_ms"] - found[name], 0) / 1000 if found[name] else None


def _memory(info: str) -> RedisMemory | None:
    """From Redis's INFO."""
    values = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    try:
        return RedisMemory(int(values["used_memory"]), int(values.get("maxmemory", 0)))
    except (KeyError, ValueError):
        return None


def price(commands: int) -> float:
    """What so many commands in a month cost, in dollars."""
    return max(commands - FREE_COMMANDS, 0) * DOLLARS_PER_COMMAND


def _campaign(row: list[Any]) -> CampaignCounts:
    *counts, state = row
    return CampaignCounts(*counts, state_words(state))  # type: ignore[call-arg]  # as lua/status.lua has them


def _account(name: str, limits: Sequence[Limit], found: dict[str, Any]) -> AccountStatus:
    now_ms: int = found["now_ms"]
    stopped, slowed_why, *numbers = found["account"]
    stopped_until, period, granted, granted_before, busy_since, interval_ms, slowed_at_ms = (
        float(value or 0) for value in numbers
    )
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
        slowed_at=slowed_at_ms / 1000 or None,
        slowed_why=slowed_why,
    )
