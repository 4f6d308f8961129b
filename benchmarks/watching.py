"""What it costs to watch: Redis commands a minute and memory of a recorder that watches, against one that doesn't, and
commands a minute of `status --watch` and of the page. Exit code 1 above 5, 10 MB and 12.

.venv/bin/python -m benchmarks.watching [--minutes 5]
"""

import argparse
import os
import pty
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.bench import Bench, bench
from benchmarks.commands import counting
from benchmarks.processes import Measured, as_on_a_host, mail_worker, start

MOST_COMMANDS, MOST_MB, MOST_COMMANDS_LOOKING = 5.0, 10.0, 12.0
#: As often as page.js asks.
PAGE_SECONDS = 15.0
#: Until all have begun.
START_SECONDS = 20.0


def recorder(setup: Bench, minutes: float, command: list[str]) -> tuple[float, float]:
    """Commands a minute and the peak of memory in MB of a recorder that has nothing to record."""
    setup.client.flushall()
    with _running(setup, command, "writes to") as process:
        time.sleep(START_SECONDS)
        with counting(setup) as counted:
            time.sleep(minutes * 60)
        return counted.sent / minutes, process.peak_rss_mb


def looking(setup: Bench, minutes: float, look: Callable[[threading.Event], None]) -> float:
    """Commands a minute while somebody looks, and nothing else runs."""
    setup.client.flushall()
    done = threading.Event()
    looker = threading.Thread(target=look, args=(done,), daemon=True)
    looker.start()
    time.sleep(START_SECONDS)
    with counting(setup) as counted:
        time.sleep(minutes * 60)
    done.set()
    looker.join(timeout=30)
    return counted.sent / minutes


def screen(setup: Bench) -> Callable[[threading.Event], None]:
    """`status --watch` on a terminal of its own."""

    def look(done: threading.Event) -> None:
        terminal, its_end = pty.openpty()
        command = [*mail_worker("status"), "--watch"]
        process = subprocess.Popen(command, env=setup.environment(1), stdin=its_end, stdout=its_end, stderr=its_end)
        os.close(its_end)
        # Somebody has to read, or it waits.
        threading.Thread(target=_read, args=(terminal,), daemon=True).start()
        done.wait()
        process.terminate()
        process.wait(timeout=20)

    return look


def page(setup: Bench) -> Callable[[threading.Event], None]:
    """The page, and two browsers that ask as page.js does."""

    def look(done: threading.Event) -> None:
        with _running(setup, [*mail_worker("dashboard"), "--port", "0"], "shows the fleet") as process:
            found = re.search(r"http://\S+/", process.log.read_text(encoding="utf-8"))
            if found is None:
                raise RuntimeError("the page has no address")
            while not done.wait(PAGE_SECONDS / 2):
                urllib.request.urlopen(f"{found[0]}api/fleet?since=0", timeout=10).read()

    return look


@contextmanager
def _running(setup: Bench, command: list[str], words: str) -> Iterator[Measured]:
    environment = {**setup.environment(1), "LOG_LEVEL": "INFO", **as_on_a_host(setup.directory)}
    process = start(command, environment, setup.directory / "watching.log")
    try:
        process.wait_for(words)
        yield process
    finally:
        process.stop()


def _read(terminal: int) -> None:
    try:
        while os.read(terminal, 65_536):
            pass
    except OSError:  # The other end was closed.
        os.close(terminal)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5)
    minutes = parser.parse_args().minutes
    unwatched = [sys.executable, "-m", "benchmarks.unwatched", "record"]
    with bench() as setup:
        alone, alone_mb = recorder(setup, minutes, unwatched)
        watched, watched_mb = recorder(setup, minutes, mail_worker("record"))
        by_screen, by_page = (looking(setup, minutes, look(setup)) for look in (screen, page))
    print(f"recorder        commands/min {alone:5.1f}   peak MB {alone_mb:5.1f}")
    print(f"and it watches  commands/min {watched:5.1f}   peak MB {watched_mb:5.1f}")
    print(f"status --watch  commands/min {by_screen:5.1f}")
    print(f"the page        commands/min {by_page:5.1f}")
    commands, megabytes = watched - alone, watched_mb - alone_mb
    print(f"watching: {commands:.1f} commands a minute and {megabytes:.1f} MB more, {watched_mb / alone_mb:.2f}×")
    if commands > MOST_COMMANDS or megabytes > MOST_MB or max(by_screen, by_page) > MOST_COMMANDS_LOOKING:
        sys.exit(1)


if __name__ == "__main__":
    main()
