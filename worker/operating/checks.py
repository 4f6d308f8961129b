"""`mail-worker check`: does each service answer, and if not, what is to be done?"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import redis

from worker.base import keys
from worker.base.redis_client import connect, explain
from worker.base.settings import Settings
from worker.errors import DatabaseRejected, MailWorkerError
from worker.operating.preview import head_of_queue, refusals, remarks
from worker.queue.bullmq_view import BullView, completed_bytes, foreign_jobs, look, other_queues, other_workers
from worker.queue.processes import alive
from worker.queue.templates import finder
from worker.sending.transports.choice import make_transport

#: XAUTOCLAIM came with 6.2.
OLDEST_REDIS = (6, 2)
REDIS_TIMEOUT_SECONDS = 5.0
DATABASE_TIMEOUT_SECONDS = 10.0
#: More completed jobs than this, and nobody seems to remove them.
UNBOUNDED_JOBS = 5000
#: https://upstash.com/docs/redis/troubleshooting/max_record_size_exceeded: of its free and pay-as-you-go databases.
UPSTASH_RECORD_BYTES = 100_000_000
UPSTASH_HOSTS = ".upstash.io"
#: From this part of a limit on, it's said.
CLOSE_TO = 0.7
#: Fewer bytes of waiting mails aren't worth a word.
WORTH_SAYING_BYTES = 1_000_000
#: So many waiting mails are weighed, and taken for all of them.
WEIGHED_MESSAGES = 50
#: With an index on both columns it's below 10 ms among millions of rows.
SLOW_LOOKUP_MS = 100.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, as a phrase if it's well and as a sentence with the fix if it isn't."""

    service: str
    ok: bool
    words: str

    def __str__(self) -> str:
        return f"{'ok  ' if self.ok else 'FAIL'} {self.service:<9} {self.words}"


def run_checks(settings: Settings) -> Iterator[Finding]:
    """Checks each service in turn, within some ten seconds each."""
    checks = [("redis", check_redis), ("supabase", check_supabase), ("mail", check_mail)]
    if settings.bullmq:
        checks.insert(1, ("bullmq", check_bullmq))
    for service, check in checks:
        yield _finding(service, check, settings)


def _finding(service: str, check: Callable[[Settings], str], settings: Settings) -> Finding:
    try:
        return Finding(service, True, check(settings))
    except redis.RedisError as error:
        return Finding(service, False, explain(error))
    except MailWorkerError as error:
        return Finding(service, False, str(error))


def check_redis(settings: Settings) -> str:
    """Logs in, and makes sure that Redis is new enough and won't throw queued mails away."""
    client = connect(settings.redis_url, socket_timeout_seconds=REDIS_TIMEOUT_SECONDS)
    try:
        client.ping()
        info: Any = client.info()
        version = str(info.get("redis_version", "0"))
        if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_REDIS:
            oldest = ".".join(map(str, OLDEST_REDIS))
            raise MailWorkerError(
                f"Redis {version} is too old: version {oldest} or newer is needed, so upgrade it, or let REDIS_URL lead"
                " to another one."
            )
        policy = info.get("maxmemory_policy")
        if info.get("maxmemory") and policy not in (None, "noeviction"):
            raise MailWorkerError(
                f"Redis may throw queued mails away when its memory is full (maxmemory-policy is {policy}):"
                " set it to noeviction, or on Upstash turn eviction off."
            )
        if info.get("role") == "slave":
            raise MailWorkerError("Redis is a replica, which takes no changes: let REDIS_URL lead to the primary.")
        connection = client.connection_pool.connection_kwargs
        host = str(connection.get("host"))
        return "; ".join([f"{host}:{connection.get('port')}, version {version}", *_room(client, info, host)])
    finally:
        client.close()


def _room(client: "redis.Redis", info: dict[str, Any], host: str) -> Iterator[str]:
    """What the waiting mails of Dramatiq's queue take, and of which limit that is near."""
    messages, size = waiting_bytes(client)
    if size >= WORTH_SAYING_BYTES:
        yield f"{messages:,} mails wait and take about {size / 1e6:,.0f} MB"
    if host.endswith(UPSTASH_HOSTS) and size > CLOSE_TO * UPSTASH_RECORD_BYTES:
        yield (
            f"that is one record, of which Upstash's smaller plans take {UPSTASH_RECORD_BYTES / 1e6:.0f} MB: queue"
            " fewer at a time, make the mails smaller, or take a larger plan or BullMQ's queue (docs/redis.md)"
        )
    used, most = int(info.get("used_memory") or 0), int(info.get("maxmemory") or 0)
    if most and used > CLOSE_TO * most:
        yield (
            f"its memory is {used / most * 100:.0f} % full ({used / 1e6:,.0f} of {most / 1e6:,.0f} MB): when it's full,"
            " the app can't queue more. Let the workers send what waits, or raise its maxmemory (on a broker of this"
            " project redis_maxmemory_mb)"
        )


def waiting_bytes(client: "redis.Redis") -> tuple[int, int]:
    """How many messages Dramatiq's queue holds, and how many bytes those are, by a sample.

    Raises:
        redis.RedisError: Redis is away.
    """
    messages: Any = client.hlen(keys.MESSAGES)
    sample: Any = client.hrandfield(keys.MESSAGES, WEIGHED_MESSAGES)
    if not sample:
        return 0, 0
    with client.pipeline(transaction=False) as pipeline:
        for identity in sample:
            pipeline.hstrlen(keys.MESSAGES, identity)
        sizes: list[int] = pipeline.execute()
    return messages, int((sum(sizes) + sum(map(len, sample))) / len(sample) * messages)


def check_bullmq(settings: Settings) -> str:
    """Looks at the app's queue, and whether its first jobs can become mails: nothing in it is a reason not to start."""
    client = connect(settings.redis_url, socket_timeout_seconds=REDIS_TIMEOUT_SECONDS)
    try:
        view = look(client, settings.bullmq)
        if not view.version:
            return _no_queue(client, settings.bullmq)
        remarks = [*_first_jobs(client, view, settings), *_remarks(client, view)]
        return "; ".join([f"{view.name} of {view.version}: {view.waiting:,} jobs wait", *remarks])
    finally:
        client.close()


def _no_queue(client: "redis.Redis", bullmq: str) -> str:
    others = other_queues(client)
    there = f" There's {', '.join(others[:5])}." if others else ""
    return (
        f"no app has opened {bullmq} in this Redis yet.{there} If one has, compare BULLMQ_QUEUE, BULLMQ_PREFIX and"
        " REDIS_URL with the app's; what BullMQ 6 keeps in PostgreSQL isn't in Redis and can't be sent"
    )


def _first_jobs(client: "redis.Redis", view: BullView, settings: Settings) -> Iterator[str]:
    jobs, find = head_of_queue(client, view.name), finder(client)
    if refused := list(refusals(jobs, settings.jobs, find)):
        yield (
            f"{len(refused)} OF THE FIRST {len(jobs)} JOBS WOULD BE REFUSED ({refused[0]}): mend the app, or name its"
            " fields with worker_job_fields, see docs/jobs.md"
        )
    yield from remarks((job for _, job in jobs), settings.jobs, find)


def _remarks(client: "redis.Redis", view: BullView) -> Iterator[str]:
    if view.paused:
        yield "the app has paused it: nothing is taken until it calls queue.resume()"
    if foreign := foreign_jobs(client, view.name):
        yield f"{foreign} jobs at its head are a scheduler's or a flow's: left to BullMQ's own workers"
    workers = other_workers(client, view.name, {process.name for process in alive(client)})
    if workers is None:
        yield "Redis doesn't tell whether other workers are on it"
    elif workers:
        yield f"others work on it too ({workers} connected): jobs are shared, see docs/migrate-from-bullmq.md"
    if view.completed > UNBOUNDED_JOBS:
        megabytes = completed_bytes(client, view) / 1_000_000
        yield (
            f"{view.completed:,} completed jobs are kept and take about {megabytes:,.0f} MB: give the app's jobs a"
            " removeOnComplete, such as { count: 1000 }"
        )


def check_supabase(settings: Settings) -> str:
    """Reads both tables with the key."""
    from worker.recording.database import SupabaseDatabase  # workers check themselves without loading supabase

    database = SupabaseDatabase(settings, timeout_seconds=DATABASE_TIMEOUT_SECONDS)
    try:
        answer, lookup_ms = database.check(), database.lookup_ms()
        if lookup_ms is None or lookup_ms <= SLOW_LOOKUP_MS:
            return answer
        columns = f"{settings.recipient_campaign_column}, {settings.recipient_subscriber_column}"
        return (
            f"{answer}; finding recipients of a campaign takes {lookup_ms:.0f} ms, and each update does it: CREATE"
            f" INDEX ON {settings.recipients_table} ({columns}); makes that a few"
        )
    except DatabaseRejected as error:
        raise MailWorkerError(str(error)) from None
    finally:
        database.close()


def check_mail(settings: Settings) -> str:
    """Connects and logs in, without sending."""

    async def check() -> str:
        transport = make_transport(settings)
        try:
            return await transport.check()
        finally:
            await transport.close()

    return asyncio.run(check())
