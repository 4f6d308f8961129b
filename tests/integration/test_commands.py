"""The command on the host: right answers, and one sentence for each thing that is wrong."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis

from testbed.services import Services
from tests.integration.programs import Programs
from worker.base import keys
from worker.operating.checks import _room


def test_check_finds_all_well(programs: Programs, services: Services) -> None:
    code, printed = programs.run("check")
    assert code == 0, printed
    assert [line[:4] for line in printed.splitlines()] == ["ok  "] * 5


def test_check_says_that_an_index_is_missing(programs: Programs, unindexed: str) -> None:
    code, printed = programs.run("check", SUPABASE_RECIPIENTS_TABLE=unindexed)
    assert code == 0, printed
    assert "CREATE INDEX ON unindexed (campaign_id, subscriber_id);" in printed
    assert "CREATE INDEX" not in programs.run("check")[1]


WRONG = {
    "redis password": (
        {"UPSTASH_REDIS_URL": "redis://default:wrong-one@{address}:6379/0"},
        "FAIL redis     Redis refuses the user or password that are in REDIS_URL",
    ),
    "redis port": (
        {"UPSTASH_REDIS_URL": "redis://default:wrong-one@{address}:6380/0"},
        "FAIL redis     Redis can't be reached",
    ),
    "redis with TLS": (
        {"UPSTASH_REDIS_URL": "rediss://default:wrong-one@{address}:6379/0"},
        "FAIL redis     Redis doesn't answer",
    ),
    "supabase key": (
        {"SUPABASE_SERVICE_ROLE_KEY": "wrong-one"},
        "FAIL supabase  Supabase refuses the key (Invalid API key): check SUPABASE_SECRET_KEY",
    ),
    "supabase address": (
        {"NEXT_PUBLIC_SUPABASE_URL": "https://{address}:444"},
        "FAIL supabase  Supabase can't be reached at https://{address}:444",
    ),
    "table": ({"SUPABASE_CAMPAIGNS_TABLE": "newsletters"}, "FAIL supabase  Supabase has no table newsletters"),
    "column": (
        {"SUPABASE_RECIPIENT_SENT_COLUMN": "posted"},
        "FAIL supabase  Supabase's table campaign_subscribers lacks",
    ),
    "smtp password": (
        {"SMTP_PASS": "wrong-one"},
        "FAIL mail      SMTP server {address}:587: it refuses the login as sender@testbed.example (535",
    ),
    "smtp port": ({"SMTP_PORT": "26"}, "FAIL mail      SMTP server {address}:26: "),
    "certificate": (
        {"SSL_CERT_FILE": "/dev/null"},
        "FAIL mail      SMTP server {address}:587: its certificate isn't trusted",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_check_says_what_is_wrong_in_one_sentence(name: str, programs: Programs, services: Services) -> None:
    changes, expected = WRONG[name]
    code, printed = programs.run(
        "check", **{key: value.format(address=services.address) for key, value in changes.items()}
    )
    assert code == 1
    assert expected.format(address=services.address) in printed
    assert "wrong-one" not in printed


def test_a_password_that_a_url_must_quote(programs: Programs, services: Services, queue: redis.Redis) -> None:
    password = "p@ss/w#rd?:%"
    queue.config_set("requirepass", password)
    try:
        url = f"redis://default:{quote(password, safe='')}@{services.address}:6379/0"
        code, printed = programs.run("check", UPSTASH_REDIS_URL=url)
    finally:
        queue.config_set("requirepass", services.redis_password)
    assert code == 0, printed
    assert "p@ss" not in printed


def test_eviction_is_refused(programs: Programs, queue: redis.Redis) -> None:
    queue.config_set("maxmemory-policy", "allkeys-lru")
    try:
        code, printed = programs.run("check")
    finally:
        queue.config_set("maxmemory-policy", "noeviction")
    assert code == 1
    assert "set it to noeviction" in printed


def test_check_says_what_waiting_mails_take(programs: Programs, queue: redis.Redis) -> None:
    assert "mails wait" not in programs.run("check")[1]
    for number in range(300):
        queue.hset(keys.MESSAGES, str(number), "x" * (5000 if number % 2 else 15_000))
    used: Any = queue.info("memory")
    queue.config_set("maxmemory", int(used["used_memory"] * 1.25))
    try:
        code, printed = programs.run("check")
    finally:
        queue.config_set("maxmemory", 0)
    assert code == 0, printed
    assert "; 300 mails wait and take about 3 MB; its memory is " in printed
    assert "when it's full, the app can't queue more" in printed


def test_check_says_when_a_record_of_upstashs_is_nearly_full(queue: redis.Redis) -> None:
    for number in range(80):
        queue.hset(keys.MESSAGES, str(number), "x" * 1_000_000)
    assert not [words for words in _room(queue, {}, "redis.example.com") if "Upstash" in words]
    [words] = [words for words in _room(queue, {}, "eu1-a.upstash.io") if "Upstash" in words]
    assert words.startswith("that is one record, of which Upstash's smaller plans take 100 MB: queue fewer at a time")


def test_all_missing_settings_come_at_once(programs: Programs) -> None:
    code, printed = programs.run("check", SMTP_HOST="", SMTP_PASS="", SMTP_PORT="mail")
    assert code == 2
    assert [line.partition(" is ")[0] for line in printed.splitlines()] == [
        "FAIL settings  SMTP_HOST",
        "FAIL settings  SMTP_PORT",
        "FAIL settings  SMTP_PASS",
    ]


def test_send_test(programs: Programs, services: Services, tmp_path: Path) -> None:
    code, printed = programs.run("send-test", f"you.{tmp_path.name}@example.org")
    assert (code, " accepted the mail to you." in printed) == (0, True), printed
    assert any(tmp_path.name in line["rcpt"] for line in services.accepted())
    code, printed = programs.run("send-test", "refused-you@example.org")
    assert code == 1
    assert printed.endswith("refused-you@example.org: 550 5.1.1 there is no such mailbox.\n")
    assert programs.run("send-test", "you") == (1, "ADDRESS isn't one mail address: 'you'.\n")


def test_a_file_with_a_mistake_queues_nothing(programs: Programs, queue: redis.Redis, tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_text('{"to": "a@example.org", "html": "x"}\n{"to": "nobody", "html": "x"}\n{"to"\n', encoding="utf-8")
    code, printed = programs.run("enqueue", str(path))
    assert code == 1
    first, second, how_many = printed.splitlines()
    assert first == f"{path}:2: to isn't one mail address: 'nobody'."
    assert second.startswith(f"{path}:3: the line isn't JSON")
    assert how_many == f"{path}: 2 of 3 jobs would be refused."
    assert queue.llen(keys.WAITING) == 0
    assert programs.run("enqueue", "/nowhere.jsonl") == (
        1,
        "/nowhere.jsonl can't be read: No such file or directory.\n",
    )


def test_enqueue_without_redis(programs: Programs, services: Services, tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_text('{"to": "a@example.org", "html": "x"}\n', encoding="utf-8")
    url = f"redis://default:wrong-one@{services.address}:6380"
    code, printed = programs.run("enqueue", str(path), UPSTASH_REDIS_URL=url)
    assert code == 1
    assert "Redis can't be reached" in printed
    assert "0 of 1 jobs are queued" in printed


def test_status(programs: Programs, tmp_path: Path) -> None:
    assert "workers    none: nothing will be sent" in programs.run("status")[1]
    worker = programs.start("run", SUPERVISOR_PROCESS_NAME="worker-7")
    worker.wait_for("mails at once")
    code, printed = programs.run("status")
    assert code == 0
    assert "queue      0 waiting; 0 in work, 0 delayed" in printed
    assert f"/worker-7 0.1.0, pid {worker.process.pid}, 5 mails at once" in printed


def test_an_environment_file_that_is_not_there(programs: Programs, tmp_path: Path) -> None:
    code, printed = programs.run("check", MAIL_WORKER_ENV_FILE=str(tmp_path / "none.env"))
    assert code == 2
    assert printed.startswith(f"FAIL settings  {tmp_path}/none.env doesn't exist: MAIL_WORKER_ENV_FILE names it.")


def test_no_secret_is_in_the_process_list(programs: Programs, services: Services) -> None:
    program = programs.start("run")
    program.wait_for("mails at once")
    command_line = Path(f"/proc/{program.process.pid}/cmdline").read_bytes()
    assert services.smtp_password.encode() not in command_line


def test_workers_never_load_supabase(programs: Programs) -> None:
    program = programs.start("run")
    program.wait_for("mails at once")
    maps = Path(f"/proc/{program.process.pid}/maps").read_text(encoding="utf-8")
    # pydantic comes with supabase, and its compiled core shows in the maps.
    assert "pydantic_core" not in maps
    assert "uvloop" in maps


def test_a_worker_that_starts_before_redis_waits_for_it(programs: Programs, services: Services) -> None:
    services.control("redis", "stop")
    try:
        worker = programs.start("run")
        worker.wait_for("Trying again.")
    finally:
        services.control("redis", "start")
    worker.wait_for("mails at once")
