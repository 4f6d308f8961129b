"""The peers that this project replaces: the old Node worker, and the old app's cron and button."""

import os
import subprocess
import time
from pathlib import Path

from testbed.app import NODE, Major, ensure_node_modules, start_node
from testbed.errors import TestbedError
from testbed.services import Services

READY_SECONDS = 60.0
CRON_SECONDS = 120.0


def old_worker(
    services: Services,
    log: Path,
    *,
    concurrency: int = 5,
    major: Major = 5,
    queue: str = "mail-queue",
    prefix: str = "bull",
    keep_all: bool = False,
    **changes: str,
) -> "subprocess.Popen[bytes]":
    """Starts the old worker and waits until it takes jobs; it adds `completed ID` and `failed ID: …` to `log`.

    Args:
        keep_all: don't remove old completed and failed jobs, so that they can be counted.
        changes: for its environment, such as SMTP_HOST.

    Raises:
        TestbedError: it doesn't start.
    """
    environment = {**_environment(services), "WORKER_CONCURRENCY": str(concurrency)}
    if keep_all:
        environment["OLD_KEEP"] = "all"
    before = log.stat().st_size if log.exists() else 0
    process = start_node("old_worker.mjs", str(major), queue, prefix, environment={**environment, **changes}, log=log)
    deadline = time.monotonic() + READY_SECONDS
    while b"ready\n" not in (printed := log.read_bytes()[before:]):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait(timeout=10)
            said = printed.decode(errors="replace").strip()[-500:]
            raise TestbedError(f"The old worker isn't ready within {READY_SECONDS:.0f} s; it says: {said}")
        time.sleep(0.05)
    return process


def old_cron(
    services: Services,
    *,
    rounds: int = 1,
    button: bool = False,
    crash_before_remove: bool = False,
    major: Major = 5,
    queue: str = "mail-queue",
    prefix: str = "bull",
    **changes: str,
) -> "subprocess.CompletedProcess[str]":
    """Runs the old cron to its end; it prints `sent ID` and `failed ID: …`.

    Args:
        button: do what "process now" did: take the active jobs too, up to 51 of each, and set the campaigns to sent.
        crash_before_remove: end with 1 when the first mail is sent and its row updated.
        changes: for its environment, such as SMTP_HOST.
    """
    ensure_node_modules()
    flags = [*(["--button"] if button else []), *(["--crash-before-remove"] if crash_before_remove else [])]
    return subprocess.run(
        ["node", str(NODE / "cron.mjs"), str(major), queue, prefix, f"--rounds={rounds}", *flags],
        env={"PATH": os.environ["PATH"], **_environment(services), **changes},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=CRON_SECONDS,
        check=False,
    )


def _environment(services: Services) -> dict[str, str]:
    return {
        "REDIS_URL": services.redis_url,
        "SUPABASE_URL": services.supabase_url,
        "SUPABASE_SECRET_KEY": services.supabase_secret_key,
        "SMTP_HOST": services.smtp_host,
        "SMTP_PORT": str(services.smtp_port),
        "SMTP_USER": services.smtp_user,
        "SMTP_PASS": services.smtp_password,
        "NODE_EXTRA_CA_CERTS": str(services.ca_file),
    }
