"""The actor: what a process does with one message. With broker.py the only module that knows Dramatiq."""

import logging
from collections.abc import Callable
from typing import Any

import dramatiq
import redis
from dramatiq.middleware import CurrentMessage

from worker import keys
from worker.broker import DeadLetter, MailBroker
from worker.delivery import Done, TryAgain
from worker.errors import InvalidJob
from worker.jobs import Address, Job, parse_job, recipient_key
from worker.ledger import Entry
from worker.redis_client import explain

LEDGER_AWAY_DELAY_MS = 5_000
#: For errors that nobody foresaw: the mail comes back a few times before it's put aside.
MAX_UNEXPECTED_ERRORS = 3
UNEXPECTED_ERROR_DELAY_MS = 60_000

Deliver = Callable[[Job, str, int], Done | TryAgain]
Fail = Callable[[Entry, str], None]

logger = logging.getLogger(__name__)


def declare_actors(broker: MailBroker, deliver: Deliver, fail: Fail, default_sender: Address | None) -> None:
    """Declares `send_mail` on the broker.

    Args:
        deliver: job, identity, attempts → what to do with the message; blocks a worker thread, not the event loop.
        fail: records that a recipient's job can't become a mail.
    """

    def send_mail(raw: object) -> None:
        message: Any = CurrentMessage.get_current_message()
        options = message.options
        try:
            job = parse_job(raw, default_sender)
            outcome = deliver(job, message.message_id, _count(options, "attempts"))
        except InvalidJob as error:
            _refuse(raw, message.message_id, f"invalid job: {error}", fail)
            return
        except redis.RedisError as error:
            logger.error("%s The mail comes back in %d s.", explain(error), LEDGER_AWAY_DELAY_MS // 1000)
            outcome = TryAgain(LEDGER_AWAY_DELAY_MS, _count(options, "attempts"))
        except Exception as error:
            errors = _count(options, "errors") + 1
            # The message itself stays out of the log: it holds an address and a mail.
            logger.exception("message %s: unexpected error %d of %d", message.message_id, errors, MAX_UNEXPECTED_ERRORS)
            if errors >= MAX_UNEXPECTED_ERRORS:
                raise DeadLetter(f"unexpected error: {error!r}") from None
            options = {**options, "errors": errors}
            outcome = TryAgain(UNEXPECTED_ERROR_DELAY_MS, _count(options, "attempts"))
        if isinstance(outcome, TryAgain):
            # A new message and then the old one's acknowledgement, instead of Dramatiq's retries: those count each
            # try, also one that was only put off.
            again = message.copy(options={**options, "attempts": outcome.attempts})
            broker.enqueue(again, delay=outcome.delay_ms or None)

    dramatiq.actor(actor_name=keys.ACTOR, queue_name=keys.QUEUE, broker=broker, throws=DeadLetter)(send_mail)


def _refuse(raw: object, identity: str, reason: str, fail: Fail) -> None:
    recipient = recipient_key(raw)
    if recipient is None:
        raise DeadLetter(reason)
    campaign_id, subscriber_id = recipient
    logger.warning("campaign %s, subscriber %s: %s", campaign_id, subscriber_id, reason)
    fail(Entry(campaign_id, subscriber_id, identity), reason)


def _count(options: dict[str, Any], name: str) -> int:
    value = options.get(name)
    return value if isinstance(value, int) and value > 0 else 0
