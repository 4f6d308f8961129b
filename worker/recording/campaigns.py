"""When a campaign is complete: every recipient is sent, has failed for good or was given up. The database decides it,
not a counter, since messages may be doubled."""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis

from worker.base import keys
from worker.base.redis_client import script
from worker.errors import DatabaseRejected, DatabaseUnavailable
from worker.ledger.ledger import LEDGER_SECONDS
from worker.ledger.outbox import record_again
from worker.ledger.uncertain import UncertainMails
from worker.queue.events import add_event
from worker.recording.database import Database
from worker.recording.recipients import Recipients
from worker.recording.troubles import Troubles

#: A campaign is looked at again after this long in any case: rows may have been added or deleted by hand.
LOOK_AGAIN_SECONDS = 60.0
LEDGER_KEPT_SECONDS = 7 * 86_400
#: Of a campaign that was put aside or cancelled, which may go on: just before it would expire.
UNFINISHED_LEDGER_KEPT_SECONDS = LEDGER_SECONDS - 86_400
FORGET_AT_ONCE = 1000
#: An open campaign's ledger is kept for as long as it's open.
RENEW_SECONDS = 86_400.0
#: A web app that sets `sending` after it has queued a campaign may do so after the last mail: for so long, a closed
#: campaign is looked at again, and closed again.
WATCH_CLOSED_SECONDS = 600.0
LOOK_AT_CLOSED_SECONDS = 10.0
LOOK_AT_OPEN_SECONDS = 90.0
#: Campaigns open with their first result, which is news by itself.
LOOK_FOR_OPEN_SECONDS = 220.0
#: A campaign that stands still is searched for rows that came after their mails' results: so many pages at a time, and
#: less and less often if there are none.
SEARCH_PAGES = 10
LONGEST_SEARCH_WAIT_SECONDS = 3600.0
#: An app may write its campaign after it has queued the jobs; one that isn't there after so long never was.
MISSING_SECONDS = 600.0

logger = logging.getLogger(__name__)


class _Missing(Exception):
    """The database has no such campaign, or none that the key may see."""


@dataclass(slots=True)
class _Look:
    """What was seen of a campaign: it can't be complete before `handled` reaches `complete_from`."""

    at: float
    counts: tuple[int, int]
    complete_from: int
    renewed_at: float
    #: When it's searched for rows again, where that begins, and how long it waits after a search in vain.
    search_at: float
    search_after: str | None = None
    search_wait_seconds: float = LOOK_AGAIN_SECONDS


class Campaigns:
    """Closes campaigns. Any number of recorders may do it at once."""

    def __init__(self, client: "redis.Redis", database: Database) -> None:
        self._client = client
        self._database = database
        self._uncertain = UncertainMails(client)
        self._forget = client.register_script(script("clock", "forget"))
        self._recipients = Recipients(client, database)
        self._looks: dict[str, _Look] = {}
        self._troubles = Troubles()
        self._parked: set[str] = set()

    def open_parked(self) -> None:
        """Has a new start look at each campaign that was put aside: the table or the key may be right by now."""
        parked: Any = self._client.hkeys(keys.PARKED_CAMPAIGNS)
        for member in parked:
            campaign_id = member.decode()
            if self._client.exists(keys.ledger(campaign_id)):
                self._parked.add(campaign_id)
                self._client.sadd(keys.OPEN_CAMPAIGNS, campaign_id)
            else:
                self._client.hdel(keys.PARKED_CAMPAIGNS, campaign_id)

    def park(self, campaign_id: str, reason: str) -> None:
        """Puts a campaign aside that the database will never take, with the reason."""
        logger.error(
            "campaign %s is put aside: %s When that is mended: mail-worker reconcile %s --repair",
            campaign_id,
            reason,
            campaign_id,
        )
        self._parked.add(campaign_id)
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.srem(keys.OPEN_CAMPAIGNS, campaign_id)
            pipeline.hset(keys.PARKED_CAMPAIGNS, campaign_id, json.dumps([int(time.time() * 1000), reason]))
            self._keep(pipeline, campaign_id)
            pipeline.execute()

    def close_complete(self) -> float:
        """Looks at each open campaign that may be complete by now, and at those that were closed just now. Returns the
        seconds after which it's worth looking again, though nothing happens.

        Raises:
            redis.RedisError, DatabaseUnavailable: one of the two is away; nothing is lost.
        """
        members: Any = self._client.smembers(keys.OPEN_CAMPAIGNS)
        open_campaigns = {member.decode() for member in members}
        self._looks = {campaign: look for campaign, look in self._looks.items() if campaign in open_campaigns}
        self._recipients.keep(open_campaigns)
        for campaign_id in open_campaigns:
            self._try(campaign_id, self._look_at)
        if self._watch_closed():
            return LOOK_AT_CLOSED_SECONDS
        return LOOK_AT_OPEN_SECONDS if open_campaigns else LOOK_FOR_OPEN_SECONDS

    def _try(self, campaign_id: str, look: Callable[[str], None]) -> None:
        # One campaign's trouble keeps no other one from being closed, and no result from being recorded.
        if self._troubles.waits(campaign_id):
            return
        try:
            look(campaign_id)
        except DatabaseRejected as error:
            self._troubles.failed(campaign_id)
            self.park(campaign_id, str(error))
        except _Missing as error:
            if self._troubles.failed(campaign_id) > MISSING_SECONDS:
                self.park(campaign_id, str(error))
        except DatabaseUnavailable as error:
            self._database.check()  # If it's everybody's trouble, this says so.
            self._troubles.failed(campaign_id)
            logger.error("campaign %s can't be closed yet: %s", campaign_id, error)
        except redis.RedisError:
            raise
        except Exception:
            self._troubles.failed(campaign_id)
            logger.exception("unexpected error with campaign %s", campaign_id)
        else:
            self._troubles.over(campaign_id)
            if campaign_id in self._parked:
                self._parked.discard(campaign_id)
                self._client.hdel(keys.PARKED_CAMPAIGNS, campaign_id)

    def _look_at(self, campaign_id: str) -> None:
        sent, failed = counts = self._counts(campaign_id)
        look, now = self._looks.get(campaign_id), time.monotonic()
        if look and sent + failed < look.complete_from and now - look.at < LOOK_AGAIN_SECONDS:
            return
        if look is None or counts != look.counts:
            look = _Look(now, counts, 0, look.renewed_at if look else -RENEW_SECONDS, now + LOOK_AGAIN_SECONDS)
            self._looks[campaign_id] = look
        self._renew(campaign_id, look, now)
        # Read between the counts and the database: it holds all results that are in the one and not in the other.
        waiting: Any = self._client.xlen(keys.OUTBOX)
        unsent = self._database.count_unsent(campaign_id)
        look.at = now
        if unsent <= failed and self._all_failed(campaign_id):
            self._close(campaign_id, sent, failed)
            return
        # Each further result takes at most one recipient off the unsent ones that haven't failed.
        look.complete_from = sent + failed + max(unsent - failed - waiting, 0)
        self._recipients.tell(campaign_id, look.complete_from, sent + max(unsent, failed) + waiting)
        if now >= look.search_at:
            self._search(campaign_id, look, now)

    def _renew(self, campaign_id: str, look: _Look, now: float) -> None:
        # What was put aside may never be closed.
        if now - look.renewed_at < RENEW_SECONDS or campaign_id in self._parked:
            return
        with self._client.pipeline(transaction=False) as pipeline:
            pipeline.expire(keys.ledger(campaign_id), LEDGER_SECONDS)
            pipeline.expire(keys.counts(campaign_id), LEDGER_SECONDS)
            self._keep(pipeline, campaign_id)
            try:
                pipeline.execute()
            except redis.OutOfMemoryError:
                return  # A later look does it: results must leave a Redis that is full.
        look.renewed_at = now

    def _keep(self, pipeline: "redis.client.Pipeline", campaign_id: str) -> None:
        """Has the campaign's ledger looked at once it may have ended."""
        pipeline.zadd(keys.LEDGERS, {campaign_id: (time.time() + RENEW_SECONDS) * 1000})

    def forget_ledgers(self) -> None:
        """Removes the ledgers of campaigns that have ended a while ago."""
        kept_seconds = (LEDGER_SECONDS, LEDGER_KEPT_SECONDS, UNFINISHED_LEDGER_KEPT_SECONDS)
        self._forget(
            keys=[keys.LEDGERS, keys.OPEN_CAMPAIGNS, keys.PARKED_CAMPAIGNS, keys.CONTROL],
            args=[*(seconds * 1000 for seconds in kept_seconds), FORGET_AT_ONCE],
        )

    def _watch_closed(self) -> bool:
        found: Any = self._client.zrange(keys.CLOSED_CAMPAIGNS, 0, -1, withscores=True)
        for member, closed_at_ms in found:
            if time.time() * 1000 - closed_at_ms > WATCH_CLOSED_SECONDS * 1000:
                self._client.zrem(keys.CLOSED_CAMPAIGNS, member)
            else:
                self._try(member.decode(), self._look_at_closed)
        return bool(found)

    def _look_at_closed(self, campaign_id: str) -> None:
        # Its status is what its app says after the last mail; or there are more recipients by now.
        _, failed = self._counts(campaign_id)
        if (
            self._database.status(campaign_id) not in ("sent", None)
            or self._database.count_unsent(campaign_id) > failed
        ):
            with self._client.pipeline(transaction=True) as pipeline:
                pipeline.sadd(keys.OPEN_CAMPAIGNS, campaign_id)
                pipeline.zrem(keys.CLOSED_CAMPAIGNS, campaign_id)
                pipeline.execute()

    def _counts(self, campaign_id: str) -> tuple[int, int]:
        sent, failed, given_up = self._client.hmget(keys.counts(campaign_id), ["sent", "failed", "given_up"])
        return int(sent or 0), int(failed or 0) + int(given_up or 0)

    def _all_failed(self, campaign_id: str) -> bool:
        after = None
        while page := self._database.unsent(campaign_id, after):
            if not all(state.startswith((b"f", b"g")) for state in self._states(campaign_id, page).values()):
                return False
            after = page[-1]
        return True

    def _search(self, campaign_id: str, look: _Look, now: float) -> None:
        """Looks for rows that were inserted after their mails' results, whose update found nothing."""
        for _ in range(SEARCH_PAGES):
            page = self._database.unsent(campaign_id, look.search_after)
            states = self._states(campaign_id, page)
            sent = {subscriber_id: state for subscriber_id, state in states.items() if state.startswith(b"s")}
            record_again(self._client, campaign_id, sent)
            if sent:
                look.complete_from = 0
            if not page:
                look.search_after = None
                look.search_at = now + look.search_wait_seconds
                look.search_wait_seconds = min(look.search_wait_seconds * 2, LONGEST_SEARCH_WAIT_SECONDS)
                return
            look.search_after = page[-1]

    def _states(self, campaign_id: str, subscriber_ids: list[str]) -> dict[str, bytes]:
        states: Any = self._client.hmget(keys.ledger(campaign_id), subscriber_ids) if subscriber_ids else ()
        return {subscriber_id: state or b"" for subscriber_id, state in zip(subscriber_ids, states, strict=True)}

    def _close(self, campaign_id: str, sent: int, failed: int) -> None:
        done = ""
        if self._database.complete_campaign(campaign_id):
            logger.info("campaign %s is complete: %d sent, %d failed or given up.", campaign_id, sent, failed)
            done = f"Campaign {campaign_id} is complete: {sent:,} sent, {failed:,} failed or given up."
        elif (status := self._database.status(campaign_id)) is None:
            raise _Missing(
                "the table of campaigns has no row of it, as far as this key may see: check its id and"
                " SUPABASE_SECRET_KEY."
            )
        elif status != "sent":
            raise DatabaseUnavailable(f"its status was set to sent, but is still {status!r}: something takes it back.")
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.srem(keys.OPEN_CAMPAIGNS, campaign_id)
            pipeline.zadd(keys.CLOSED_CAMPAIGNS, {campaign_id: time.time() * 1000}, nx=True)
            pipeline.expire(keys.ledger(campaign_id), LEDGER_SECONDS)
            pipeline.expire(keys.counts(campaign_id), LEDGER_SECONDS)
            self._keep(pipeline, campaign_id)
            if done:
                add_event(pipeline, "done", done)
            pipeline.execute()
        self._uncertain.forget_resent(LEDGER_KEPT_SECONDS)
