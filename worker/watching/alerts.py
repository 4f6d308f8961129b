"""Which troubles are told when: each once, with its end, and those of a minute together."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from worker.watching.troubles import Trouble

#: What is over sooner isn't told; and what comes back sooner was never over.
HOLD_SECONDS = 50.0
OVER_SECONDS = 240.0


@dataclass(frozen=True, slots=True)
class Known:
    """A trouble that was seen; times are in seconds since 1970. `told_at` is 0 until somebody was told, `gone_at` while
    it lasts."""

    sentence: str
    urgent: bool
    since: float
    told_at: float = 0.0
    gone_at: float = 0.0

    def as_json(self) -> str:
        """For Redis; lua/status.lua reads the sentence."""
        return json.dumps(
            {
                "sentence": self.sentence,
                "urgent": self.urgent,
                "since": self.since,
                "told_at": self.told_at,
                "gone_at": self.gone_at,
            }
        )

    @classmethod
    def read(cls, line: bytes) -> "Known":
        """What `as_json` wrote; another release may have left something out.

        Raises:
            ValueError: it's nothing of ours.
        """
        found = json.loads(line)
        if not isinstance(found, dict) or not isinstance(found.get("sentence"), str):
            raise ValueError(line)
        times = (float(found.get(name) or 0.0) for name in ("since", "told_at", "gone_at"))
        return cls(found["sentence"], bool(found.get("urgent", True)), *times)


@dataclass(frozen=True, slots=True)
class Alert:
    """One that is told now: a trouble that began, one that is over, or something that happened once."""

    kind: str
    key: str
    sentence: str
    urgent: bool
    #: `began`, `over` or `happened`.
    state: str
    #: When it began, in seconds since 1970.
    since: float

    @property
    def shown(self) -> str:
        """The sentence for people."""
        return f"Over: {self.sentence}" if self.state == "over" else self.sentence


@dataclass(slots=True)
class Plan:
    """What is to be told now; `known` are the troubles and `over` those to be forgotten, once that has worked."""

    alerts: list[Alert] = field(default_factory=list)
    known: dict[str, Known] = field(default_factory=dict)
    over: list[str] = field(default_factory=list)


def plan(troubles: Iterable[Trouble], known: Mapping[str, Known], now: float, *, quiet: bool) -> Plan:
    """Decides what is told.

    Args:
        known: as they were kept after the last look.
        quiet: only what is urgent is told.
    """
    result = Plan()
    seen = {trouble.key: trouble for trouble in troubles}
    for key, trouble in seen.items():
        before = known.get(key)
        # A clock that was ahead may have written it: it would be waited for until that time.
        since = min(before.since, now) if before else now
        told_at = before.told_at if before else 0.0
        if not told_at and now - since >= HOLD_SECONDS and (trouble.urgent or not quiet):
            told_at = now
            result.alerts.append(_alert(key, trouble.sentence, trouble.urgent, "began", since))
        result.known[key] = Known(trouble.sentence, trouble.urgent, since, told_at)
    for key, before in known.items():
        if key in seen:
            continue
        gone_at = min(before.gone_at or now, now)
        if not before.told_at:
            result.over.append(key)
        elif now - gone_at >= OVER_SECONDS and (before.urgent or not quiet):
            result.alerts.append(_alert(key, before.sentence, before.urgent, "over", before.since))
            result.over.append(key)
        else:
            result.known[key] = Known(before.sentence, before.urgent, before.since, before.told_at, gone_at)
    return result


def untold(plan: Plan, known: Mapping[str, Known]) -> Plan:
    """The plan for when telling didn't work: all is as it was, and tried again a minute later."""
    result = Plan(known=dict(plan.known))
    for alert in plan.alerts:
        if alert.state == "began":
            after = plan.known[alert.key]
            result.known[alert.key] = Known(after.sentence, after.urgent, after.since)
        else:
            result.known[alert.key] = known[alert.key]
    result.over = [key for key in plan.over if key not in result.known]
    return result


def event(line: bytes) -> Alert | None:
    """What happened once, as `happened` wrote it; None if it's nothing of ours."""
    try:
        found = json.loads(line)
        kind, sentence = str(found["kind"]), str(found["sentence"])
        return Alert(kind, kind, sentence, bool(found["urgent"]), "happened", float(found["at"]))
    except (ValueError, TypeError, LookupError, RecursionError):
        return None


def _alert(key: str, sentence: str, urgent: bool, state: str, since: float) -> Alert:
    return Alert(key.partition(":")[0], key, sentence, urgent, state, since)
