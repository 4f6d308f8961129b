"""`mail-worker verify`: whether processes that were started just now are up and do send. A deploy's gate."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from uuid import uuid4

import redis

from worker.base.redis_client import connect, connect_async, explain
from worker.base.settings import Settings
from worker.errors import MailWorkerError
from worker.ledger.ledger import LedgerOptions, RedisLedger
from worker.operating.checks import Finding
from worker.operating.testmail import test_job
from worker.queue.control import AsyncControl
from worker.queue.gate import Gate
from worker.queue.processes import Process
from worker.sending.delivery import Back, Delivery, Done, Options, Queued
from worker.sending.transports.choice import destination, make_account, make_transport
from worker.watching.status import Status, read_status

LOOK_EVERY_SECONDS = 0.5
#: In a shorter window every process gets its turn; a longer one may be used up for hours.
TURN_WITHIN_MS = 60_000


def verify(settings: Settings, expected: Mapping[str, int], canary: str, timeout_seconds: float) -> Iterator[Finding]:
    """Looks until all is shown, or for `timeout_seconds`.

    Args:
        expected: the host's processes by supervisord's name, with their pids.
        canary: the address of a mail that takes the path of a campaign's but the queue; "" for none.
    """
    try:
        yield from _heartbeats(settings, expected, time.monotonic() + timeout_seconds)
        if canary:
            yield asyncio.run(_send_canary(settings, canary, timeout_seconds))
    except redis.RedisError as error:
        yield Finding("redis", False, explain(error))
    except MailWorkerError as error:
        yield Finding("mail", False, str(error))


def _heartbeats(settings: Settings, expected: Mapping[str, int], deadline: float) -> Iterator[Finding]:
    client = connect(settings.redis_url)
    names = {f"{settings.host_name}/{name}": pid for name, pid in expected.items()}
    while True:
        status = read_status(client, settings.account_name, settings.mail_rate, settings.bullmq, names)
        heard = {process.name: process for process in status.processes if names.get(process.name) == process.pid}
        silent = sorted(names.keys() - heard.keys())
        idle = "" if silent else _why_nothing_is_sent(status, list(heard.values()))
        if not silent and (idle is None or time.monotonic() > deadline):
            break
        if time.monotonic() > deadline:
            yield Finding(
                "heartbeat",
                False,
                f"{', '.join(silent)} hasn't been heard of in Redis since its start: its log says why.",
            )
            return
        time.sleep(LOOK_EVERY_SECONDS)
    yield Finding("heartbeat", True, f"{len(names)} processes have been heard of")
    if idle is None:
        yield Finding(
            "sending", True, "mails leave" if any(process.sent for process in heard.values()) else "none wait"
        )
    else:
        yield Finding("sending", False, idle)


def _why_nothing_is_sent(status: Status, processes: list[Process]) -> str | None:
    """None if these processes send, or if there's a reason for not sending that isn't theirs. A stopped account is
    theirs: each start forgets an earlier stop."""
    workers = [process for process in processes if process.concurrency]
    may_leave = status.may_leave
    if not workers or may_leave <= 0 or _is_at_its_limit(status) or any(process.sent for process in workers):
        return None
    return f"{may_leave} mails wait, but none of these processes has sent one since its start. {status.account.stopped}"


def _is_at_its_limit(status: Status) -> bool:
    account = status.account
    return any(
        used >= limit.mails and limit.window_ms > TURN_WITHIN_MS
        for limit, used in zip(account.limits, account.used, strict=True)
    )


async def _send_canary(settings: Settings, address: str, timeout_seconds: float) -> Finding:
    client = connect_async(settings.redis_url, 2)
    process = f"canary-{uuid4().hex}"
    gate = Gate(asyncio.Event())
    account = make_account(settings, client, process)
    transport = make_transport(settings, account)
    ledger = RedisLedger(client, process, settings.account_name, LedgerOptions(limits=settings.mail_rate))
    options = Options(retry_hours=0, max_attempts=1)
    delivery = Delivery(transport, ledger, account, gate, AsyncControl(client), process, options)
    try:
        async with asyncio.timeout(timeout_seconds):
            disposition = await delivery.deliver(test_job(settings, address), Queued(uuid4().hex))
    except TimeoutError:
        return Finding(
            "canary", False, f"{destination(settings)} took no mail to {address} in {timeout_seconds:.0f} s."
        )
    finally:
        await transport.close()
        await client.aclose()
    match disposition:
        case Done() if delivery.sent:
            return Finding("canary", True, f"{destination(settings)} accepted the mail to {address}")
        case Back() if _is_at_its_limit(
            read_status(connect(settings.redis_url), settings.account_name, settings.mail_rate, settings.bullmq)
        ):
            return Finding(
                "canary", True, f"not sent: the account is at its limit (MAIL_RATE), {address} gets none now"
            )
        case _:
            return Finding("canary", False, f"{destination(settings)} took no mail to {address}.")
