"""`mail-worker why`: one recipient's life, from the queue to the database, by what the ledger, the queues, the list of
uncertain mails and the database know."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import redis

from worker.base import keys
from worker.base.settings import Settings
from worker.errors import DatabaseRejected, DatabaseUnavailable, InvalidJob
from worker.ledger.ledger import Entry
from worker.mail.addresses import parse_address, unicode_domain
from worker.mail.jobs import Job, parse_job
from worker.mail.shape import recipient_key
from worker.mail.words import shown_line
from worker.queue.search import FoundJob, search
from worker.queue.templates import finder
from worker.recording.database import SupabaseDatabase

AT_ONCE = 500
#: What a script is told: accepted; on its way; not sent; nothing known.
EXIT_CODES = {"sent": 0, "waiting": 3, "not sent": 4, "unknown": 5}
#: What the ledger has of a mail, as a verdict and in words.
STATES = {
    "s": ("sent", "the mail server accepted it"),
    "f": ("failed", "it failed for good"),
    "g": ("given up", "it was given up: it may have arrived"),
    "u": ("uncertain", "it may have been accepted, though nobody heard the reply"),
    "c": ("in work", "a process has it in hand"),
}


@dataclass(slots=True)
class Life:
    """What is known of one recipient of one campaign, or of a mail outside campaigns, whose id is `subscriber` then.
    `verdict` is sent, failed, given up, uncertain, held, in work, delayed, waiting, paused, cancelled, dead,
    not queued or unknown."""

    campaign: str
    subscriber: str
    verdict: str = "unknown"
    #: Seconds since 1970 (0: not known), and a sentence.
    facts: list[tuple[float, str]] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        """What a script is told; see `EXIT_CODES`."""
        if self.verdict in ("sent", "unknown"):
            return self.verdict
        return "waiting" if self.verdict in ("in work", "delayed", "waiting", "paused") else "not sent"

    def lines(self) -> Iterator[str]:
        """For people."""
        campaign = f"campaign {self.campaign}, subscriber" if self.campaign else "mail"
        yield shown_line(f"{campaign} {self.subscriber}: {self.verdict}")
        for at, words in self.facts:
            when = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S") if at else " " * 19
            yield f"  {when}  {shown_line(words)}"


@dataclass(slots=True)
class Answer:
    """All that was found, and what couldn't be asked."""

    lives: list[Life] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def nothing(self, who: str) -> str:
        """A sentence where nothing was found, which says no more than what was asked."""
        if self.missing:
            return f"Nothing was found of {who} where it could be looked for; what couldn't be asked may know more."
        return f"Nothing is known of {who}: no queue, ledger or list has it."

    @property
    def exit_code(self) -> int:
        """That of the mail that is worst off."""
        order = ("not sent", "waiting", "unknown", "sent")
        outcomes = {life.outcome for life in self.lives} or {"unknown"}
        return EXIT_CODES[next(outcome for outcome in order if outcome in outcomes)]

    def as_json(self) -> str:
        """For programs."""
        lives = [
            {**asdict(life), "facts": [{"at": at, "words": words} for at, words in life.facts]} for life in self.lives
        ]
        return json.dumps({"format": 1, "found": lives, "missing": self.missing}, ensure_ascii=False)


class Why:
    """Every method raises redis.RedisError while Redis is away; without the database it says so."""

    def __init__(self, client: "redis.Redis", settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._template = finder(client)
        self._missing: list[str] = []
        # A database that is away is waited for once.
        self._away: DatabaseUnavailable | None = None

    def find(self, who: str, campaign_id: str) -> Answer:
        """Looks for an address or a subscriber's id.

        Args:
            campaign_id: that campaign alone; empty for all that are known.
        """
        names = self._names(who)
        jobs = list(search(self._client, self._settings.bullmq, names))
        answer = Answer(missing=self._missing)
        wanted: dict[tuple[str, str], list[FoundJob]] = {}
        for found in jobs:
            key, is_theirs = self._read(found, names)
            if is_theirs and campaign_id in ("", key[0]):
                wanted.setdefault(key, []).append(found)
        for key in self._in_ledgers([campaign_id] if campaign_id else self._campaigns(), names):
            wanted.setdefault(key, [])
        if not wanted:
            wanted = {key: [] for key in self._in_rows([campaign_id] if campaign_id else self._campaigns(), names)}
        rows = self._rows(wanted)
        for (campaign, subscriber), theirs in sorted(wanted.items()):
            life = Life(campaign, subscriber)
            self._tell(life, theirs, rows.get((campaign, subscriber)))
            if life.facts:
                answer.lives.append(life)
        return answer

    def _names(self, who: str) -> list[str]:
        """The subscriber's ids that it may be, and the address."""
        names = [who]
        if "@" in who:
            with suppress(InvalidJob):
                address = parse_address(who, "the address")
                names += [address.email, f"{address.email.rpartition('@')[0]}@{unicode_domain(address.domain)}"]
            names.append(who.lower())
            names += self._ask(lambda database: database.subscribers(names), "which subscriber has the address") or []
        return list(dict.fromkeys(names))

    def _read(self, found: FoundJob, names: Sequence[str]) -> tuple[tuple[str, str], bool]:
        key = recipient_key(found.job)
        if key is not None and key[1] in names:
            return key, True
        try:
            job: Job = parse_job(found.job, self._settings.jobs.defaults, self._template)
        except InvalidJob:
            return key or ("", found.identity), key is None
        lower = {name.lower() for name in names}
        is_theirs = any(address.email.lower() in lower for address in job.recipients)
        return key or ("", found.identity), is_theirs

    def _campaigns(self) -> list[str]:
        members: Any = self._client.smembers(keys.OPEN_CAMPAIGNS)
        kept: Any = self._client.zrange(keys.LEDGERS, 0, -1)
        return sorted({member.decode() for member in [*members, *kept]})

    def _in_ledgers(self, campaigns: Sequence[str], names: Sequence[str]) -> Iterator[tuple[str, str]]:
        for start in range(0, len(campaigns), AT_ONCE):
            page = campaigns[start : start + AT_ONCE]
            with self._client.pipeline(transaction=False) as pipeline:
                for campaign in page:
                    pipeline.hmget(keys.ledger(campaign), list(names))
                answers = pipeline.execute()
            for campaign, states in zip(page, answers, strict=True):
                yield from ((campaign, name) for name, state in zip(names, states, strict=True) if state)

    def _in_rows(self, campaigns: Sequence[str], names: Sequence[str]) -> list[tuple[str, str]]:
        """Who has a row, but was never queued."""

        def look(database: SupabaseDatabase) -> list[tuple[str, str]]:
            found = []
            for name in names:
                with suppress(DatabaseRejected):  # An address is no UUID, and so nobody's id there.
                    found += [(campaign, name) for campaign in database.campaigns_with(name, campaigns)]
            return found

        return (self._ask(look, "whether the database has them as a recipient") or []) if campaigns else []

    def _rows(self, wanted: dict[tuple[str, str], list[FoundJob]]) -> dict[tuple[str, str], dict[str, Any]]:
        def look(database: SupabaseDatabase) -> dict[tuple[str, str], dict[str, Any]]:
            found = {}
            for campaign, subscriber in wanted:
                if campaign and (row := database.recipient(campaign, subscriber)):
                    found[(campaign, subscriber)] = row
            return found

        return self._ask(look, "what the database has") or {}

    def _ask(self, question: Any, what: str) -> Any:
        try:
            if self._away is not None:
                raise self._away
            database = SupabaseDatabase(self._settings)
            try:
                return question(database)
            finally:
                database.close()
        except (DatabaseUnavailable, DatabaseRejected) as error:
            if isinstance(error, DatabaseUnavailable):
                self._away = error
            self._missing.append(f"Not known is {what}: {error}")
            return None

    def _tell(self, life: Life, jobs: Sequence[FoundJob], row: dict[str, Any] | None) -> None:
        entry = Entry(life.campaign or None, life.subscriber if life.campaign else None, life.subscriber)
        for found in jobs:
            self._tell_job(life, found)
        control: Any = self._client.hget(keys.CONTROL, life.campaign) if life.campaign else None
        if control:
            state, _, reason = control.decode(errors="replace").partition(":")
            life.facts.append((0.0, f"its campaign is {state}: {reason}"))
            if life.verdict in ("unknown", "waiting", "delayed"):
                life.verdict = state
        state_line: Any = self._client.hget(entry.key, entry.field)
        if state_line:
            self._tell_state(life, state_line.decode(errors="replace"))
        listed: Any = self._client.hget(keys.UNCERTAIN, entry.name)
        if listed:
            at_ms, why, resolution = json.loads(listed)
            life.facts.append(
                (at_ms / 1000, f"uncertain: {why}; {'sent again' if resolution == 'resent' else resolution}")
            )
            if resolution == "held":
                life.verdict = "held"
                life.facts.append((0.0, "it waits for you: mail-worker uncertain resend or mark-sent"))
        if row is not None:
            self._tell_row(life, row)
            if row[self._settings.recipient_sent_column] is not True and not (jobs or state_line or listed):
                life.verdict = "not queued"
                words = f"no job of it is in a queue: mail-worker reconcile {life.campaign} finds all such recipients"
                life.facts.append((0.0, words))
        elif life.campaign and life.facts and not self._missing:
            life.facts.append((0.0, "the database has no row of it"))
        life.facts.sort(key=lambda fact: fact[0] or time.time())

    def _tell_job(self, life: Life, found: FoundJob) -> None:
        queue = self._settings.bullmq if found.in_bullmq else "the queue"
        tries = f" after {found.attempts} {'try' if found.attempts == 1 else 'tries'}" if found.attempts else ""
        words = f"; the last one: {found.words}" if found.words else ""
        due = ""
        if found.due_at is not None:
            left = found.due_at - time.time()
            due = f", due in {left:.0f} s" if left < 365 * 86_400 else ", until its campaign is resumed"
        life.facts.append((0.0, f"job {found.id} is {found.place} in {queue}{tries}{due}{words}"))
        if life.verdict in ("unknown", "waiting"):
            life.verdict = {"active": "in work", "completed": "sent"}.get(found.place, found.place)

    def _tell_state(self, life: Life, line: str) -> None:
        kind, at_ms, detail = line.split(":", 2)
        verdict, words = STATES.get(kind, ("unknown", "the ledger says what this release doesn't know"))
        at = int(at_ms) / 1000
        if kind == "c":
            process = detail.partition(":")[0]
            if detail == "-" or not self._client.zscore(keys.ALIVE, process):
                words = "a process that is gone had it in hand; another one takes it over"
            detail = ""
        life.facts.append((at, f"{words}{f': {detail}' if detail else ''}"))
        if kind == "c" and life.verdict in ("delayed", "waiting"):
            return
        life.verdict = verdict

    def _tell_row(self, life: Life, row: dict[str, Any]) -> None:
        names = self._settings
        if row[names.recipient_sent_column] is True:
            at = _time(row.get(names.recipient_sent_at_column))
            # One time is written for a whole second's mails (recording/results.py): nobody was recorded before.
            known = max((when for when, _ in life.facts), default=0.0)
            life.facts.append((known if at < known < at + 1 else at, "the database says: sent"))
            if life.verdict == "unknown":
                life.verdict = "sent"
            return
        error = row.get(names.recipient_error_column) if names.recipient_error_column else None
        life.facts.append((0.0, f"the database says: not sent{f' ({error})' if error else ''}"))
        if life.verdict == "sent":
            waiting: Any = self._client.xlen(keys.OUTBOX)
            way = "the result is on its way there" if waiting else f"mail-worker reconcile {life.campaign} --repair"
            life.facts.append((0.0, way))


def _time(text: Any) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return 0.0
