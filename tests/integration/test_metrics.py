"""What Prometheus scrapes is what the services have; a closed campaign ends; one of two hosts tells of the fleet."""

import json
import re
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from demo.tally import tally
from testbed.app import App
from testbed.services import Services
from tests.integration.conftest import MakeCampaign
from tests.integration.programs import Programs, wait_until

#: They run beside the others, with services of their own (make watching).
pytestmark = pytest.mark.watching
QUICK = "tests.integration.quick_watcher"
ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def scrape(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            found: str = answer.read().decode()
            return found
    except OSError:  # It's about to start.
        return ""


def values(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_agree_with_the_services(
    programs: Programs, make_campaign: MakeCampaign, services: Services, queue: redis.Redis, tmp_path: Path
) -> None:
    campaign = make_campaign(200)
    port, file = free_port(), tmp_path / "metrics.prom"
    recorder = programs.start(
        "record", module=QUICK, PYTHONPATH=str(ROOT), METRICS_PORT=str(port), METRICS_FILE=str(file)
    )
    worker = programs.start("run")
    programs.run("pause", campaign.id)
    programs.run("enqueue", str(tmp_path / "jobs.jsonl"))
    seen = ""

    def shows_campaign() -> bool:
        nonlocal seen
        seen = scrape(port)
        return f'campaign="{campaign.id}"' in seen

    wait_until(shows_campaign)
    wait_until(lambda: values(scrape(port)).get(("mail_worker_queue_mails", "dramatiq", "parked")) == 200)
    assert values(seen)["mail_worker_campaign_running", campaign.id] == 0
    programs.run("resume", campaign.id)
    wait_until(lambda: tally(services, campaign).status == "sent")
    counted = tally(services, campaign)
    # A process that ends tells what its last beat hadn't.
    worker.stop()
    wait_until(
        lambda: (
            values(scrape(port)).get(("mail_worker_waiting_seconds_count",)) == counted.accepted
            and campaign.id not in scrape(port)
        )
    )
    text = scrape(port)
    found = values(text)
    assert found["mail_worker_mails_total", "accepted"] == counted.accepted
    assert found["mail_worker_mails_total", "failed"] == 200 - counted.accepted
    assert found["mail_worker_sending_seconds_count",] == counted.accepted
    assert found["mail_worker_sending_seconds_sum",] > 0
    assert found["mail_worker_outbox_results",] == 0
    assert found["mail_worker_campaigns_open",] == 0
    assert found["mail_worker_redis_up",] == 1
    assert {value for name, *labels in found for value in labels if name == "mail_worker_campaign_mails"} == set()
    # Nothing about anybody, neither in labels nor elsewhere.
    assert "@" not in text
    jobs = [json.loads(line) for line in (tmp_path / "jobs.jsonl").read_text(encoding="utf-8").splitlines()]
    for name in ("subscriberId", "subscriber_id", "to", "email"):
        assert not any(str(job[name]) in text for job in jobs if name in job)
    # Prometheus's own linter has nothing to say.
    linted = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, capture_output=True, check=False)
    assert (linted.returncode, linted.stdout + linted.stderr) == (0, "")
    # The file is the same.
    assert values(file.read_text(encoding="utf-8"))["mail_worker_mails_total", "accepted"] == counted.accepted
    recorder.stop()
    assert not file.exists()


def test_how_long_an_apps_jobs_wait_is_counted_from_when_it_queued_them(programs: Programs, app: App) -> None:
    port = free_port()
    programs.start("record", module=QUICK, PYTHONPATH=str(ROOT), METRICS_PORT=str(port))
    an_hour_ago = int(time.time() * 1000) - 3_600_000
    jobs = [
        {"name": "mail", "data": {"to": f"r{number}@example.org", "subject": "s", "text": "x"}} for number in (1, 2)
    ]
    app.ask("addBulk", jobs=[jobs[0], {**jobs[1], "opts": {"timestamp": an_hour_ago}}])
    worker = programs.start("run")
    wait_until(lambda: values(scrape(port)).get(("mail_worker_mails_total", "accepted")) == 2)
    worker.stop()
    wait_until(lambda: values(scrape(port)).get(("mail_worker_waiting_seconds_count",)) == 2)
    found = values(scrape(port))
    assert found["mail_worker_waiting_seconds_bucket", "300.0"] == 1
    assert found["mail_worker_waiting_seconds_bucket", "14400.0"] == 2
    assert 3600 < found["mail_worker_waiting_seconds_sum",] < 3900


def test_one_of_two_hosts_tells_of_the_fleet(programs: Programs, queue: redis.Redis) -> None:
    ports = [free_port(), free_port()]
    for number, port in enumerate(ports):
        changes = {"METRICS_PORT": str(port), "HOST_NAME": f"mail{number}"}
        programs.start("record", module=QUICK, PYTHONPATH=str(ROOT), **changes)
    wait_until(lambda: all("mail_worker_host_load" in scrape(port) for port in ports))
    wait_until(lambda: any("mail_worker_mails_total" in scrape(port) for port in ports))
    told = [values(scrape(port)) for port in ports]
    assert sorted(("mail_worker_mails_total", "accepted") in one for one in told) == [False, True]
    assert sorted(one["mail_worker_watches_fleet",] for one in told) == [0, 1]


def test_a_port_that_is_taken_is_told(programs: Programs, queue: redis.Redis) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        recorder = programs.start("record", module=QUICK, PYTHONPATH=str(ROOT), METRICS_PORT=str(port))
        recorder.wait_for(f"No metrics at 127.0.0.1:{port} (Address already in use): set worker_metrics_port")


def test_a_real_prometheus_scrapes_them(programs: Programs, queue: redis.Redis, tmp_path: Path) -> None:
    port, own = free_port(), free_port()
    programs.start("record", module=QUICK, PYTHONPATH=str(ROOT), METRICS_PORT=str(port))
    configuration = tmp_path / "prometheus.yml"
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```yaml prometheus\n(.*?)```", page, re.DOTALL)
    example = example.replace("127.0.0.1:9117", f"127.0.0.1:{port}").replace("interval: 1m", "interval: 1s")
    configuration.write_text(re.sub(r", 127\.0\.0\.1:9118", "", example), encoding="utf-8")
    prometheus = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={configuration}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{own}",
            "--log.level=error",
        ]
    )
    try:

        def asked(query: str) -> list[list[object]]:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{own}/api/v1/query?query={query}", timeout=10) as answer:
                    return [one["value"] for one in json.load(answer)["data"]["result"]]
            except OSError:  # It's about to start.
                return []

        wait_until(lambda: [value for _, value in asked("mail_worker_watches_fleet")] == ["1"])
        assert [value for _, value in asked("mail_worker_waiting_seconds_count")] == ["0"]
    finally:
        prometheus.terminate()
        prometheus.wait(timeout=20)
