"""What is wrong, by what was seen: rules, and nothing else. Each sentence says what to do."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from worker.base.alerting import AlertSettings
from worker.queue.control import BY_HAND
from worker.watching.host import Broker, Host
from worker.watching.points import Point
from worker.watching.programs import Program
from worker.watching.status import Status, price

#: What an alert may be about: its kind, and what that is.
KINDS = {
    "stuck": "mails wait, and none is accepted, though nothing holds them back",
    "account": "the mail provider refuses the account",
    "failures": "many of the last minutes' mails failed",
    "paused": "a campaign paused by itself",
    "host": "a host isn't heard of any more",
    "program": "a process doesn't run",
    "flapping": "a process is started again and again",
    "grown": "a process grew over its share of the memory",
    "memory": "a host's memory is used up",
    "disk": "a host's disk is nearly full",
    "clock": "nothing keeps a host's clock right",
    "reboot": "a host needs a reboot",
    "unit": "updates, a backup or a check failed",
    "ends": "a certificate or a key ends soon",
    "unrecorded": "results don't get into Supabase",
    "put-aside": "Supabase refuses results or a campaign for good",
    "dead": "there are messages that can't be worked on",
    "held": "mails that may have been accepted wait for somebody",
    "redis-memory": "Redis's memory is nearly full",
    "redis-budget": "Redis had more commands this month than it was to have",
    "done": "a campaign is complete",
}
#: A host that was silent for so long is gone; it tells of itself once a minute.
HOST_GONE_SECONDS = 240.0
#: A broker tells every five minutes.
BROKER_SILENT_SECONDS = 1200.0
#: Starts of one program in ten minutes, from which on it flaps. A deploy is one.
FLAPPING_STARTS = 4
FLAPPING_SECONDS = 600.0
#: Failures in the last minutes are looked at from so many on.
FAILURES_FROM = 20
FAILURE_MINUTES = 10
#: A result is in the database within seconds.
UNRECORDED_SECONDS = 600.0
#: Of Redis's memory limit.
REDIS_MEMORY_PERCENT = 80
#: A host with less of its RAM left swaps or kills.
LEAST_AVAILABLE_PERCENT = 5
LEAST_DISK_MB = 500
CLOCK_GRACE_SECONDS = 900.0
#: Before a certificate or a key ends.
ENDS_SOON_DAYS = 21


@dataclass(frozen=True, slots=True)
class Trouble:
    """`key` stays the same for as long as it lasts, whatever its numbers. What isn't `urgent` waits for the morning."""

    key: str
    sentence: str
    urgent: bool = True

    def as_list(self) -> list[Any]:
        """For JSON."""
        return list(asdict(self).values())


def host_troubles(
    host: Host,
    programs: Sequence[Program],
    restarts: Mapping[str, int],
    units: Sequence[str],
    ends: Mapping[str, float],
    settings: AlertSettings,
) -> Iterator[Trouble]:
    """What is wrong with one host.

    Args:
        restarts: starts of each program within `FLAPPING_SECONDS`.
        units: of systemd, that failed.
        ends: certificate or key → when it ends, in seconds since 1970.
    """
    name = host.name
    for program in programs:
        if restarts.get(program.name, 0) >= FLAPPING_STARTS:
            yield Trouble(
                f"flapping:{name}/{program.name}",
                f"{program.name} on {name} was started {restarts[program.name]} times in 10 minutes: its log says why"
                f" it ends (supervisorctl tail mail-worker:{program.name} there, or make logs).",
            )
        elif not program.is_running:
            said = f" ({program.said})" if program.said else ""
            yield Trouble(
                f"program:{name}/{program.name}",
                f"{program.name} on {name} is {program.state}{said}: look at its log (make logs), then on the host"
                " supervisorctl start all.",
            )
    yield from _disk(name, host.disk_free_mb, host.disk_mb, settings)
    if host.available_mb is not None and host.available_mb * 100 < LEAST_AVAILABLE_PERCENT * host.ram_mb:
        yield Trouble(
            f"memory:{name}",
            f"{name} has {host.available_mb:,} of {host.ram_mb:,} MB of memory left: lower worker_processes or"
            " worker_concurrency, or take a bigger host (docs/scale.md).",
        )
    if host.clock_kept is False and host.at - host.booted_at > CLOCK_GRACE_SECONDS:
        yield Trouble(
            f"clock:{name}",
            f"Nothing keeps {name}'s clock right: systemctl status chrony systemd-timesyncd there, and let it reach its"
            " time servers (UDP 123, with NTS also TCP 4460).",
        )
    if host.reboot_needed:
        yield _reboot(name, "site.yml")
    yield from _units(name, units)
    for what, ends_at in ends.items():
        days = (ends_at - host.at) / 86_400
        if days < ENDS_SOON_DAYS:
            ended = f"ends in {days:.0f} days" if days >= 0 else "has ended"
            yield Trouble(f"ends:{what}", f"{what} {ended}: renew it (docs/alerts.md).", urgent=days < 3)


def broker_troubles(broker: Broker, settings: AlertSettings, now: float) -> Iterator[Trouble]:
    """What is wrong with a broker on which no worker runs."""
    name = broker.name
    if now - broker.at > BROKER_SILENT_SECONDS:
        yield Trouble(
            f"host:{name}",
            f"The broker {name} hasn't told of itself for {(now - broker.at) / 60:.0f} minutes, though its Redis"
            " answers: systemctl status broker-tell there says why; if it's no broker any more, mail-worker forget"
            f" {name}",
            urgent=False,
        )
    yield from _disk(name, broker.disk_free_mb, broker.disk_mb, settings)
    if broker.reboot_needed:
        yield _reboot(name, "redis.yml")
    yield from _units(name, broker.units)


def _disk(name: str, free_mb: int, size_mb: int, settings: AlertSettings) -> Iterator[Trouble]:
    if free_mb * 100 < settings.disk_percent * size_mb or free_mb < LEAST_DISK_MB:
        yield Trouble(
            f"disk:{name}",
            f"{name} has {free_mb:,} of {size_mb:,} MB of disk left: find what takes it (du -xh / | sort -h | tail),"
            " and remove it or order a bigger disk.",
        )


def _reboot(name: str, playbook: str) -> Trouble:
    return Trouble(
        f"reboot:{name}",
        f"{name} needs a reboot for its security updates: ansible-playbook playbooks/{playbook} -e harden_reboot=true"
        f" --limit {name}; with hardening_updates_reboot it comes by itself at night.",
        urgent=False,
    )


def _units(name: str, units: Sequence[str]) -> Iterator[Trouble]:
    for unit in units:
        yield Trouble(
            f"unit:{name}/{unit}",
            f"{unit} failed on {name}: journalctl -u {unit} there says why; when that is mended, systemctl start {unit}"
            " ends this.",
            urgent=False,
        )


def fleet_troubles(
    status: Status, points: Sequence[Point], heard_at: Mapping[str, float], settings: AlertSettings, now: float
) -> Iterator[Trouble]:
    """What is wrong with the fleet.

    Args:
        points: the last ones, the newest first.
        heard_at: host → when it told of itself last.
    """
    yield from _stuck(status, points, settings)
    account = status.account
    if account.stopped:
        yield Trouble(
            "account",
            f"The mail provider refuses the account, and all hosts wait: {account.stopped} No recipient fails. Solve it"
            " with the provider (docs/providers.md), then: mail-worker account resume",
        )
    for host, at in heard_at.items():
        if now - at > HOST_GONE_SECONDS:
            yield Trouble(
                f"host:{host}",
                f"{host} hasn't been heard of for {(now - at) / 60:.0f} minutes: if it's to come back, look at it in"
                f" the provider's console; if not, make retire ARGS='--limit {host}' or: mail-worker forget {host}",
            )
    yield from _failures(status, points, settings)
    if status.unrecorded_seconds is not None and status.unrecorded_seconds > UNRECORDED_SECONDS:
        yield Trouble(
            "unrecorded",
            f"{status.outbox:,} results aren't in Supabase, the oldest for {status.unrecorded_seconds / 60:.0f}"
            " minutes: mail-worker check says whether it answers; mail-recorder's log says what it refuses.",
        )
    if status.parked or status.number_of_parked_campaigns:
        yield Trouble(
            "put-aside",
            f"Supabase refuses {status.parked:,} results and {status.number_of_parked_campaigns} campaigns for good:"
            " mail-worker status says why.",
            urgent=False,
        )
    if status.dead_letters:
        yield Trouble(
            "dead",
            f"{status.dead_letters:,} messages can't be worked on: mail-worker dead list says why.",
            urgent=False,
        )
    if status.held:
        yield Trouble(
            "held",
            f"{status.held:,} mails may have been accepted and wait for you: mail-worker uncertain list",
            urgent=False,
        )
    states = dict.fromkeys(status.paused_themselves, "paused by itself (mail-worker campaign says why)")
    states |= {campaign.campaign_id: campaign.state for campaign in status.campaigns}
    for campaign_id, state in states.items():
        if state.startswith("paused") and state != f"paused: {BY_HAND}":
            yield Trouble(
                f"paused:{campaign_id}",
                f"Campaign {campaign_id} is {state}. Solve it, then: mail-worker resume {campaign_id}",
            )
    yield from _redis(status, settings)


def _stuck(status: Status, points: Sequence[Point], settings: AlertSettings) -> Iterator[Trouble]:
    minutes = settings.stuck_minutes
    lately = points[: minutes + 1]
    limited = any(used >= limit.mails for limit, used in zip(status.account.limits, status.account.used, strict=True))
    if (
        status.may_leave
        and len(lately) > minutes
        and lately[-1].waiting
        and lately[-1].accepted == status.totals.get("accepted", 0)
        and not (limited or status.account.stopped)
    ):
        yield Trouble(
            "stuck",
            f"{status.may_leave:,} mails wait, and none was accepted for {minutes} minutes: mail-worker check, then the"
            " workers' logs (make logs) say why.",
        )


def _failures(status: Status, points: Sequence[Point], settings: AlertSettings) -> Iterator[Trouble]:
    if not points:
        return
    before = points[: FAILURE_MINUTES + 1][-1]
    failed = status.totals.get("failed", 0) - before.failed
    accepted = status.totals.get("accepted", 0) - before.accepted
    if failed >= FAILURES_FROM and failed * 100 > settings.failure_percent * (failed + accepted):
        yield Trouble(
            "failures",
            f"{failed:,} of the last {failed + accepted:,} mails failed: mail-worker campaign ID groups them by the"
            " server's words.",
        )


def _redis(status: Status, settings: AlertSettings) -> Iterator[Trouble]:
    memory = status.memory
    if memory is not None and memory.limit and memory.used * 100 > REDIS_MEMORY_PERCENT * memory.limit:
        yield Trouble(
            "redis-memory",
            f"Redis has {memory.used / 1_000_000:,.0f} of {memory.limit / 1_000_000:,.0f} MB in use: queue less at"
            " once, take a template for a campaign's mails (docs/jobs.md), or give it more.",
        )
    if settings.redis_commands and status.commands > settings.redis_commands:
        yield Trouble(
            "redis-budget",
            f"Redis has had {status.commands:,} commands this month, more than worker_alert_redis_commands"
            f" ({settings.redis_commands:,}); at Upstash's price that's ${price(status.commands):.2f}.",
            urgent=False,
        )
