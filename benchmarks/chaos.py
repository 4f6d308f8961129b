"""A campaign through everything that breaks at once: processes killed, Redis restarted, then failed over to one whose
clock is an hour ahead and back, Supabase away, a network that delays and cuts single connections, an SMTP server that
drops, stalls, refuses and hangs up at random, also after it has accepted a mail.

.venv/bin/python -m benchmarks.chaos [--recipients 10000] [--processes 4] [--rate 100/s] [--hold]
"""

import argparse
import contextlib
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import psycopg
import redis

from benchmarks.bench import Bench, bench
from benchmarks.processes import Measured, as_on_a_host, mail_worker, start
from benchmarks.ways import SINK_BEHIND_PORT, Ways
from demo.campaign import Campaign
from worker.base import keys
from worker.ledger.ledger import Entry
from worker.ledger.uncertain import UncertainMails
from worker.mail.pacing import parse_rate

CONCURRENCY = 10


@dataclass(frozen=True, slots=True)
class Plan:
    """How big, and how bad. Times in seconds."""

    recipients: int
    processes: int
    rate: str
    hold: bool
    kill_every: float
    redis_restart_after: float
    database_away: tuple[float, float]
    #: There and back, and so on; later than the restart, after which the first one would be a primary.
    failovers: tuple[float, ...]
    #: By which the second Redis's clock is ahead.
    clock_ahead: int
    #: The network strikes again after about so long.
    strike_every: float
    dead_after_seconds: int
    patience: float
    seed: int = 1


@dataclass(slots=True)
class Verdict:
    """What the SMTP server, the database and the ledger say in the end."""

    recipients: int
    accepted: int = 0
    unique: int = 0
    rows_sent: int = 0
    failed: int = 0
    failed_unrefused: int = 0
    uncertain: int = 0
    held: int = 0
    doubles: int = 0
    doubles_not_listed: int = 0
    unaccounted: int = 0
    sent_without_row: int = 0
    closed: int = 0
    over_the_limit: int = 0
    kills: int = 0
    seconds: float = 0.0
    status: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether every promise held."""
        broken = (
            *(self.doubles_not_listed, self.unaccounted, self.sent_without_row, self.over_the_limit),
            self.failed_unrefused,
        )
        return not any(broken) and self.closed == 1 and self.status == "sent"


class Chaos:
    """One run."""

    def __init__(self, setup: Bench, plan: Plan, ways: Ways) -> None:
        self._setup = setup
        self._plan = plan
        self._ways = ways
        self._random = random.Random(plan.seed)
        self._accepted = setup.directory / "accepted.jsonl"
        self._refused = setup.directory / "refused.jsonl"
        self._workers: list[Measured] = []
        self._recorders: list[Measured] = []
        self._logs: list[Path] = []
        self._kills = 0
        self._held_since: dict[str, float] = {}
        self._accepted_at_failovers: list[int] = []

    def run(self) -> Verdict:
        """Sends a campaign while things break, and judges."""
        setup, plan = self._setup, self._plan
        self._ways.client.flushall()
        # By the default, everysec, a Redis that is killed may forget what it has confirmed; a restart forgets nothing.
        campaign = Campaign.invent(plan.recipients)
        campaign.insert(setup.services.database_url)
        self._queue(campaign)
        sink = start(
            [
                sys.executable,
                "-m",
                "benchmarks.chaotic_sink",
                f"--port={SINK_BEHIND_PORT}",
                f"--certificate={setup.directory / 'sink.pem'}",
                f"--accepted={self._accepted}",
                f"--refused={self._refused}",
                f"--seed={plan.seed}",
            ],
            setup.environment(1),
            setup.directory / "sink.log",
        )
        setup.started.append(sink)
        sink.wait_for("ready")
        started = time.monotonic()
        try:
            self._start_all()
            self._break_things(campaign, started)
        finally:
            for process in (*self._workers, *self._recorders):
                process.stop()
            sink.stop()
        verdict = self._judge(campaign)
        verdict.seconds = time.monotonic() - started
        return verdict

    def _queue(self, campaign: Campaign) -> None:
        jobs = self._setup.directory / "jobs.jsonl"
        campaign.write_jobs(jobs)
        self._setup.produce("ours", jobs)

    def _start_all(self) -> None:
        self._workers = [self._start("run", f"worker_{number}") for number in range(self._plan.processes)]
        self._recorders = [self._start("record", "recorder")]

    def _start(self, verb: str, name: str) -> Measured:
        log = self._setup.directory / f"{len(self._logs)}-{name}.log"
        self._logs.append(log)
        environment = self._setup.environment(
            CONCURRENCY,
            REDIS_URL=self._ways.redis_url,
            LOG_LEVEL="INFO",
            SUPERVISOR_PROCESS_NAME=name,
            MAIL_RATE=self._plan.rate,
            MAIL_ON_UNCERTAIN="hold" if self._plan.hold else "resend",
            MAIL_PAUSE_ABOVE_PERCENT="100",
            WORKER_DEAD_AFTER_SECONDS=str(self._plan.dead_after_seconds),
            BULLMQ_QUEUE="mail-queue",
            BULLMQ_KEEP_COMPLETED="1000000",
            BULLMQ_KEEP_FAILED="1000000",
        )
        process = start(mail_worker(verb), environment | as_on_a_host(self._setup.directory), log)
        self._setup.started.append(process)
        return process

    def _break_things(self, campaign: Campaign, started: float) -> None:
        plan, services = self._plan, self._setup.services
        events: list[tuple[float, Callable[[], None]]] = [
            (plan.redis_restart_after, lambda: services.control("redis", "restart")),
            (plan.database_away[0], lambda: services.control("postgrest", "stop")),
            (plan.database_away[1], lambda: services.control("postgrest", "start")),
            *((at, self._fail_over) for at in plan.failovers),
        ]
        events.sort(key=lambda event: event[0])
        next_kill = plan.kill_every
        while (elapsed := time.monotonic() - started) < plan.patience:
            while events and elapsed >= events[0][0]:
                events.pop(0)[1]()
            # While Redis starts again, it loads its data and answers nobody.
            with contextlib.suppress(redis.RedisError):
                if elapsed >= next_kill:
                    # By time, the last few mails would be struck again and again.
                    nearly_done = self._nearly_done()
                    self._ways.calm(nearly_done)
                    if not nearly_done:
                        self._kill_one()
                        next_kill = elapsed + plan.kill_every * self._random.uniform(0.5, 1.5)
                self._disturb(campaign)
                if not events and self._done(campaign):
                    return
            time.sleep(0.2)

    def _fail_over(self) -> None:
        self._ways.fail_over()
        self._accepted_at_failovers.append(len(self._lines()))

    def _disturb(self, campaign: Campaign) -> None:
        """What else happens now and then."""

    def _kill_one(self) -> None:
        number = self._random.randrange(len(self._workers))
        victim = self._workers[number]
        victim.process.kill()
        victim.process.wait()
        self._kills += 1
        self._workers[number] = self._start("run", f"worker_{number}")

    def _nearly_done(self) -> bool:
        left = self._ways.client.hlen(keys.MESSAGES)
        return isinstance(left, int) and left < self._plan.recipients * 0.05

    def _done(self, campaign: Campaign) -> bool:
        if self._plan.hold:
            self._resolve_held()
        return self._status(campaign) == "sent"

    def _resolve_held(self) -> None:
        # As an operator with the provider's log in hand would do.
        accepted = {line["rcpt"] for line in self._lines()}
        mails = UncertainMails(self._ways.client)
        for mail in mails.all():
            # By the harness's clock: the mail's time is Redis's.
            if mail.held and time.monotonic() - self._held_since.setdefault(mail.entry.name, time.monotonic()) > 2:
                del self._held_since[mail.entry.name]
                if self._address(mail.entry) in accepted:
                    mails.mark_sent(mail)
                else:
                    mails.resend(mail)

    def _address(self, entry: Entry) -> str:
        return self._addresses.get(entry.subscriber_id or "", "")

    @cached_property
    def _addresses(self) -> dict[str, str]:
        with (self._setup.directory / "jobs.jsonl").open(encoding="utf-8") as stream:
            jobs = [json.loads(line) for line in stream]
        return {job["subscriberId"]: ascii_address(job.get("email") or job["to"]["address"]) for job in jobs}

    def _status(self, campaign: Campaign) -> str:
        with psycopg.connect(self._setup.services.database_url) as connection:
            row = connection.execute("SELECT status FROM campaigns WHERE id = %s", (campaign.id,)).fetchone()
        return str(row[0]) if row else ""

    def _lines(self) -> list[dict[str, str]]:
        return self._lines_of(self._accepted)

    def _lines_of(self, path: Path) -> list[dict[str, str]]:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def _judge(self, campaign: Campaign) -> Verdict:
        verdict = Verdict(self._plan.recipients, kills=self._kills, status=self._status(campaign))
        lines = self._lines()
        times = Counter(line["rcpt"] for line in lines)
        verdict.accepted, verdict.unique = len(lines), len(times)
        with psycopg.connect(self._setup.services.database_url) as connection:
            rows = connection.execute(
                "SELECT subscriber_id, sent FROM campaign_subscribers WHERE campaign_id = %s", (campaign.id,)
            ).fetchall()
        listed = {mail.entry.subscriber_id for mail in UncertainMails(self._ways.client).all()}
        listed |= self._listed_before
        verdict.uncertain = len(listed)
        states = self._ways.client.hgetall(keys.ledger(campaign.id))
        addresses, refused = self._addresses, {line["rcpt"] for line in self._lines_of(self._refused)}
        for subscriber_id, sent in ((str(row[0]), row[1]) for row in rows):
            count = times[addresses[subscriber_id]]
            state = states.get(subscriber_id.encode(), b"")[:1]
            verdict.rows_sent += sent
            verdict.failed += state == b"f"
            verdict.failed_unrefused += state == b"f" and addresses[subscriber_id] not in refused
            verdict.doubles += count > 1
            verdict.doubles_not_listed += count > 1 and subscriber_id not in listed
            # Who was uncertain, and was refused at the second try, counts as failed although the first mail arrived.
            refused_later = state == b"f" and subscriber_id in listed
            verdict.sent_without_row += count > 0 and not sent and not refused_later
            verdict.unaccounted += not (sent and count) and state != b"f"
        verdict.over_the_limit = _over_the_limit([float(line["time"]) for line in lines], self._plan.rate)
        text = "".join(log.read_text(encoding="utf-8", errors="replace") for log in self._logs)
        verdict.closed = text.count(f"campaign {campaign.id} is complete")
        if "Traceback" in text:
            verdict.notes.append("a traceback is in a log")
        verdict.notes.append(f"mails accepted by the failovers: {self._accepted_at_failovers}")
        verdict.notes.append(f"the network struck {self._ways.struck}")
        return verdict

    @property
    def _listed_before(self) -> set[str | None]:
        # What was resolved isn't listed any more; the logs tell.
        listed: set[str | None] = set()
        for log in self._logs:
            for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
                if "may have been accepted before" in line:
                    listed.add(json.loads(line[line.index("[") : line.index("]") + 1])[1])
        return listed


def ways(setup: Bench, plan: Plan) -> Ways:
    """The plan's."""
    return Ways(setup, clock_ahead_seconds=plan.clock_ahead, strike_every=plan.strike_every, seed=plan.seed)


def run(setup: Bench, plan: Plan) -> Verdict:
    """One run."""
    with ways(setup, plan) as them:
        return Chaos(setup, plan, them).run()


def ascii_address(address: str) -> str:
    local, _, domain = address.partition("@")
    return f"{local}@{domain.encode('idna').decode()}"


def _over_the_limit(times: Sequence[float], rate: str) -> int:
    """The worst excess in any window of any limit."""
    worst = 0
    ordered = sorted(times)
    for limit in parse_rate(rate):
        first = 0
        for last, at in enumerate(ordered):
            while at - ordered[first] >= limit.window_ms / 1000:
                first += 1
            worst = max(worst, last - first + 1 - limit.mails)
    return max(worst, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipients", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--rate", default="100/s")
    parser.add_argument("--hold", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    plan = Plan(
        recipients=options.recipients,
        processes=options.processes,
        rate=options.rate,
        hold=options.hold,
        kill_every=5.0,
        redis_restart_after=30.0,
        database_away=(45.0, 105.0),
        failovers=(75.0, 150.0),
        clock_ahead=3600,
        strike_every=2.0,
        dead_after_seconds=36,
        patience=1800.0,
        seed=options.seed,
    )
    with bench() as setup:
        verdict = run(setup, plan)
    print(verdict)
    sys.exit(0 if verdict.good else 1)


if __name__ == "__main__":
    main()
