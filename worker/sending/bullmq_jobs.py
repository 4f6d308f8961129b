"""What a process does with one of BullMQ's jobs, as actors.py does with a message of Dramatiq's."""

import json
import logging
from typing import Protocol

import redis

from worker.errors import DatabaseUnavailable, InvalidJob
from worker.ledger.ledger import Entry, QueuedJob
from worker.mail.jobs import Job
from worker.mail.message import identity as message_identity
from worker.mail.retry import retry_delay_ms
from worker.mail.shape import recipient_key
from worker.queue import bullmq
from worker.queue.bullmq import BullJob, JobSettlement
from worker.queue.bullmq_options import JobOptions, Keep, read_options
from worker.sending.checking import Checker, Unclear
from worker.sending.delivery import Back, Before, Delivery, Disposition, Done, Held, Later, Parked, Queued

LEDGER_AWAY_DELAY_MS = 5_000
DATABASE_AWAY_DELAY_MS = 15_000
#: For errors that nobody foresaw: the mail comes back a few times before it's put aside.
MAX_UNEXPECTED_ERRORS = 2
UNEXPECTED_ERROR_DELAY_MS = 60_000

logger = logging.getLogger(__name__)


class SentRows(Protocol):
    """What is needed of the database: whether a recipient's row says that its mail was sent.

    Raises:
        DatabaseUnavailable: nobody knows.
    """

    async def __call__(self, campaign_id: str, subscriber_id: str) -> bool: ...


class BullJobs:
    """Turns jobs into mails by `delivery`, and says what is to be done with each."""

    def __init__(
        self,
        delivery: Delivery,
        queue: str,
        check: Checker,
        sent_rows: SentRows,
        keep_completed: Keep,
        keep_failed: Keep,
    ) -> None:
        """
        Args:
            queue: `PREFIX:QUEUE`.
            check: checks a job.
            sent_rows: asked for jobs that others may have sent.
            keep_completed, keep_failed: for an app that says nothing.
        """
        self._delivery = delivery
        self._queue = queue
        self._check = check
        self._sent_rows = sent_rows
        self._keep_completed = keep_completed
        self._keep_failed = keep_failed

    async def __call__(self, bull_job: BullJob) -> JobSettlement | None:
        """Makes one try. None if the mail's result has finished the job."""
        options = read_options(bull_job.options, self._keep_completed, self._keep_failed)
        try:
            return await self._deliver(bull_job, options)
        except redis.RedisError:
            return _later(bull_job, LEDGER_AWAY_DELAY_MS)
        except DatabaseUnavailable as error:
            logger.error("%s Jobs that others may have sent wait.", error)
            return _later(bull_job, DATABASE_AWAY_DELAY_MS)
        except Exception as error:
            # The job itself stays out of the log: it holds an address and a mail.
            logger.exception("job %s: unexpected error", bull_job.id)
            if bull_job.attempts_made >= MAX_UNEXPECTED_ERRORS:
                return bullmq.fail(bull_job, f"unexpected error: {error!r}", options.keep_failed.for_script())
            return _later(bull_job, UNEXPECTED_ERROR_DELAY_MS, reason=f"unexpected error: {error!r}", spent=True)

    async def _deliver(self, bull_job: BullJob, options: JobOptions) -> JobSettlement | None:
        try:
            raw = json.loads(bull_job.data)
        except (ValueError, RecursionError):
            return self._refuse(bull_job, options, "its data isn't JSON")
        identity = bullmq.mail_identity(self._queue, bull_job.id, bull_job.timestamp)
        try:
            job = await self._check(raw)
        except InvalidJob as error:
            recipient = recipient_key(raw)
            if recipient is None:
                return self._refuse(bull_job, options, str(error))
            entry = Entry(*recipient, identity, self._queued_job(bull_job, options, "invalid"))
            logger.warning("campaign %s, subscriber %s: invalid job: %s", *recipient, error)
            await self._delivery.fail(entry, f"invalid job: {error}")
            return None
        if isinstance(job, Unclear):
            return _later(bull_job, job.delay_ms)
        if isinstance(job, Parked):
            return bullmq.park(bull_job, job.campaign_id)
        queued_job = self._queued_job(bull_job, options, job.message_id or f"<{message_identity(job, identity)}>")
        entry = Entry(job.campaign_id, job.subscriber_id, identity, queued_job)
        if bull_job.failed_by_queue:
            await self._delivery.fail(entry, bull_job.failed_by_queue)
            return None
        if bull_job.ask_database and await self._was_sent(job):
            await self._delivery.sent_elsewhere(entry)
            return None
        queued = Queued(
            identity,
            bull_job.attempts_made,
            bull_job.slow_downs,
            bull_job.losses,
            queued_job,
            max_attempts=options.attempts,
            # Without attempts, an app's backoff never comes to anything in BullMQ.
            delay_ms=options.delay_ms if options.attempts else retry_delay_ms,
            queued_at_ms=int(bull_job.timestamp) if bull_job.timestamp.isdecimal() else 0,
        )
        return _settlement(bull_job, entry, await self._delivery.deliver(job, queued))

    async def _was_sent(self, job: Job) -> bool:
        if job.campaign_id is None or job.subscriber_id is None:
            return False
        return await self._sent_rows(job.campaign_id, job.subscriber_id)

    def _refuse(self, bull_job: BullJob, options: JobOptions, reason: str) -> JobSettlement:
        logger.warning("job %s of %s isn't a mail: %s", bull_job.id, self._queue, reason)
        return bullmq.fail(bull_job, f"not a mail: {reason}", options.keep_failed.for_script())

    def _queued_job(self, bull_job: BullJob, options: JobOptions, mail_id: str) -> QueuedJob:
        return QueuedJob(
            bull_job.id,
            bull_job.timestamp,
            mail_id,
            wanted_again=bull_job.wanted_again,
            may_have_been_sent=bull_job.may_have_been_sent,
            keep_completed=options.keep_completed.for_script(),
            keep_failed=options.keep_failed.for_script(),
        )


def _settlement(bull_job: BullJob, entry: Entry, disposition: Disposition) -> JobSettlement | None:
    match disposition:
        case Done():
            return None
        case Before():
            return bullmq.already_done(entry)
        case Back():
            return bullmq.back(bull_job, entry)
        case Parked(campaign_id=campaign_id):
            return bullmq.park(bull_job, campaign_id)
        case Held(name=name, reason=reason):
            return bullmq.hold(bull_job, name, reason)
        case Later(delay_ms=delay_ms, attempts=attempts, slow_downs=slow_downs, reason=reason, losses=losses):
            return bullmq.delay(
                bull_job,
                delay_ms,
                spent=attempts > bull_job.attempts_made,
                reason=reason,
                slow_downs=slow_downs,
                losses=losses,
            )


def _later(bull_job: BullJob, delay_ms: int, *, reason: str = "", spent: bool = False) -> JobSettlement:
    slow_downs, losses = bull_job.slow_downs, bull_job.losses
    return bullmq.delay(bull_job, delay_ms, spent=spent, reason=reason, slow_downs=slow_downs, losses=losses)
