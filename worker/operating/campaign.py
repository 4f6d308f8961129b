"""`mail-worker campaign ID`: how far one campaign is, and who failed, grouped by the server's words."""

import csv
import json
import re
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import redis

from worker.base import keys
from worker.base.redis_client import connect
from worker.base.settings import Settings
from worker.errors import DatabaseRejected, DatabaseUnavailable, OperatorMistake
from worker.mail.words import shown_line
from worker.operating.campaigns import number_of
from worker.operating.printing import print_lines
from worker.operating.status import duration, left_words
from worker.queue.control import state_words
from worker.recording.database import SupabaseDatabase
from worker.watching.points import Point, read_points
from worker.watching.status import read_status

LOOK_AT_ONCE = 500
SHOWN_WORDS = 20
#: The speed is that of so many minutes.
SPEED_MINUTES = 10
#: So long without an accepted mail, a campaign that sends stands still.
IDLE_SECONDS = 180
_ENDED = {"f": "failed", "g": "given up"}
#: What differs between two recipients of one reply: their addresses, ids and times.
_OWN_WORDS = re.compile(r"<[^<>\s]*>|\S+@\S+|\b[0-9A-Za-z]*\d[0-9A-Za-z]{7,}\b")
_PLAIN_ID = re.compile(r"[\w-]+")
_GIVEN_UP = re.compile(r"^given up after \d+ attempts")


@dataclass(frozen=True, slots=True)
class Ended:
    """A recipient who got no mail for certain (`failed`) or perhaps (`given up`); `at` is in seconds since 1970."""

    subscriber: str
    result: str
    at: float
    words: str


@dataclass(frozen=True, slots=True)
class CampaignReport:
    """One campaign. `recipients` and `unsent` are the database's, None while it can't be asked. `speed` is in mails a
    second of late, `seconds_left` until its end at that speed; None if they aren't known."""

    campaign: str
    state: str
    sent: int
    failed: int
    given_up: int
    uncertain: int
    #: Recipients whose mail is still to go, in whichever queue: the database's unsent ones, or those that the recorder
    #: counted last.
    to_go: int
    database_status: str | None
    unsent: int | None
    speed: float | None
    seconds_left: float | None
    #: For how long none of it was accepted, by the last minutes' points.
    idle_seconds: int
    #: The server's words, without what is one recipient's alone, and how many got them.
    words: dict[str, int]

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"campaign   {shown_line(f'{self.campaign}: {self.state}')}"
        yield (
            f"mails      {self.sent:,} sent, {self.failed:,} failed, {self.given_up:,} given up, {self.uncertain:,}"
            f" were uncertain, {self.to_go:,} {left_words(self.state)}"
        )
        if self.unsent is not None:
            status = self.database_status or "(none)"
            yield f"database   status {status}, {self.unsent:,} recipients aren't marked as sent"
        if self.to_go and self.state == "sending" and self.idle_seconds >= IDLE_SECONDS:
            yield (
                f"speed      none was accepted for {duration(self.idle_seconds)}; if no job of it waits or is delayed:"
                f" mail-worker reconcile {self.campaign} says who is in no queue"
            )
        elif self.speed and self.to_go:
            end = "" if self.seconds_left is None else f", done in about {duration(self.seconds_left)}"
            yield f"speed      {self.speed:.1f} mails/s{end}"
        for words, number in list(self.words.items())[:SHOWN_WORDS]:
            yield f"{number:>10} {shown_line(words)}"
        if len(self.words) > SHOWN_WORDS:
            yield f"           and {len(self.words) - SHOWN_WORDS} further replies: --csv FILE has them all"


def campaign(settings: Settings, options: Namespace) -> int:
    """`mail-worker campaign ID [--csv FILE] [--json]`"""
    report, ended, missing = report_of(connect(settings.redis_url), settings, options.campaign)
    if options.csv:
        write_csv(options.csv, ended)
    if options.json:
        print(json.dumps({"format": 1, **asdict(report), "missing": missing}, ensure_ascii=False))
        return 0
    print_lines([*report.lines(), *filter(None, (missing,))])
    if options.csv:
        print(f"{len(ended):,} who got no mail are in {options.csv}")
    return 0


def report_of(client: "redis.Redis", settings: Settings, campaign_id: str) -> tuple[CampaignReport, list[Ended], str]:
    """All that is known of a campaign, who got no mail, and a sentence about what couldn't be asked.

    Raises:
        OperatorMistake: nothing is known.
        redis.RedisError: Redis is away.
    """
    known = client.exists(keys.ledger(campaign_id), keys.counts(campaign_id))
    # It may have paused before its first result.
    if not known and not client.hexists(keys.CONTROL, campaign_id):
        raise OperatorMistake(
            f"No mail of campaign {campaign_id} has a result yet: mail-worker campaign lists those that have one."
        )
    ended = list(who_ended(client, campaign_id))
    report, missing = _report(client, settings, campaign_id, ended)
    return report, ended, missing


def who_ended(client: "redis.Redis", campaign_id: str) -> Iterator[Ended]:
    """Everybody who failed or was given up."""
    states: Any = client.hscan_iter(keys.ledger(campaign_id), count=LOOK_AT_ONCE)
    for subscriber, state in states:
        kind, at_ms, words = state.decode(errors="replace").split(":", 2)
        if kind in _ENDED:
            yield Ended(subscriber.decode(errors="replace"), _ENDED[kind], int(at_ms) / 1000, words)


def write_csv(path: Path, ended: list[Ended]) -> None:
    """Writes who failed, when and why, for a spreadsheet or the app.

    Raises:
        OperatorMistake: the file can't be written.
    """
    try:
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["subscriber", "result", "at", "words"])
            for one in sorted(ended, key=lambda one: one.at):
                at = datetime.fromtimestamp(one.at, UTC).isoformat(timespec="seconds")
                writer.writerow([_inert_id(one.subscriber), one.result, at, _inert(one.words)])
    except OSError as error:
        raise OperatorMistake(f"{path} can't be written: {error.strerror}.") from None


def grouped(ended: list[Ended]) -> dict[str, int]:
    """How many got which words, the most frequent ones first; an address, an id or a time in them is `…`."""
    counted = Counter(_OWN_WORDS.sub("…", _GIVEN_UP.sub("given up", one.words)) for one in ended)
    return dict(counted.most_common())


def _inert(words: str) -> str:
    # A spreadsheet would take a server's words, or an app's id, for a formula.
    return f"'{words}" if words.startswith(("=", "+", "-", "@", "\t", "\r")) else words


def _inert_id(identity: str) -> str:
    # One of letters, digits and - is nothing that a spreadsheet could obey, and stays as the app has it.
    return identity if _PLAIN_ID.fullmatch(identity) else _inert(identity)


def _report(
    client: "redis.Redis", settings: Settings, campaign_id: str, ended: list[Ended]
) -> tuple[CampaignReport, str]:
    names = ("sent", "failed", "given_up", "uncertain", "recipients")
    counts: Any = client.hmget(keys.counts(campaign_id), list(names))
    sent, failed, given_up, uncertain, recipients = map(number_of, counts)
    waiting: Any = client.llen(keys.lane(campaign_id))
    control: Any = client.hget(keys.CONTROL, campaign_id)
    database_status, unsent, missing = _database(settings, campaign_id)
    points = [point for point in read_points(client) if campaign_id in point.campaigns][-SPEED_MINUTES - 1 :]
    speed, idle_seconds = _speed(points, campaign_id), _idle(points, campaign_id)
    counted = recipients - sent if unsent is None else unsent
    left = max(counted - failed - given_up, waiting)
    state = "sending"
    if control:
        state = state_words(control.decode(errors="replace"))
    elif client.hexists(keys.PARKED_CAMPAIGNS, campaign_id):
        state = "put aside"
    elif database_status == "sent" and not left:
        state = "complete"
    fleet = read_status(client, settings.account_name, settings.mail_rate, "")
    if fleet.account.stopped:
        state += f"; the account is refused: {fleet.account.stopped}"
    report = CampaignReport(
        campaign=campaign_id,
        state=state,
        sent=sent,
        failed=failed,
        given_up=given_up,
        uncertain=uncertain,
        to_go=left,
        database_status=database_status,
        unsent=unsent,
        speed=speed,
        seconds_left=left / speed if speed and left and state == "sending" and idle_seconds < IDLE_SECONDS else None,
        idle_seconds=idle_seconds,
        words=grouped(ended),
    )
    return report, missing


def _database(settings: Settings, campaign_id: str) -> tuple[str | None, int | None, str]:
    try:
        database = SupabaseDatabase(settings)
        try:
            return database.status(campaign_id), database.count_unsent(campaign_id), ""
        finally:
            database.close()
    except (DatabaseUnavailable, DatabaseRejected) as error:
        return None, None, str(error)


def _speed(points: list[Point], campaign_id: str) -> float | None:
    if len(points) < 2:
        return None
    sent = points[-1].campaigns[campaign_id] - points[0].campaigns[campaign_id]
    return max(sent, 0) / (points[-1].at - points[0].at)


def _idle(points: list[Point], campaign_id: str) -> int:
    same = 0
    for point in reversed(points):
        if point.campaigns[campaign_id] != points[-1].campaigns[campaign_id]:
            break
        same = points[-1].at - point.at
    return same
