"""One bad thing among a thousand good ones: how long the good ones take, against a run without it.

.venv/bin/python -m benchmarks.neighbours [--recipients 1000] [--only row,campaign] [--rounds 3]
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import psycopg

from benchmarks.bench import Bench, Sink, bench
from benchmarks.processes import start
from demo.campaign import Campaign
from worker.base import keys
from worker.queue.producer import enqueue, read_jobs

CONCURRENCY = 10
DELAY_MS = 20
PATIENCE_SECONDS = 300.0
#: What the issue allows.
AT_MOST = 1.2

Bad = Callable[[Bench, Campaign, Sink], AbstractContextManager[None]]


def jobs_of(setup: Bench, campaign: Campaign) -> list[dict[str, object]]:
    """What the app queues for it."""
    path = setup.directory / "neighbours.jsonl"
    campaign.write_jobs(path)
    jobs = [dict(job) for _, job in read_jobs(path) if isinstance(job, dict)]
    for job in jobs:
        # All of these are taken.
        job["to"] = str(job["to"]["address"]).replace("refused-", "reader-")
    return jobs


def queue(setup: Bench, jobs: list[dict[str, object]]) -> None:
    """Queues them in Dramatiq's queue."""
    for _ in enqueue(setup.client, iter(jobs)):
        pass


@contextmanager
def a_row_that_a_trigger_refuses(setup: Bench, good: Campaign, sink: Sink) -> Iterator[None]:
    """One of the good campaign's own."""
    with psycopg.connect(setup.services.database_url, autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION objection() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            f" IF NEW.subscriber_id = '{good.subscriber_ids[7]}' THEN RAISE 'not this one'; END IF; RETURN NEW; END $$;"
            "CREATE TRIGGER objection BEFORE UPDATE ON campaign_subscribers FOR EACH ROW EXECUTE FUNCTION objection()"
        )
        try:
            yield
        finally:
            connection.execute("DROP FUNCTION objection() CASCADE")


@contextmanager
def a_campaign_that_no_row_can_have(setup: Bench, good: Campaign, sink: Sink) -> Iterator[None]:
    """Fifty mails whose campaign's id is no UUID."""
    queue(setup, [{**job, "campaignId": "spring-sale"} for job in jobs_of(setup, Campaign.invent(50))])
    yield


@contextmanager
def a_paused_campaign(setup: Bench, good: Campaign, sink: Sink) -> Iterator[None]:
    """A thousand mails that wait for their operator."""
    other = Campaign.invent(1000)
    setup.client.hset(keys.CONTROL, other.id, "paused:by an operator")
    queue(setup, jobs_of(setup, other))
    yield


@contextmanager
def recipients_under_whom_the_server_hangs_up(setup: Bench, good: Campaign, sink: Sink) -> Iterator[None]:
    """Ten, refused with 550 and a cut."""
    jobs = jobs_of(setup, Campaign.invent(10))
    queue(setup, [{**job, "to": str(job["to"]).replace("reader-", "hangs-up-")} for job in jobs])
    yield


@contextmanager
def jobs_that_are_none(setup: Bench, good: Campaign, sink: Sink) -> Iterator[None]:
    """Rubbish, a job without a recipient, and 4 MB of tags."""
    setup.client.hset(keys.MESSAGES, "rubbish", b"\xff{")
    setup.client.rpush(keys.WAITING, "rubbish", "not there")
    [job] = jobs_of(setup, Campaign.invent(1))
    queue(setup, [{"html": "x"}, {**job, "campaignId": None, "subscriberId": None, "html": "<p>x" * 1_000_000}])
    yield


@contextmanager
def a_process_that_died(setup: Bench, good: Campaign, sink: Sink) -> Iterator[None]:
    """It had fetched twenty mails of another campaign."""
    ids = [f"dead-{number}" for number in range(20)]
    setup.client.sadd(keys.fetched("dead"), *ids)
    setup.client.zadd(keys.ALIVE, {"dead": 1})
    yield


@contextmanager
def a_clock_that_was_set_back(setup: Bench, good: Campaign, sink: Sink) -> Iterator[None]:
    """By an hour: the last time that was seen lies ahead."""
    setup.client.hset(keys.CLOCK, "last", str(int(time.time() * 1000) + 3_600_000))
    yield


@contextmanager
def a_connection_that_is_never_greeted(setup: Bench, good: Campaign, sink: Sink) -> Iterator[None]:
    """The second one of the worker's."""
    sink.ask("stall")
    yield


@contextmanager
def one_more_worker(setup: Bench, hours_ahead: float) -> Iterator[None]:
    """Of another host, whose clock may be wrong."""
    command = [sys.executable, "-m", "benchmarks.wrong_clock", str(hours_ahead), "run"]
    worker = start(command, setup.environment(CONCURRENCY, LOG_LEVEL="INFO"), setup.directory / "wrong-clock.log")
    setup.started.append(worker)
    try:
        worker.wait_for("mails at once")
        yield
    finally:
        worker.stop()


@contextmanager
def a_host_whose_clock_is_right(setup: Bench, good: Campaign, sink: Sink) -> Iterator[None]:
    """What the next one is compared with."""
    with one_more_worker(setup, 0):
        yield


@contextmanager
def a_host_whose_clock_is_ahead(setup: Bench, good: Campaign, sink: Sink) -> Iterator[None]:
    """By an hour."""
    with one_more_worker(setup, 1):
        yield


#: What a kind is compared with, if not with nothing.
GOOD: dict[str, Bad] = {"host clock": a_host_whose_clock_is_right}
KINDS: dict[str, Bad] = {
    "row": a_row_that_a_trigger_refuses,
    "campaign": a_campaign_that_no_row_can_have,
    "paused": a_paused_campaign,
    "recipient": recipients_under_whom_the_server_hangs_up,
    "job": jobs_that_are_none,
    "process": a_process_that_died,
    "connection": a_connection_that_is_never_greeted,
    "host clock": a_host_whose_clock_is_ahead,
    "Redis's clock": a_clock_that_was_set_back,
}


def seconds_for(setup: Bench, recipients: int, bad: Bad | None) -> float:
    """From the first good mail's queueing to the last one's row."""
    setup.client.flushall()
    good = Campaign.invent(recipients)
    good.insert(setup.services.database_url)
    jobs = jobs_of(setup, good)
    with setup.sink(DELAY_MS) as sink, bad(setup, good, sink) if bad else nullcontext():
        # A bad row is one of the good ones' own.
        wanted = recipients - (bad is a_row_that_a_trigger_refuses)
        processes = setup.start("ours", CONCURRENCY)
        started = time.monotonic()
        queue(setup, jobs)
        with psycopg.connect(setup.services.database_url, autocommit=True) as connection:
            while sent_rows(connection, good) < wanted:
                if time.monotonic() - started > PATIENCE_SECONDS:
                    raise RuntimeError(f"{sent_rows(connection, good)} of {wanted} rows are sent, and no more come")
                time.sleep(0.05)
        took = time.monotonic() - started
        for process in processes:
            process.stop()
    return took


def sent_rows(connection: "psycopg.Connection[tuple[object, ...]]", campaign: Campaign) -> int:
    """What the database knows."""
    row = connection.execute(
        "SELECT count(*) FROM campaign_subscribers WHERE campaign_id = %s AND sent", (campaign.id,)
    ).fetchone()
    return int(str(row[0])) if row else 0


def main() -> int:
    """Prints a line for each kind; exit code 1 if one holds the good ones up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipients", type=int, default=1000)
    parser.add_argument("--only", default=",".join(KINDS))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    worst = 0.0
    with bench() as setup:
        for name in options.only.split(","):
            pairs = [
                (
                    seconds_for(setup, options.recipients, GOOD.get(name)),
                    seconds_for(setup, options.recipients, KINDS[name]),
                )
                for _ in range(options.rounds)
            ]
            without, beside = (statistics.median(column) for column in zip(*pairs, strict=True))
            worst = max(worst, beside / without)
            print(
                f"{name:<13} without {without:5.2f} s, beside it {beside:5.2f} s: {beside / without:.2f}×", flush=True
            )
    return 1 if worst > AT_MOST else 0


if __name__ == "__main__":
    sys.exit(main())
