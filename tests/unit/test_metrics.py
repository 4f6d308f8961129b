"""What Prometheus reads: types and numbers, the fleet from one host only, and nothing about a recipient."""

import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from worker.base.durations import BOUNDS, Durations, Histogram
from worker.mail.pacing import Limit
from worker.queue.bullmq_view import BullView
from worker.queue.processes import Process
from worker.watching.host import Host
from worker.watching.metrics import Metrics, families
from worker.watching.seen import Fleet, Seen
from worker.watching.status import AccountStatus, CampaignCounts, RedisMemory, Status

DOCS = Path(__file__).parents[2] / "docs"
HOST = Host("mail1", 1000.5, "1.2", 500.0, 2000, 900, 0.5, 2, 20_000, 9_000, True, False, 4, 3, 1)
ACCOUNT = "smtp:ann@example.org@smtp.example.org"
STATUS = Status(
    waiting=7,
    paused=2,
    in_work=3,
    delayed=4,
    dead_letters=1,
    held=5,
    oldest_seconds=12.5,
    outbox=6,
    unrecorded_seconds=None,
    parked=0,
    parked_campaigns={"c9": "row 17 of ann@example.org is refused"},
    number_of_parked_campaigns=1,
    commands=1000,
    commands_inside=5000,
    processes=[Process("mail1/mail-worker_00", "1.2", 17, 5, 1000.0, 40, 600.0, 31, 1.5)],
    number_of_processes=1,
    working=1,
    campaigns=[CampaignCounts("c1", 40, 2, 0, 1, 62, 7, 0, "paused: 2 of 42 mails failed")],
    number_of_campaigns=1,
    hosts=[HOST],
    number_of_hosts=1,
    totals={"accepted": 40, "failed": 2},
    memory=RedisMemory(1_000_000, 0),
    troubles={"paused:c1": "Campaign c1 paused by itself."},
    account=AccountStatus(ACCOUNT, "ann@example.org is refused", 1.0, False, None, (Limit(500, 3_600_000),), (43,)),
    bullmq=BullView("bull:mail-queue", "bullmq:5", False, 11, 12, 13, 14, 15, 16, 0, 0.0, 30.0),
)


class One(Collector):
    """Offers what one host saw."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def collect(self) -> Iterator[object]:  # type: ignore[override]
        return families(self._seen)


def text(seen: Seen) -> str:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(One(seen))
    return generate_latest(registry).decode()


def samples(seen: Seen) -> list[Sample]:
    return [sample for family in text_string_to_metric_families(text(seen)) for sample in family.samples]


@pytest.fixture
def seen() -> Seen:
    durations = Durations()
    for seconds in (0.2, 1.0, 20.0, 100_000.0):
        durations.see("waiting", seconds)
    return Seen(HOST, 2, True, Fleet(STATUS, durations.untold()))


def test_numbers_are_those_of_the_look(seen: Seen) -> None:
    found = {(sample.name, *sorted(sample.labels.values())): sample.value for sample in samples(seen)}
    assert found["mail_worker_mails_total", "accepted"] == 40
    assert found["mail_worker_mails_total", "given_up"] == 0
    assert found["mail_worker_queue_mails", "dramatiq", "waiting"] == 5
    assert found["mail_worker_queue_mails", "dramatiq", "parked"] == 2
    assert found["mail_worker_queue_mails", "bullmq", "in_work"] == 12
    assert found["mail_worker_oldest_waiting_seconds",] == 30
    assert found["mail_worker_campaign_mails", "c1", "sent"] == 40
    assert found["mail_worker_campaign_mails", "c1", "to_go"] == 20
    assert found["mail_worker_campaign_running", "c1"] == 0
    assert found["mail_worker_account_stopped",] == 1
    assert found["mail_worker_account_limit_used_mails", "3600"] == 43
    assert found["mail_worker_process_resident_memory_bytes", "mail1/mail-worker_00"] == 31_000_000
    assert found["mail_worker_waiting_seconds_bucket", "1.0"] == 2
    assert found["mail_worker_waiting_seconds_bucket", "86400.0"] == 3
    assert found["mail_worker_waiting_seconds_bucket", "+Inf"] == 4
    assert found["mail_worker_waiting_seconds_sum",] == pytest.approx(100_021.2)
    assert found["mail_worker_sending_seconds_count",] == 0
    assert found["mail_worker_host_memory_bytes",] == 2_000_000_000


def test_no_label_is_about_a_recipient_or_the_account(seen: Seen) -> None:
    shown = text(seen)
    assert "@" not in shown
    labels = {name for sample in samples(seen) for name in sample.labels}
    assert labels <= {"campaign", "from", "le", "process", "queue", "result", "state", "version", "window_seconds"}


def test_the_fleet_is_told_of_by_the_host_that_watches_it(seen: Seen) -> None:
    names = {sample.name for sample in samples(Seen(HOST, 0, True, None))}
    assert "mail_worker_host_load" in names
    fleet = {name for name in names if not re.match(r"mail_worker_(host_|info|look_|redis_up|watches_)", name)}
    assert fleet == set()
    assert "mail_worker_mails_total" in {sample.name for sample in samples(seen)}


def test_no_series_stands_twice(seen: Seen) -> None:
    keys = [(sample.name, *sorted(sample.labels.items())) for sample in samples(seen)]
    assert len(keys) == len(set(keys))


def test_the_file_is_whole_and_goes_with_the_program(seen: Seen, tmp_path: Path) -> None:
    file = tmp_path / "metrics.prom"
    metrics = Metrics(0, str(file))
    metrics.show(seen)
    assert file.read_text() == text(seen)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [file]
    metrics.stop()
    assert not file.exists()


def test_a_file_that_cannot_be_written_is_told(seen: Seen, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Metrics(0, str(tmp_path / "nowhere" / "metrics.prom")).show(seen)
    assert "No such file or directory" in caplog.text
    assert "set worker_metrics_file to a file in /var/log/mail-worker" in caplog.text


def test_what_was_told_is_not_told_again() -> None:
    durations = Durations()
    durations.see("sending", 0.1)
    first = durations.untold()
    durations.see("sending", 1000)
    durations.told(first)
    assert durations.untold() == {"sending:+Inf": 1, "sending:ms": 1_000_000}
    assert Histogram.read("sending", first).buckets == tuple((str(bound), 1) for bound in (*BOUNDS["sending"], "+Inf"))
    durations.see("waiting", -5)
    assert durations.untold()["waiting:1.0"] == 1


def test_the_page_lists_each_of_them(seen: Seen) -> None:
    listed = re.findall(r"^\| `(mail_worker_\w+)(?:\{([\w, ]+)\})?` \| (\w+) \|", _page(), re.MULTILINE)
    there = {}
    for family in text_string_to_metric_families(text(seen)):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {name for sample in family.samples for name in sample.labels} - {"le"}
        there[name] = (labels, family.type)
    assert {name: (set(filter(None, labels.split(", "))), kind) for name, labels, kind in listed} == there


def test_each_query_of_the_dashboard_finds_something(seen: Seen) -> None:
    there = {sample.name for sample in samples(seen)}
    queries = re.findall(r'"expr": "(.*)"', _dashboard())
    assert len(queries) > 20
    for query in queries:
        for name in re.findall(r"mail_worker_\w+", query):
            assert name in there


def test_the_dashboard_is_one_by_grafanas_schema() -> None:
    written = json.loads(_dashboard())
    read = json.loads(json.dumps(Dashboard.from_json(written), cls=JSONEncoder))
    assert not _missing(written, read)
    assert len({panel["id"] for panel in written["panels"]}) == len(written["panels"])


def _missing(written: object, read: object) -> list[object]:
    """What Grafana's schema doesn't have, and so dropped."""
    if isinstance(written, dict) and isinstance(read, dict):
        return [
            found
            for name, value in written.items()
            for found in ([name] if name not in read and value not in ({}, []) else _missing(value, read.get(name)))
        ]
    if isinstance(written, list) and isinstance(read, list):
        return [found for one, other in zip(written, read, strict=True) for found in _missing(one, other)]
    return [] if written == read or written in ({}, []) else [written]


def _page() -> str:
    return (DOCS / "metrics.md").read_text(encoding="utf-8")


def _dashboard() -> str:
    return (DOCS / "grafana" / "mail-worker.json").read_text(encoding="utf-8")
