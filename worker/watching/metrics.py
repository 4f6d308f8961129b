"""Metrics in Prometheus's format, on loopback or in a file: what the host saw last, so that asking costs no command.
The only module that knows prometheus_client; it's imported where they are wanted. docs/metrics.md lists them."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client.core import (
    CollectorRegistry,
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest, start_http_server
from prometheus_client.registry import Collector

from worker.base.durations import Histogram
from worker.watching.host import Host
from worker.watching.seen import Fleet, Seen
from worker.watching.status import AccountStatus, Status

RESULTS = ("accepted", "failed", "given_up", "uncertain")
#: For node_exporter's user, in the log directory's group.
_FILE_MODE = 0o640
_MB = 1_000_000

logger = logging.getLogger(__name__)


class Metrics(Collector):
    """Offers what `show` was given last."""

    def __init__(self, port: int, file: str) -> None:
        """
        Args:
            port: 0 is none.
            file: empty is none.
        """
        self._seen: Seen | None = None
        self._file = Path(file) if file else None
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        self._server = None
        if port:
            try:
                self._server, _ = start_http_server(port, "127.0.0.1", self._registry)
            except OSError as error:
                logger.error(
                    "No metrics at 127.0.0.1:%d (%s): set worker_metrics_port to a free port.", port, error.strerror
                )

    def show(self, seen: Seen) -> None:
        """From now on it's this."""
        self._seen = seen
        if self._file is not None:
            try:
                _replace(self._file, generate_latest(self._registry))
            except OSError as error:
                logger.error(
                    "No metrics in %s (%s): set worker_metrics_file to a file in /var/log/mail-worker.",
                    self._file,
                    error.strerror,
                )

    def stop(self) -> None:
        """Offers nothing any more: a file would tell its last numbers for ever."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus_client."""
        if self._seen is not None:
            yield from families(self._seen)


def families(seen: Seen) -> Iterator[Metric]:
    """All series, each with its help and type."""
    yield from _of_host(seen.host)
    yield _gauge("host_troubles", "Troubles of this host that docs/alerts.md lists.", seen.troubles)
    yield _gauge("redis_up", "Whether Redis answered when this host looked last.", seen.redis_answers)
    yield _gauge("watches_fleet", "Whether this host tells of the whole fleet: one does.", seen.fleet is not None)
    if seen.fleet is not None:
        yield from _of_fleet(seen.fleet)


def _of_host(host: Host) -> Iterator[Metric]:
    info = InfoMetricFamily("mail_worker", "The release that runs on this host.")
    info.add_metric([], {"version": host.version})
    yield info
    yield _gauge("look_time_seconds", "When this host looked last, since 1970.", host.at)
    yield _gauge("host_boot_time_seconds", "When this host was started, since 1970.", host.booted_at)
    yield _gauge("host_memory_bytes", "This host's memory.", host.ram_mb * _MB)
    if host.available_mb is not None:
        yield _gauge("host_memory_available_bytes", "What of it programs can have.", host.available_mb * _MB)
    yield _gauge("host_disk_bytes", "Size of the file system of this host's logs.", host.disk_mb * _MB)
    yield _gauge("host_disk_free_bytes", "What of it is free.", host.disk_free_mb * _MB)
    yield _gauge("host_load", "Programs that want a processor, mean of a minute.", host.load)
    yield _gauge("host_processors", "This host's processors.", host.cores)
    yield _gauge("host_programs_wanted", "Programs that supervisord has on this host.", host.programs)
    yield _gauge("host_programs_running", "How many of them run.", host.running)
    yield _gauge("host_restarts_last_hour", "Their starts in the last hour.", host.restarts)
    if host.clock_kept is not None:
        yield _gauge("host_clock_kept", "Whether something keeps this host's clock right.", host.clock_kept)
    yield _gauge("host_reboot_needed", "Whether updates wait for a reboot.", host.reboot_needed)


def _of_fleet(fleet: Fleet) -> Iterator[Metric]:
    status = fleet.status
    mails = CounterMetricFamily(
        "mail_worker_mails", "Results of tries, since the fleet's first day.", labels=["result"]
    )
    for result in RESULTS:
        mails.add_metric([result], status.totals.get(result, 0))
    yield mails
    for kind, text in (
        ("waiting", "From when a mail was queued until the server accepted it."),
        ("sending", "From the claim of the try that was accepted until the server's reply."),
    ):
        found = Histogram.read(kind, fleet.durations)
        yield HistogramMetricFamily(f"mail_worker_{kind}_seconds", text, list(found.buckets), found.seconds)
    yield _queues(status)
    ages = (status.oldest_seconds, status.bullmq.oldest_seconds if status.bullmq else None)
    yield _gauge("oldest_waiting_seconds", "Age of the mail that waits longest.", max(age or 0 for age in ages))
    yield from _campaigns(status)
    yield from _account(status.account)
    yield _gauge("outbox_results", "Results that aren't in the database yet.", status.outbox)
    yield _gauge("outbox_oldest_seconds", "Age of the oldest of them.", status.unrecorded_seconds or 0)
    yield _gauge("outbox_parked_results", "Results that the database refused for good.", status.parked)
    yield _gauge(
        "parked_campaigns", "Campaigns of which the database takes nothing.", status.number_of_parked_campaigns
    )
    if status.memory is not None:
        yield _gauge("redis_memory_used_bytes", "Redis's memory that is used.", status.memory.used)
        yield _gauge("redis_memory_limit_bytes", "Redis's maxmemory; 0 is no limit.", status.memory.limit)
    yield _labelled(
        "redis_commands_this_month",
        "Redis commands of this fleet since the month's first day (UTC).",
        ["from"],
        [(["processes"], status.commands), (["scripts"], status.commands_inside)],
    )
    yield _gauge("hosts", "Hosts that have told of themselves.", status.number_of_hosts)
    yield _gauge("processes", "Processes that were heard of lately.", status.number_of_processes)
    yield _gauge("processes_sending", "Those of them that send.", status.working)
    yield from _processes(status)
    yield _gauge("troubles", "What is wrong with the fleet (mail-worker status).", len(status.troubles))


def _queues(status: Status) -> Metric:
    rows = [
        (["dramatiq", "waiting"], status.waiting - status.paused),
        (["dramatiq", "parked"], status.paused),
        (["dramatiq", "in_work"], status.in_work),
        (["dramatiq", "delayed"], status.delayed),
        (["dramatiq", "dead"], status.dead_letters),
        (["dramatiq", "held"], status.held),
    ]
    if status.bullmq is not None:
        rows += [
            (["bullmq", "waiting"], status.bullmq.waiting),
            (["bullmq", "parked"], status.bullmq.parked),
            (["bullmq", "in_work"], status.bullmq.active),
            (["bullmq", "delayed"], status.bullmq.delayed),
        ]
    return _labelled("queue_mails", "Mails that are queued; each is in one state.", ["queue", "state"], rows)


def _campaigns(status: Status) -> Iterator[Metric]:
    yield _gauge("campaigns_open", "Campaigns that aren't complete.", status.number_of_campaigns)
    yield _labelled(
        "campaign_mails",
        "Mails of open campaigns by what became of them.",
        ["campaign", "result"],
        (
            ([campaign.campaign_id, result], getattr(campaign, result))
            for campaign in status.campaigns
            for result in ("sent", "failed", "given_up", "uncertain", "waiting", "parked", "to_go")
        ),
    )
    yield _labelled(
        "campaign_running",
        "Whether an open campaign is neither paused nor cancelled.",
        ["campaign"],
        (([campaign.campaign_id], not campaign.state) for campaign in status.campaigns),
    )


def _account(account: AccountStatus) -> Iterator[Metric]:
    yield _gauge("account_stopped", "Whether the provider refuses the account at present.", bool(account.stopped))
    yield _gauge("account_slowed", "Whether the provider has asked for less speed.", account.slowed)
    windows = [f"{limit.window_ms / 1000:g}" for limit in account.limits]
    yield _labelled(
        "account_limit_mails",
        "Mails that the account may send within a time.",
        ["window_seconds"],
        [([window], limit.mails) for window, limit in zip(windows, account.limits, strict=True)],
    )
    yield _labelled(
        "account_limit_used_mails",
        "Mails that it has sent within that time.",
        ["window_seconds"],
        [([window], used) for window, used in zip(windows, account.used, strict=True)],
    )


def _processes(status: Status) -> Iterator[Metric]:
    processes = [([process.name], process) for process in status.processes]
    yield _labelled(
        "process_resident_memory_bytes",
        "A process's memory that isn't swapped out.",
        ["process"],
        ((name, process.memory_mb * _MB) for name, process in processes),
    )
    seconds = CounterMetricFamily(
        "mail_worker_process_cpu_seconds", "A process's time on processors.", labels=["process"]
    )
    for name, process in processes:
        seconds.add_metric(name, process.cpu_seconds)
    yield seconds
    yield _labelled(
        "process_start_time_seconds",
        "When a process was started, since 1970.",
        ["process"],
        ((name, process.started_at) for name, process in processes),
    )


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"mail_worker_{name}", text, value=float(value))


def _labelled(name: str, text: str, labels: list[str], rows: Iterable[tuple[list[str], float]]) -> Metric:
    family = GaugeMetricFamily(f"mail_worker_{name}", text, labels=labels)
    for values, value in rows:
        family.add_metric(values, float(value))
    return family


def _replace(file: Path, text: bytes) -> None:
    # Whoever reads finds the old one or the new one, whole.
    new = file.with_name(f"{file.name}.new")
    new.write_bytes(text)
    new.chmod(_FILE_MODE)
    new.replace(file)
