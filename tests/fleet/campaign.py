"""A campaign that runs all the while, at a steady rate, counted at the SMTP server."""

import itertools
import time
from pathlib import Path

from demo.campaign import Campaign
from demo.tally import Tally, tally
from testbed.services import Services
from worker.base.redis_client import connect
from worker.base.settings import Secret
from worker.queue.processes import Process, alive
from worker.queue.producer import enqueue, read_jobs

DONE_WITHIN_SECONDS = 240.0


class SteadyCampaign:
    """Queued as a whole; the fleet's `worker_mail_rate` makes it steady."""

    def __init__(self, services: Services, redis_url: str, recipients: int, directory: Path) -> None:
        self._services = services
        self._campaign = Campaign.invent(recipients)
        self._campaign.insert(services.database_url)
        jobs = directory / f"{self._campaign.tag}.jsonl"
        self._campaign.write_jobs(jobs)
        for _ in enqueue(connect(Secret(redis_url)), (job for _, job in read_jobs(jobs))):
            pass

    @property
    def accepted(self) -> int:
        return len(self._times())

    def pause_since(self, began: float) -> str:
        """How long that is, and the longest time between two accepted mails of the fleet in it."""
        until = time.time()
        times = [began, *(moment for moment in self._times() if began < moment < until), until]
        pause = max(later - earlier for earlier, later in itertools.pairwise(times))
        return f"{until - began:.0f} s, in which the longest pause of the fleet was {pause:.1f} s"

    def wait_for(self, mails: int) -> None:
        """Until so many more were accepted."""
        wanted = self.accepted + mails
        deadline = time.monotonic() + DONE_WITHIN_SECONDS
        while self.accepted < wanted:
            assert time.monotonic() < deadline, f"{self.accepted} of {wanted} mails were accepted"
            time.sleep(0.5)

    def finish(self) -> Tally:
        """Waits for its end, as long as that comes nearer."""
        latest, deadline = None, 0.0
        while not (result := tally(self._services, self._campaign)).accounted_for:
            if result != latest:
                latest, deadline = result, time.monotonic() + DONE_WITHIN_SECONDS
            assert time.monotonic() < deadline, result
            time.sleep(1)
        return result

    def _times(self) -> list[float]:
        mark = f".{self._campaign.tag}@"
        return sorted(float(line["time"]) for line in self._services.accepted() if mark in line["rcpt"])


def wait_until_all_send(redis_url: str) -> None:
    """Until each host has sent a mail from now on, as its processes tell Redis."""
    before = [process for process in alive(connect(Secret(redis_url))) if process.concurrency]
    hosts = {_host(process) for process in before}
    told = {process.name: (process.pid, process.sent) for process in before}
    deadline = time.monotonic() + DONE_WITHIN_SECONDS
    while silent := hosts - {
        _host(process)
        for process in alive(connect(Secret(redis_url)))
        if process.sent and (process.pid, process.sent) != told.get(process.name)
    }:
        assert time.monotonic() < deadline, f"{silent} sent nothing"
        time.sleep(1)


def _host(process: Process) -> str:
    return process.name.partition("/")[0]


def pids(redis_url: str) -> dict[str, int]:
    """Each process of the fleet, recorders too."""
    return {process.name: process.pid for process in alive(connect(Secret(redis_url)))}


def releases(redis_url: str) -> dict[str, str]:
    """Each worker process of the fleet, with its release."""
    return {process.name: process.version for process in alive(connect(Secret(redis_url))) if process.concurrency}
