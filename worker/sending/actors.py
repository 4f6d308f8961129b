"""The actor: what a process does with one message. With broker.py and runner.py the only module that knows Dramatiq."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import dramatiq
import redis
from dramatiq.middleware import CurrentMessage

from worker.base import keys
from worker.base.redis_client import encodable
from worker.errors import InvalidJob
from worker.ledger.ledger import REASON_CHARACTERS, Entry
from worker.mail.jobs import Job
from worker.mail.shape import recipient_key
from worker.queue.broker import DeadLetter, MailBroker
from worker.queue.runner import GiveBack, Hold, Park, Postpone
from worker.sending.checking import Checker, Unclear
from worker.sending.delivery import Back, Disposition, Held, Later, Parked, Queued

LEDGER_AWAY_DELAY_MS = 5_000

Deliver = Callable[[Job, Queued], Awaitable[Disposition]]
Fail = Callable[[Entry, str], Awaitable[None]]

logger = logging.getLogger(__name__)


def declare_actors(broker: MailBroker, check: Checker, deliver: Deliver, fail: Fail) -> None:
    """Declares `send_mail` on the broker.

    Args:
        check: checks a job.
        deliver: job, and what the queue knows of it → what to do with the message.
        fail: records that a recipient's job can't become a mail.
    """

    async def send_mail(*jobs: object, **others: object) -> str | None:
        if len(jobs) != 1 or others:
            raise DeadLetter(f"its args hold {len(jobs)} values and its kwargs {len(others)}, but one job is due")
        [raw] = jobs
        message: Any = CurrentMessage.get_current_message()
        options = message.options
        try:
            job = await check(raw)
            if isinstance(job, Unclear):
                raise Postpone(job.delay_ms, {})
            if isinstance(job, Parked):
                raise Park(job.campaign_id)
            attempts, slow_downs, losses = (_count(options, name) for name in ("attempts", "slow_downs", "losses"))
            queued = Queued(message.message_id, attempts, slow_downs, losses, queued_at_ms=message.message_timestamp)
            disposition = await deliver(job, queued)
        except InvalidJob as error:
            await _refuse(raw, message.message_id, f"invalid job: {error}", fail)
            return None
        except redis.RedisError as error:
            raise Postpone(LEDGER_AWAY_DELAY_MS, {}) from error
        match disposition:
            case Later(delay_ms=delay_ms, attempts=attempts, slow_downs=slow_downs, reason=reason, losses=losses):
                # The reply is for `mail-worker why`.
                said = {"last_reply": encodable(reason[:REASON_CHARACTERS])} if reason else {}
                counts = {"attempts": attempts, "slow_downs": slow_downs, "losses": losses}
                raise Postpone(delay_ms, {**counts, **said})
            case Back():
                raise GiveBack
            case Parked(campaign_id=campaign_id):
                raise Park(campaign_id)
            case Held(name=name):
                raise Hold(name)
        return keys.single(message.message_id) if job.campaign_id is None else None

    dramatiq.actor(actor_name=keys.ACTOR, queue_name=keys.QUEUE, broker=broker, throws=DeadLetter)(send_mail)


async def _refuse(raw: object, identity: str, reason: str, fail: Fail) -> None:
    recipient = recipient_key(raw)
    if recipient is None:
        raise DeadLetter(reason)
    campaign_id, subscriber_id = recipient
    logger.warning("campaign %s, subscriber %s: %s", campaign_id, subscriber_id, reason)
    await fail(Entry(campaign_id, subscriber_id, identity), reason)


def _count(options: dict[str, Any], name: str) -> int:
    value = options.get(name)
    return value if isinstance(value, int) and value > 0 else 0
