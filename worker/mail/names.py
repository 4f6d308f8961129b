"""The names under which apps put a mail's fields into a job: the one list that both queues, the scripts in Redis and
docs/jobs.md share. Each name is taken in camelCase and in snake_case."""

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

#: What a mail is made of → the names for it. A job that says different things under two of them is refused.
NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "to": ("to", "email", "recipient", "toEmail"),
        "cc": ("cc",),
        "bcc": ("bcc",),
        "from": ("from",),
        "fromName": ("fromName",),
        "fromEmail": ("fromEmail",),
        "sender": ("sender",),
        "replyTo": ("replyTo", "replyToList"),
        "subject": ("subject",),
        "html": ("html", "htmlContent", "htmlBody"),
        "text": ("text", "textContent", "textBody"),
        "body": ("body", "content", "message"),
        "templateId": ("templateId", "template", "templateName"),
        "vars": ("vars", "variables", "templateData", "context", "data"),
        "attachments": ("attachments", "attachment"),
        "icalEvent": ("icalEvent",),
        "headers": ("headers",),
        "list": ("list",),
        "inReplyTo": ("inReplyTo",),
        "references": ("references",),
        "messageId": ("messageId",),
        "priority": ("priority",),
        "tags": ("tags", "categories"),
        "unsubscribeUrl": ("unsubscribeUrl",),
        "campaignId": ("campaignId",),
        "subscriberId": ("subscriberId",),
        "subscriberName": ("subscriberName",),
    }
)

#: What can't be sent, and why. Queued empty, it's nothing.
REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "raw": "a mail that is written already would go out past every check: queue its parts",
        "amp": "AMP needs the sender's registration with each mailbox provider, and the providers' APIs take none",
        "watchHtml": "no mailbox provider shows it any more",
        "alternatives": "only html, text and icalEvent go out, which every provider takes",
        "dsn": "what became of a mail stands in the ledger and in the provider's log",
        "envelope": "the envelope is made of from, to, cc and bcc",
        "dkim": "the mail server or provider signs",
        "attachDataUrls": "queue such pictures in attachments, with a cid",
        "auth": "the account is the worker's: see docs/configure.md",
        "react": "render it in the app, and queue the html",
        "personalizations": "queue a job for each",
        "messageVersions": "queue a job for each",
        "recipientVariables": "queue a job for each",
        "recipient-variables": "queue a job for each",
        "isMultiple": "queue a job for each, or they see each other",
        "dynamicTemplateData": "a provider's own templates aren't used: queue the html, or a template of the worker's",
    }
)

#: When the app wants the mail to leave. The worker sends what it's given, so a time that lies ahead is refused.
TIMES = (
    "sendAt scheduledAt scheduleAt scheduledFor scheduledTime scheduleTime scheduledDate deliveryTime deliverAt"
    " sendTime sendLater o:deliverytime"
).split()
#: That it shouldn't reach its recipient. Such a switch is refused unless it's off.
TRIALS = "sandboxMode mailSettings testMode dryRun o:testmode".split()

#: What isn't a part of the mail, as everybody knows: it stays in the queue, and nobody is told.
HARMLESS = frozenset(
    "type metadata meta attempt attempts id jobId jobName queue timestamp createdAt updatedAt queuedAt userId name"
    " firstName lastName username campaignName locale lang language timezone encoding textEncoding disableFileAccess"
    " disableUrlAccess normalizeHeaderKey tenantId organizationId accountId traceId requestId correlationId source"
    " retryCount maxRetries".split()
)

#: An object that may hold the whole mail has one of these besides a recipient; a job that has them is the mail itself.
TEXT_FIELDS = ("html", "text", "body", "templateId")
#: These hold people or words, and never the mail.
NO_WRAPPERS = ("from", "sender", "replyTo", "cc", "bcc", "headers", "list", "vars")
#: What a value that names a recipient as an object has.
ADDRESS_KEYS = ("address", "email")


def snake_case(name: str) -> str:
    """`replyTo` as `reply_to`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def both_spellings(names: Iterable[str]) -> tuple[str, ...]:
    """Each name, and behind it its snake_case."""
    return tuple(dict.fromkeys(spelling for name in names for spelling in (name, snake_case(name))))


class FieldNames:
    """Finds a job's fields by an app's names."""

    def __init__(self, own: Mapping[str, str] = MappingProxyType({})) -> None:
        """
        Args:
            own: what a mail is made of → the app's own name for it, which counts before all others: they aren't read
                beside it.
        """
        #: Each name → what it's a name of, and its rank among the others.
        self.all: dict[str, tuple[str, int]] = {}
        self._names: dict[str, tuple[str, ...]] = {}
        self._own = {canonical: both_spellings((name,)) for canonical, name in own.items()}
        self._ranked: dict[str, tuple[tuple[str, ...], ...]] = {}
        for canonical, names in NAMES.items():
            first = (own[canonical],) if canonical in own else ()
            self._names[canonical] = both_spellings((*first, *names))
            others = tuple(name for name in self._names[canonical] if name not in self.own(canonical))
            self._ranked[canonical] = (self.own(canonical), others) if first else (others,)
            for rank, name in enumerate(self._names[canonical]):
                self.all.setdefault(name, (canonical, rank))
        self.texts = tuple(name for field in TEXT_FIELDS for name in self._names[field])
        self.contents = (*self._names["subject"], *self.texts)
        self.templates = frozenset(self._names["templateId"])
        self.no_wrappers = frozenset(name for field in NO_WRAPPERS for name in self._names[field]) - {"data"}
        self._refused = {spelling: name for name in REFUSED for spelling in both_spellings((name,))}
        self._times = frozenset(both_spellings(TIMES))
        self._trials = frozenset(both_spellings(TRIALS))
        self._harmless = frozenset(both_spellings(HARMLESS))

    def of(self, canonical: str) -> tuple[str, ...]:
        """All names of a field in their order."""
        return self._names[canonical]

    def own(self, canonical: str) -> tuple[str, ...]:
        """The app's own names of a field, which are the first of all its names."""
        return self._own.get(canonical, ())

    def ranked(self, canonical: str) -> tuple[tuple[str, ...], ...]:
        """The app's own names of a field, if it has any, and then all others, which count where none of those is."""
        return self._ranked[canonical]

    def known(self, name: str) -> tuple[str, int] | None:
        """What the name is one of, and its rank."""
        return self.all.get(name)

    def spelled(self, name: str) -> str:
        """The name with the capitals that jobs have: a spreadsheet's `Email` is `email`."""
        known = (*self.all, *self._harmless)
        return name if name in known else next((one for one in known if one.lower() == name.lower()), name)

    def refused(self, name: str) -> str | None:
        """Why what the name stands for can't be sent."""
        return REFUSED[self._refused[name]] if name in self._refused else None

    def is_time(self, name: str) -> bool:
        """Whether it says when the mail should leave."""
        return name in self._times

    def is_trial(self, name: str) -> bool:
        """Whether it says that the mail shouldn't reach anybody."""
        return name in self._trials

    def is_harmless(self, name: str) -> bool:
        """Whether nobody misses it in the mail."""
        return name in self._harmless


_current = FieldNames()


def field_names() -> FieldNames:
    """Those of this process's app."""
    return _current


def use_own_names(own: Mapping[str, str]) -> None:
    """From now on this process reads jobs by an app's own names, in Redis too. A process has one app, as it has one
    log; it's said before anything is read."""
    global _current
    _current = FieldNames(own)
