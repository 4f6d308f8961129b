"""Checks jobs, and tells a fault of one job from one that its whole campaign has."""

import logging
from dataclasses import dataclass

from worker.errors import InvalidJob, InvalidRecipient, InvalidSender, InvalidTemplate
from worker.mail.jobs import Defaults, Job, parse_job, template_of
from worker.mail.shape import recipient_key, with_sender
from worker.queue.control import AsyncControl
from worker.queue.templates import Templates
from worker.sending.attachment_files import AttachmentFiles
from worker.sending.delivery import Parked

#: So many fields are named in a process's log.
MAX_TOLD = 50

logger = logging.getLogger(__name__)

_SENDER_HINT = "or send its mails from another address: mail-worker resume {campaign} --from 'NAME <ADDRESS>'"
_TEMPLATE_HINT = "then: mail-worker resume {campaign}"
_HINT = (
    "then drop what is queued (mail-worker cancel {campaign}), take that back (mail-worker resume {campaign}), and"
    " queue it again: who got a mail gets no other."
)


@dataclass(frozen=True, slots=True)
class Unclear:
    """Other jobs of the campaign will tell whose fault it is: the job comes back after `delay_ms`."""

    delay_ms: int


class Checker:
    """Turns what was queued into jobs. A sender that can't be read, a missing text or a wrong shape is most often in
    each job of a campaign: it pauses then, and nobody fails. One such job among good ones fails alone."""

    def __init__(self, control: AsyncControl, defaults: Defaults, templates: Templates, files: AttachmentFiles) -> None:
        self._control = control
        self._defaults = defaults
        self._templates = templates
        self._files = files
        self._told: set[str] = set()

    async def __call__(self, raw: object) -> Job | Unclear | Parked:
        """Checks a job.

        Raises:
            InvalidJob: it can't become a mail, and no other is to blame.
            redis.RedisError: Redis is away, and nobody knows whose fault it is.
        """
        try:
            if name := template_of(raw):
                await self._templates.load(name)
            job = self.read(raw)
            self._tell(job.unsent)
            return await self._files.fill(job)
        except InvalidRecipient:
            raise
        except InvalidJob as error:
            recipient = recipient_key(raw)
            if recipient is None or not isinstance(raw, dict):
                raise
            campaign_id, subscriber_id = recipient
            lacks_template = isinstance(error, InvalidTemplate)
            hint = _TEMPLATE_HINT if lacks_template else _SENDER_HINT if isinstance(error, InvalidSender) else _HINT
            hint = hint.format(campaign=campaign_id)
            fault = await self._control.fault(campaign_id, subscriber_id, str(error), hint, never_alone=lacks_template)
            if isinstance(error, InvalidSender) and fault.sender:
                return await self(with_sender(raw, fault.sender))
            if fault.paused:
                return Parked(campaign_id)
            if fault.wait_ms:
                return Unclear(fault.wait_ms)
            raise

    def read(self, raw: object) -> Job:
        """A job by what is known; a template that it needs must be.

        Raises:
            InvalidJob: it can't become a mail.
        """
        return parse_job(raw, self._defaults, self._templates.find)

    def _tell(self, unsent: tuple[str, ...]) -> None:
        for name in unsent:
            # Once a process, and not what may be anything, such as an address.
            if name not in self._told and len(self._told) < MAX_TOLD and name.replace(".", "_").isidentifier():
                self._told.add(name)
                logger.warning("Jobs hold %s, which isn't sent: see docs/jobs.md.", name)
