"""The sentences about missing, untouched and wrong variables; none of them shows a secret."""

from pathlib import Path

import pytest

from tests.templates.conftest import GOOD, HERE, play

WRONG: dict[str, tuple[dict[str, object], str]] = {
    "missing": (
        {"worker_smtp_password": ""},
        "worker_smtp_password is missing for localhost: set it in the inventory, in group_vars/mail_workers/vault.yml.",
    ),
    "placeholder": (
        {"worker_redis_url": "rediss://default:CHANGE-ME@CHANGE-ME.upstash.io:6379"},
        "worker_redis_url still is the example's placeholder (CHANGE-ME): put your own value into the inventory's"
        " group_vars/mail_workers/vault.yml.",
    ),
    "port": (
        {"worker_smtp_port": 0},
        "worker_smtp_port is 0 for localhost, but must be a whole number from 1 to 65535: correct it in the inventory.",
    ),
    "index with a password": (
        {"worker_index_url": "https://reader:hunter2@pypi.example/simple"},
        "worker_index_url holds a user or password, which would show in process lists: leave it out of the address,",
    ),
    "RAM": (
        {"worker_ram_mb": 960, "worker_processes": 13, "worker_concurrency": 5},
        "localhost has 960 MB of RAM, of which 30 % are to stay free, but 13 processes with 5 mails at once need about"
        " 702 MB: at most 12 fit. Lower worker_processes or worker_concurrency in the inventory.",
    ),
    "rate": (
        {"worker_mail_rate": "10 a second"},
        "worker_mail_rate is 10 a second for localhost, but must look like 10/s,500/h,5000/d: correct it in"
        " the inventory.",
    ),
    "queue": (
        {"worker_bullmq_queue": "bull:mail"},
        "worker_bullmq_queue is bull:mail for localhost, but must be a name without spaces and colons, as in the app's"
        " new Queue('mail-queue'): correct it in the inventory, or leave it empty where the app has no BullMQ.",
    ),
    "queue and prefix with spaces": (
        {"worker_bullmq_queue": "mail queue", "worker_bullmq_prefix": "my app"},
        "leave it empty where the app has no BullMQ. worker_bullmq_prefix is my app for localhost, but must be without"
        " spaces, as in the app's options of BullMQ: correct it in the inventory.",
    ),
    "kept jobs": (
        {"worker_bullmq_keep_failed": 0},
        "worker_bullmq_keep_failed is 0 for localhost, but must be a whole number from 1 to 1000000: correct it in the"
        " inventory.",
    ),
    "headers": (
        {"worker_headers": {"X-Priority": None}},
        'worker_headers for localhost must hold header fields with one line of text each, such as { X-Priority: "3" }:'
        " correct it in the inventory.",
    ),
    "runtime": (
        {"worker_runtime": "docker"},
        "worker_runtime is docker for localhost, but must be supervisor or container: correct it in the inventory.",
    ),
    "two": (
        {"worker_concurrency": -80, "worker_smtp_host": ""},
        "worker_smtp_host is missing for localhost: set it in the inventory, in group_vars/mail_workers/main.yml."
        " worker_concurrency is -80 for localhost, but must be a whole number from 1 to 500: correct it in the"
        " inventory.",
    ),
    "processes": (
        {"worker_processes": "many"},
        "worker_processes is many for localhost, but must be a whole number from 1 to 100: correct it in the"
        " inventory.",
    ),
}


def test_good_variables_pass(tmp_path: Path) -> None:
    done = play(HERE / "variables.yml", GOOD, tmp_path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_variable_gets_one_sentence(name: str, tmp_path: Path) -> None:
    changes, expected = WRONG[name]
    done = play(HERE / "variables.yml", {**GOOD, **changes}, tmp_path)
    assert done.returncode != 0
    # YAML folds long lines.
    printed = " ".join(done.stdout.split())
    assert expected in printed
    assert "None" not in printed
    assert str(GOOD["worker_supabase_secret_key"]) not in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
