"""What the benchmarks share: the real services, a sink, a campaign, and the peers that send it."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import redis

from benchmarks.processes import Measured, as_on_a_host, keep_bytecode, mail_worker, start
from demo.campaign import Campaign
from testbed.services import Services
from worker.base import keys

INSTANCE = "bench"
#: The one port that means TLS from the first byte.
SINK_PORT = 465
PLAIN_SINK_PORT = 2526
NODE = Path(__file__).parent / "node"
#: `bullmq` is ours too, with the jobs in BullMQ's queue instead of Dramatiq's.
PEERS = ("node", "plain", "ours", "bullmq")
#: Another checkout of this project as a peer; its worker sends what this one's `enqueue` has queued.
BASE = "base"
#: What the scripts in node/ call it.
BULLMQ_QUEUE = "mail"


@dataclass(slots=True)
class Sink:
    """The SMTP server of one run."""

    process: "subprocess.Popen[str]"
    port: int

    def ask(self, command: str) -> dict[str, float]:
        """`report`, `arrived` or `stall`; see sink.py."""
        stdin, stdout = self.process.stdin, self.process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("the sink has no pipes")
        stdin.write(f"{command}\n")
        stdin.flush()
        answer: dict[str, float] = json.loads(stdout.readline())
        return answer


@dataclass(frozen=True, slots=True)
class Bench:
    """Everything that a run needs."""

    services: Services
    client: "redis.Redis"
    directory: Path
    base: Path | None = None
    started: list[Measured] = field(default_factory=list)

    def environment(self, concurrency: int, **changes: str) -> dict[str, str]:
        """For any peer."""
        return {
            **os.environ,
            "REDIS_URL": self.services.redis_url,
            "SUPABASE_URL": self.services.supabase_url,
            "SUPABASE_SECRET_KEY": self.services.supabase_secret_key,
            "SMTP_HOST": "127.0.0.1",
            "SMTP_PORT": str(SINK_PORT),
            "SMTP_USER": "sender@testbed.example",
            "SMTP_PASS": "any",
            "MAIL_FROM": "The demo <news@testbed.example>",
            "SSL_CERT_FILE": str(self.directory / "ca.pem"),
            "NODE_EXTRA_CA_CERTS": str(self.directory / "ca.pem"),
            "WORKER_CONCURRENCY": str(concurrency),
            "BULLMQ_QUEUE": BULLMQ_QUEUE,
            "LOG_LEVEL": "WARNING",
            **changes,
        }

    @contextmanager
    def sink(self, delay_ms: int = 0, *, tls: bool = True) -> Iterator[Sink]:
        """A sink, until the block ends."""
        port = SINK_PORT if tls else PLAIN_SINK_PORT
        command = [
            sys.executable,
            "-m",
            "benchmarks.sink",
            f"--port={port}",
            f"--delay-ms={delay_ms}",
            *([f"--certificate={self.directory / 'sink.pem'}"] if tls else []),
        ]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            if process.stdout is None or process.stdout.readline() != "ready\n":
                raise RuntimeError("the sink doesn't start")
            yield Sink(process, port)
        finally:
            process.terminate()
            process.wait(timeout=10)

    def campaign(self, mails: int, *, one_body: bool = False) -> Path:
        """A campaign whose recipients are all taken, in the database; returns the file with its jobs. `one_body`: all
        have the first one's text."""
        campaign = Campaign.invent(mails)
        campaign.insert(self.services.database_url)
        path = self.directory / "jobs.jsonl"
        campaign.write_jobs(path)
        if one_body:
            jobs = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            path.write_text("".join(json.dumps({**job, "html": jobs[0]["html"]}) + "\n" for job in jobs), "utf-8")
        return path

    def produce(self, peer: str, jobs: Path) -> None:
        """Queues the jobs the way the peer wants them."""
        environment = self.environment(1)
        if peer == "bullmq":
            # As after the first day: no other worker was there before, about whose jobs the database is to be asked.
            state: dict[str | bytes, str] = {"since": "1", "seen": str(int(time.time() * 1000))}
            self.client.hset(f"{keys.bullmq_own(f'bull:{BULLMQ_QUEUE}')}:state", mapping=state)  # type: ignore[arg-type]
        command = ["node", str(NODE / "produce.mjs"), str(jobs)]
        if peer not in ("node", "bullmq"):
            command = [*mail_worker("enqueue"), str(jobs)]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)

    def start(self, peer: str, concurrency: int, workers: int = 1, **changes: str) -> list[Measured]:
        """The peer's processes, the worker first; `workers` of ours."""
        environment = self.environment(concurrency, **changes)
        node, plain = ["node", str(NODE / "worker.mjs")], [sys.executable, "-m", "benchmarks.plain"]
        commands = {"node": [(node, "ready")], "plain": [(plain, "ready")]}.get(peer)
        if commands is None:
            environment |= {"LOG_LEVEL": "INFO", **as_on_a_host(self.directory)}
            checkout = self.base if peer == BASE else None
            commands = [
                *[(mail_worker("run", checkout), "mails at once")] * workers,
                (mail_worker("record", checkout), "writes to"),
            ]
        processes = [
            start(command, environment, self.directory / f"{peer}-{number}.log")
            for number, (command, _) in enumerate(commands)
        ]
        self.started.extend(processes)
        for process, (_, words) in zip(processes, commands, strict=True):
            process.wait_for(words)
        return processes


@contextmanager
def bench(instance: str = INSTANCE, *, base: Path | None = None) -> Iterator[Bench]:
    """Uses the services of an instance of the test bed; starts them if they aren't there. `base` is the checkout of the
    peer of that name."""
    subprocess.run(
        [sys.executable, "-m", "testbed", "up", instance, "--services"], check=True, stdout=subprocess.DEVNULL
    )
    services = Services.load(instance)
    with tempfile.TemporaryDirectory() as name, redis.Redis.from_url(services.redis_url) as client:
        directory = Path(name)
        _write_certificate(directory)
        own = (directory / "sink.pem").read_text(encoding="utf-8")
        ca = services.ca_file.read_text(encoding="utf-8")
        (directory / "ca.pem").write_text(ca + own[own.index("-----BEGIN CERTIFICATE") :], encoding="utf-8")
        client.flushall()
        keep_bytecode(directory)
        if base:
            keep_bytecode(directory, base)
        setup = Bench(services, client, directory, base)
        try:
            yield setup
        finally:
            # What is left of a run that failed would disturb the next one.
            for process in setup.started:
                process.process.kill()


def wait_until_sent(sink: Sink, mails: int, seconds: float) -> dict[str, float]:
    """The sink's report once it has so many mails, or when the time is over."""
    deadline = time.monotonic() + seconds
    while True:
        report = sink.ask("report")
        if report["mails"] >= mails or time.monotonic() > deadline:
            return report
        time.sleep(0.1)


def _write_certificate(directory: Path) -> None:
    subprocess.run(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
        " -keyout key.pem -out cert.pem".split(),
        cwd=directory,
        check=True,
        capture_output=True,
    )
    both = (directory / "key.pem").read_text(encoding="utf-8") + (directory / "cert.pem").read_text(encoding="utf-8")
    (directory / "sink.pem").write_text(both, encoding="utf-8")
