"""What is wrong is told: each once, together, with its end, by both ways; and the numbers are those of the services."""

import hashlib
import hmac
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import redis

from demo.tally import tally
from testbed.services import Services
from tests.integration.conftest import MakeCampaign
from tests.integration.programs import Program, Programs, wait_until
from tests.integration.test_status import watched
from worker.base import keys
from worker.queue.producer import enqueue
from worker.watching.points import Point, read_points
from worker.watching.troubles import KINDS

#: They run beside the others, with services of their own (make watching).
pytestmark = pytest.mark.watching
QUICK = "tests.integration.quick_watcher"
SECRET = "signs-what-goes-out"
ROOT = Path(__file__).parents[2]


@dataclass
class Webhook:
    """A web server that keeps what was posted; `answer` is its status code."""

    url: str = ""
    answer: int = 200
    posts: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    pings: int = 0

    def told(self) -> list[str]:
        """`STATE KEY` of each alert that it took."""
        return [f"{one['state']} {one['key']}" for _, body in self.posts for one in json.loads(body)["alerts"]]

    def sentence(self, key: str) -> str:
        found: str = next(
            one["sentence"] for _, body in self.posts for one in json.loads(body)["alerts"] if one["key"] == key
        )
        return found


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    webhook = Webhook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if webhook.answer == 200:
                webhook.posts.append((dict(self.headers), body))
            self.send_response(webhook.answer)
            self.end_headers()

        def do_GET(self) -> None:
            webhook.pings += 1
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        webhook.url = f"http://127.0.0.1:{server.server_port}/hook"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield webhook
        server.shutdown()


@pytest.fixture
def told(webhook: Webhook) -> dict[str, str]:
    """The environment of a fleet that tells."""
    return {
        "PYTHONPATH": str(ROOT),
        "ALERT_WEBHOOK_URL": webhook.url,
        "ALERT_WEBHOOK_SECRET": SECRET,
        "ALERT_PING_URL": webhook.url.replace("hook", "ping"),
        "ALERT_STUCK_MINUTES": "2",
    }


def status(programs: Programs) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(programs.run("status", "--json")[1])
    return found


def once(webhook: Webhook, key: str) -> None:
    """Waits until a trouble was told and is over, and sees that each was said once."""
    wait_until(lambda: f"over {key}" in webhook.told())
    assert [line for line in webhook.told() if line.endswith(f" {key}")] == [f"began {key}", f"over {key}"]


def test_a_refused_account_is_told_and_so_is_its_end(
    programs: Programs, webhook: Webhook, told: dict[str, str], queue: redis.Redis
) -> None:
    recorder = programs.start("record", module=QUICK, **told)
    worker = programs.start("run", SMTP_PASS="wrong")
    for _ in enqueue(queue, iter([{"to": "a@example.org", "subject": "s", "html": "<p>x</p>"}])):
        pass
    wait_until(lambda: "began account" in webhook.told())
    assert "mail-worker account resume" in webhook.sentence("account")
    code, shown = programs.run("status", "--exit-code")
    assert code == 3
    assert "TROUBLE    The mail provider refuses the account" in shown
    worker.stop()
    programs.start("run")
    programs.run("account", "resume")
    once(webhook, "account")
    assert "Over: The mail provider refuses the account" in json.loads(webhook.posts[-1][1])["text"]
    headers, body = webhook.posts[0]
    at, digest = headers["X-Mail-Worker-Signature"].removeprefix("t=").split(",v1=")
    assert digest == hmac.new(SECRET.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    assert webhook.pings > 0
    assert webhook.url not in recorder.text()
    assert SECRET not in recorder.text()


def test_mails_that_nobody_takes_and_what_is_no_mail(
    programs: Programs,
    webhook: Webhook,
    told: dict[str, str],
    queue: redis.Redis,
    make_campaign: MakeCampaign,
    tmp_path: Path,
) -> None:
    campaign = make_campaign(3)
    programs.start("record", module=QUICK, **told)
    programs.run("enqueue", str(tmp_path / "jobs.jsonl"))
    queue.rpush(keys.WAITING, "rubbish")
    queue.hset(keys.MESSAGES, "rubbish", "no message")
    wait_until(lambda: "began stuck" in webhook.told())
    programs.start("run")
    once(webhook, "stuck")
    wait_until(lambda: "began dead" in webhook.told())
    programs.run("dead", "drop", "--all")
    once(webhook, "dead")
    wait_until(lambda: "happened done" in webhook.told())
    assert f"Campaign {campaign.id} is complete: 3 sent, 0 failed or given up." in webhook.sentence("done")
    assert webhook.told().count("happened done") == 1


def tells_in_vain(programs: Programs, webhook: Webhook, told: dict[str, str], queue: redis.Redis) -> Program:
    """A recorder that has something to tell, which the webhook doesn't take."""
    webhook.answer = 503
    queue.lpush(keys.EVENTS, json.dumps({"kind": "done", "sentence": "Once.", "at": 1.0, "urgent": False}))
    return programs.start("record", module=QUICK, **told)


def test_a_webhook_that_is_away_loses_nothing(
    programs: Programs, webhook: Webhook, told: dict[str, str], queue: redis.Redis
) -> None:
    recorder = tells_in_vain(programs, webhook, told, queue)
    recorder.wait_for("The webhook for alerts doesn't take them (HTTP 503): check worker_alert_webhook_url.")
    webhook.answer = 200
    wait_until(lambda: "happened done" in webhook.told())
    wait_until(lambda: queue.llen(keys.EVENTS) == 0)
    assert webhook.told() == ["happened done"]


def test_whoever_reads_alerts_and_never_answers_gets_them_a_few_times(
    programs: Programs, webhook: Webhook, told: dict[str, str], queue: redis.Redis
) -> None:
    recorder = tells_in_vain(programs, webhook, told, queue)
    # A point comes each of these minutes, of a second each.
    wait_until(lambda: queue.llen(keys.POINTS) >= 8)
    assert 2 <= recorder.text().count("INFO    Once.") <= 4


def test_a_clock_that_was_ahead_stops_no_history(programs: Programs, queue: redis.Redis) -> None:
    now = int(time.time())
    for at in (now - 60, now + 7200, now + 7260):
        queue.lpush(keys.POINTS, Point(at, 0, 0, 0, 0, 0, 0, 0, 0, {}).as_json())
    programs.start("record", module=QUICK)
    wait_until(lambda: now - 60 < read_points(queue)[-1].at <= time.time())
    found = [point.at for point in read_points(queue)]
    assert found == sorted(found)
    assert found[0] == now - 60


def test_a_host_whose_clock_is_behind_takes_nothing_back(programs: Programs, queue: redis.Redis) -> None:
    seconds = int(time.time())
    for at in (seconds - 60, seconds - 2):
        queue.lpush(keys.POINTS, Point(at, 0, 0, 0, 0, 0, 0, 0, 0, {}).as_json())
    programs.start("record", module=QUICK, CLOCK_BEHIND="3600")
    wait_until(lambda: read_points(queue)[-1].at > seconds - 2)
    assert [point.at for point in read_points(queue)][:2] == [seconds - 60, seconds - 2]


def test_what_goes_wrong_on_a_host(programs: Programs, webhook: Webhook, told: dict[str, str], tmp_path: Path) -> None:
    host = tmp_path / "host"
    (host / "timesync").mkdir(parents=True)
    (host / "failed").mkdir()
    (host / "log").mkdir()
    (host / "timesync" / "synchronized").touch()
    socket = tmp_path / "supervisor.sock"
    configuration = tmp_path / "supervisord.conf"
    configuration.write_text(
        f"[supervisord]\nnodaemon=true\nlogfile={tmp_path}/supervisord.log\npidfile={tmp_path}/pid\n"
        f"[unix_http_server]\nfile={socket}\n[rpcinterface:supervisor]\n"
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
        "[program:mail-worker]\ncommand=/bin/sleep 600\nautorestart=true\nstartsecs=0\n"
        f"[supervisorctl]\nserverurl=unix://{socket}\n"
    )
    bin_directory = Path(sys.executable).parent
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600m", "tmpfs", str(host / "log")], check=True)
    supervisord = subprocess.Popen([bin_directory / "supervisord", "--configuration", configuration])

    def control(*words: str) -> None:
        subprocess.run([bin_directory / "supervisorctl", "-c", configuration, *words], check=False)

    try:
        wait_until(socket.exists)
        url = {"SUPERVISOR_SERVER_URL": f"unix://{socket}", "HOST_DIRECTORY": str(host), "ALERT_DISK_PERCENT": "1"}
        programs.start("record", module=QUICK, **told, **url)
        wait_until(lambda: status(programs)["hosts"] != [])
        [seen] = status(programs)["hosts"]
        assert (seen["programs"], seen["running"], seen["clock_kept"]) == (1, 1, True)
        # A disk that fills, a clock that nobody keeps, a unit that failed, a process that ends.
        (host / "log" / "big").write_bytes(b"\0" * 300_000_000)
        (host / "timesync" / "synchronized").unlink()
        (host / "failed" / "redis-backup.service").touch()
        (host / "reboot-required").touch()
        control("stop", "mail-worker")
        place = seen["name"]
        for kind in (f"disk:{place}", f"clock:{place}", f"unit:{place}/redis-backup.service", f"reboot:{place}"):
            wait_until(lambda kind=kind: f"began {kind}" in webhook.told())  # type: ignore[misc]
        wait_until(lambda: f"began program:{place}/mail-worker" in webhook.told())
        (host / "log" / "big").unlink()
        (host / "timesync" / "synchronized").touch()
        (host / "failed" / "redis-backup.service").unlink()
        (host / "reboot-required").unlink()
        control("start", "mail-worker")
        for kind in (f"disk:{place}", f"clock:{place}", f"reboot:{place}", f"program:{place}/mail-worker"):
            once(webhook, kind)
        # One that's started again and again.
        for _ in range(5):
            control("restart", "mail-worker")
            time.sleep(1.5)  # Its starts are told apart by whole seconds, and seen once in each.
        wait_until(lambda: f"began flapping:{place}/mail-worker" in webhook.told())
    finally:
        supervisord.terminate()
        supervisord.wait(timeout=20)
        subprocess.run(["umount", "-l", str(host / "log")], check=True)


def test_a_host_that_is_gone_is_missed_until_it_is_forgotten(
    programs: Programs, webhook: Webhook, told: dict[str, str], queue: redis.Redis
) -> None:
    queue.hset(keys.HOST_TROUBLES, "mail9", json.dumps([1_700_000_000_000, "[]"]))
    programs.start("record", module=QUICK, **told)
    wait_until(lambda: "began host:mail9" in webhook.told())
    assert "mail-worker forget mail9" in webhook.sentence("host:mail9")
    assert programs.run("forget", "mail9")[0] == 0
    once(webhook, "host:mail9")
    assert programs.run("forget", "mail9") == (1, "No host mail9 is known: see mail-worker status.\n")


def test_what_a_broker_without_workers_tells_of_itself_is_told(
    programs: Programs, webhook: Webhook, told: dict[str, str], queue: redis.Redis
) -> None:
    def tell(name: str = "broker9", **changes: object) -> None:
        line = {"at": time.time(), "disk_mb": 20_000, "disk_free_mb": 9_000, "reboot_needed": False, "units": []}
        queue.hset(keys.BROKERS, name, json.dumps(line | changes))

    tell(reboot_needed=True, units=["redis-backup"], disk_free_mb=100)
    queue.hset(keys.BROKERS, "rubbish", "[]")
    tell(socket.gethostname(), disk_free_mb=100)
    programs.start("record", module=QUICK, **told)
    troubles = ("disk:broker9", "reboot:broker9", "unit:broker9/redis-backup")
    wait_until(lambda: {f"began {key}" for key in troubles} <= set(webhook.told()))
    assert "playbooks/redis.yml" in webhook.sentence("reboot:broker9")
    # That host tells of itself, by its recorder.
    assert f"began disk:{socket.gethostname()}" not in webhook.told()
    tell()
    for key in troubles:
        once(webhook, key)
    tell(at=time.time() - 3600)
    wait_until(lambda: "began host:broker9" in webhook.told())
    assert programs.run("forget", "broker9")[0] == 0
    once(webhook, "host:broker9")


def test_one_of_each_kind_can_be_tried(
    programs: Programs, webhook: Webhook, told: dict[str, str], services: Services
) -> None:
    port = services.smtp_port
    mail = {
        "ALERT_MAIL_TO": "oncall@testbed.example",
        "ALERT_SMTP_URL": f"smtp://{services.smtp_user}:{services.smtp_password}@{services.smtp_host}:{port}",
    }
    assert programs.run("alert-test", **told, **mail)[0] == 0
    assert {line.removeprefix("happened ") for line in webhook.told()} == set(KINDS)
    wait_until(lambda: any("oncall@testbed.example" in line["rcpt"] for line in services.accepted()))
    wrong = {**mail, "ALERT_SMTP_URL": mail["ALERT_SMTP_URL"].replace(services.smtp_password, "wrong")}
    code, said = programs.run("alert-test", **told, **wrong)
    assert code == 1
    assert "check worker_alert_smtp_url" in said
    assert "Nobody is told: set worker_alert_webhook_url" in programs.run("alert-test")[1]


def test_the_numbers_are_those_of_the_services(
    programs: Programs, make_campaign: MakeCampaign, services: Services, queue: redis.Redis, tmp_path: Path
) -> None:
    campaign = make_campaign(200)
    programs.start("run")
    programs.start("record", module=QUICK, PYTHONPATH=str(ROOT))
    programs.run("enqueue", str(tmp_path / "jobs.jsonl"))
    wait_until(lambda: tally(services, campaign).status == "sent")
    found = status(programs)
    counted = tally(services, campaign)
    assert found["totals"]["accepted"] == counted.accepted
    assert found["totals"].get("failed", 0) == 200 - counted.accepted
    assert (found["waiting"], found["in_work"], found["dead_letters"]) == (0, 0, 0)
    assert {process["name"].split("/")[1].split("-")[0] for process in found["processes"]} == {"worker", "recorder"}
    assert all(process["memory_mb"] > 10 for process in found["processes"])
    wait_until(lambda: any(point.accepted == counted.accepted for point in read_points(queue)))


def test_watching_costs_four_commands_a_minute(programs: Programs, services: Services, queue: redis.Redis) -> None:
    recorder = programs.start("record", module=QUICK, PYTHONPATH=str(ROOT))
    wait_until(lambda: queue.llen(keys.POINTS) > 2)

    def minutes() -> None:
        before = queue.llen(keys.POINTS)
        wait_until(lambda: queue.llen(keys.POINTS) >= before + 5)

    seen = [name for name in watched(services, minutes) if name == "EVALSHA"]
    assert len(seen) <= 6 * 4
    recorder.stop()
