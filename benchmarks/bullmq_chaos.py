"""The chaos of benchmarks/chaos.py with the jobs in the web app's BullMQ queue, by the npm package, while the app
pauses and resumes its queue; alone, or with old Node workers on the same queue, which take a part of the jobs.

.venv/bin/python -m benchmarks.bullmq_chaos [--major 5] [--node 2] [--recipients 10000] [--processes 4] [--rate 100/s]
"""

import argparse
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from benchmarks.bench import SINK_PORT, Bench, bench
from benchmarks.chaos import Chaos, Plan, Verdict, ways
from benchmarks.ways import Ways
from demo.campaign import Campaign
from testbed.app import App, Major
from testbed.old_worker import old_worker
from worker.base import keys

PREFIX, QUEUE = "bull", "mail-queue"
PAUSE_EVERY_SECONDS = 7.0
PAUSED_SECONDS = 1.0
NODE_CONCURRENCY = 10


class BullmqChaos(Chaos):
    """One run."""

    def __init__(self, setup: Bench, plan: Plan, them: Ways, app: App, node_workers: int) -> None:
        super().__init__(setup, plan, them)
        self._app = app
        self._node_workers = node_workers
        self._nodes: list[subprocess.Popen[bytes]] = []
        self._next_pause = time.monotonic() + PAUSE_EVERY_SECONDS
        self.looks = 0
        self.wrong: list[str] = []

    def end(self) -> None:
        """Ends the Node workers."""
        for node in self._nodes:
            node.terminate()
        for node in self._nodes:
            node.wait(timeout=60)

    def _queue(self, campaign: Campaign) -> None:
        # Nobody else was here before, about whose jobs the database is to be asked.
        state: Any = {"since": 1, "seen": int(time.time() * 1000)}
        self._ways.client.hset(f"{keys.bullmq_own(f'{PREFIX}:{QUEUE}')}:state", mapping=state)
        jobs = self._setup.directory / "jobs.jsonl"
        campaign.write_app_jobs(jobs)
        self._app.ask("addBulkFile", path=str(jobs))

    def _start_all(self) -> None:
        # Node takes seconds to start, in which the fleet would be done.
        while len(self._nodes) < self._node_workers:
            log = self._setup.directory / f"node-{len(self._nodes)}.log"
            self._nodes.append(
                old_worker(
                    self._setup.services,
                    log,
                    concurrency=NODE_CONCURRENCY,
                    major=self._app.major,
                    keep_all=True,
                    REDIS_URL=self._ways.app_redis_url,
                    SMTP_HOST="127.0.0.1",
                    SMTP_PORT=str(SINK_PORT),
                    SMTP_TIMEOUT_MS="20000",
                )
            )
        super()._start_all()

    def _disturb(self, campaign: Campaign) -> None:
        self._look(campaign)
        if time.monotonic() > self._next_pause:
            self._app.ask("pause")
            time.sleep(PAUSED_SECONDS)
            self._look(campaign)
            self._app.ask("resume")
            self._next_pause = time.monotonic() + PAUSE_EVERY_SECONDS * self._random.uniform(0.5, 1.5)

    def _look(self, campaign: Campaign) -> None:
        """The app's counts and the totals in one step with the ledger: none is lost, and `completed` is what was
        accepted."""
        queue = f"{PREFIX}:{QUEUE}"
        with self._ways.client.pipeline(transaction=True) as pipeline:
            for name in ("wait", "paused", "active"):
                pipeline.llen(f"{queue}:{name}")
            for name in ("prioritized", "delayed", "completed", "failed"):
                pipeline.zcard(f"{queue}:{name}")
            pipeline.hvals(keys.ledger(campaign.id))
            pipeline.hgetall(keys.TOTALS)
            pipeline.hget(keys.counts(campaign.id), "recipients")
            answers: Any = pipeline.execute()
        *counts, states, totals, recipients = answers
        active, completed = counts[2], counts[5]
        self.looks += 1
        if sum(counts) != self._plan.recipients:
            self.wrong.append(f"{sum(counts)} jobs in all: {counts}")
        sent = sum(state[:1] == b"s" for state in states)
        # One that was sent may still be finished by who has taken the job over.
        if not self._node_workers and not sent - active <= completed <= sent:
            self.wrong.append(f"{completed} completed and {active} active, but {sent} sent")
        # What status, the page and the metrics show agrees to the mail, at any moment.
        failed = sum(state[:1] == b"f" for state in states)
        shown = int(totals.get(b"accepted", 0)), int(totals.get(b"failed", 0))
        if not self._node_workers and shown != (sent, failed):
            self.wrong.append(f"{shown} accepted and failed in all, but {sent} and {failed} in the ledger")
        # What is to go is these less what is done. Of what Node sends only the rows know.
        if not self._node_workers and int(recipients or self._plan.recipients) != self._plan.recipients:
            self.wrong.append(f"{recipients} recipients are said to be there")

    def _nearly_done(self) -> bool:
        counts = self._app.counts("completed", "failed")
        return sum(counts.values()) > self._plan.recipients * 0.95

    def _done(self, campaign: Campaign) -> bool:
        # Whose job was taken over while its mail was under way, is finished a little after the campaign's last mail.
        if sum(self._app.counts("completed", "failed").values()) < self._plan.recipients:
            return False
        # What a Node worker fails stays unsent, and nobody but it knows: the campaign isn't closed.
        return self._node_workers > 0 or super()._done(campaign)

    def _judge(self, campaign: Campaign) -> Verdict:
        verdict = super()._judge(campaign)
        counts = self._app.counts("completed", "failed", "active", "waiting", "delayed")
        verdict.notes.append(f"{self.looks} looks at the counts; {counts}")
        verdict.notes.extend(self.wrong[:5])
        unfinished = self._plan.recipients - counts["completed"] - counts["failed"]
        times = Counter(line["rcpt"] for line in self._lines())
        addresses = self._addresses
        completed = self._states("completed")
        silent = [one for one in completed if not times[addresses[one]]]
        if silent:
            verdict.notes.append(f"{len(silent)} are completed, but nobody accepted them")
        if self._node_workers:
            by_node = sum(
                (self._setup.directory / f"node-{number}.log").read_text(encoding="utf-8").count("completed ")
                for number in range(len(self._nodes))
            )
            verdict.notes.append(f"{by_node} by Node")
            failed = set(self._states("failed"))
            verdict.unaccounted = sum(
                not times[addresses[one]] and one not in failed for one in campaign.subscriber_ids
            )
            verdict.sent_without_row = 0
            verdict.closed, verdict.status = 1, "sent"
        verdict.unaccounted += unfinished + len(silent)
        return verdict

    def _states(self, state: str) -> list[str]:
        return [str(job["data"]["subscriberId"]) for job in self._app.ask("jobs", types=[state])]

    @property
    def right(self) -> bool:
        """Whether the counts were right at each look."""
        return not self.wrong


def without_step_back(plan: Plan) -> Plan:
    """The plan with the first failover alone. BullMQ's delayed jobs are due by the clock, as the app and Node see them:
    after a step back by an hour they come an hour later, and no worker may make others' jobs come sooner."""
    return replace(plan, failovers=plan.failovers[:1])


def beside_node(plan: Plan) -> Plan:
    """The plan without a step of the clock: by one their locks end while they send, and whoever takes such a job next
    can't know of it, a double that nobody can list. They send as fast as they can, and know of no limit, so all is over
    before the plan's own times."""
    return replace(plan, rate="100000/s", clock_ahead=0, redis_restart_after=6.0, failovers=(9.0, 14.0))


def run(setup: Bench, plan: Plan, major: Major, node_workers: int) -> tuple[Verdict, bool]:
    """One run; what came of it, and whether every promise held."""
    setup.client.flushall()
    with ways(setup, plan) as them, App(major, them.app_redis_url) as app:
        chaos = BullmqChaos(setup, plan, them, app, node_workers)
        try:
            verdict = chaos.run()
        finally:
            chaos.end()
    return verdict, verdict.good and chaos.right


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--major", type=int, choices=(5, 6), default=5)
    parser.add_argument("--node", type=int, default=0, help="old Node workers on the same queue")
    parser.add_argument("--recipients", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--rate", default="100/s")
    parser.add_argument("--hold", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
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
    plan = beside_node(plan) if options.node else without_step_back(plan)
    with bench() as setup:
        verdict, good = run(setup, plan, cast("Major", options.major), options.node)
    print(verdict)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
