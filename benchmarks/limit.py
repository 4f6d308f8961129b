"""The limit for all peers: Postfix's smtp-source, which builds nothing, records nothing and speaks no TLS."""

import os
import subprocess
from pathlib import Path

from benchmarks.bench import Bench, wait_until_sent

MAIL_BYTES = 10_240
PATIENCE_SECONDS = 120.0


def mails_per_second(setup: Bench, mails: int, concurrency: int, delay_ms: int) -> float:
    """How fast it is against the benchmarks' own sink."""
    postfix = _unpack(setup.directory)
    with setup.sink(delay_ms, tls=False) as sink:
        # `-d` keeps connections open.
        command = [
            str(postfix / "usr/sbin/smtp-source"),
            "-d",
            f"-s{concurrency}",
            f"-m{mails}",
            f"-l{MAIL_BYTES}",
            "-fsender@testbed.example",
            "-treader@testbed.example",
            f"127.0.0.1:{sink.port}",
        ]
        environment = {**os.environ, "LD_LIBRARY_PATH": str(postfix / "usr/lib/postfix")}
        subprocess.run(command, env=environment, check=True, timeout=PATIENCE_SECONDS)
        report = wait_until_sent(sink, mails, PATIENCE_SECONDS)
    return (report["mails"] - 1) / (report["last"] - report["first"])


def _unpack(directory: Path) -> Path:
    """Debian's package, without installing a mail server."""
    target = directory / "postfix"
    if not target.exists():
        subprocess.run(["apt-get", "-qq", "download", "postfix"], cwd=directory, check=True)
        [package] = directory.glob("postfix_*.deb")
        subprocess.run(["dpkg", "-x", str(package), str(target)], check=True)
    return target
