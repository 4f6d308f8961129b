"""Claims, results, limits and pauses on a real Redis: what the scripts promise, whoever calls them and when."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis

from testbed.services import Services
from worker.base import keys
from worker.base.redis_client import CountingRedis, connect_async
from worker.base.settings import Secret
from worker.errors import AccountRefused
from worker.ledger.ledger import Entry, GivenUp, LedgerOptions, RedisLedger, Verdict
from worker.ledger.uncertain import UncertainMails
from worker.mail.outcomes import Failed, Retry, Sent, Slow, Uncertain
from worker.mail.pacing import Limit
from worker.recording.campaigns import Campaigns
from worker.sending.account import Account
from worker.sending.transports.base import NO_PLACE

ACCOUNT = "account"


class Ledgers:
    """Ledgers of several processes, all alive until `kill`."""

    def __init__(self, client: CountingRedis, queue: "redis.Redis") -> None:
        self.client = client
        self.redis = queue
        self._numbers = itertools.count()

    def of(self, process: str, **options: Any) -> RedisLedger:
        self.redis.zadd(keys.ALIVE, {process: time.time() * 1000})
        return RedisLedger(self.client, process, ACCOUNT, LedgerOptions(**options))

    def kill(self, process: str) -> None:
        """What lua/beat.lua does with a process that fell silent."""
        self.redis.zrem(keys.ALIVE, process)

    def account(self, process: str, *, max_connections: int = 0, first_pause_seconds: float = 0.3) -> Account:
        self.redis.zadd(keys.ALIVE, {process: time.time() * 1000})
        return Account(
            self.client,
            ACCOUNT,
            process,
            max_connections=max_connections,
            first_pause_seconds=first_pause_seconds,
        )

    def outbox(self) -> list[tuple[str, str]]:
        entries: Any = self.redis.xrange(keys.OUTBOX)
        return [(fields[b"subscriber"].decode(), fields[b"result"].decode()) for _, fields in entries]

    def counts(self) -> dict[str, int]:
        stored: Any = self.redis.hgetall(keys.counts("c"))
        return {name.decode(): int(value) for name, value in stored.items()}


@pytest.fixture
async def ledgers(services: Services, queue: "redis.Redis") -> AsyncIterator[Ledgers]:
    client = connect_async(Secret(services.redis_url), 4)
    yield Ledgers(client, queue)
    await client.aclose()


def mail(number: int = 0, campaign: str = "c") -> Entry:
    return Entry(campaign, f"s{number}", f"message {number}")


async def test_a_mail_is_claimed_once_and_done_after_its_result(ledgers: Ledgers) -> None:
    first, second = ledgers.of("p1"), ledgers.of("p2")
    assert await first.claim(mail(), "p1:1") == (Verdict.CLAIMED, 0)
    verdict, wait_ms = await second.claim(mail(), "p2:1")
    assert verdict is Verdict.BUSY
    assert 0 < wait_ms <= 5000
    # The same try asks again when the answer was lost.
    assert await first.claim(mail(), "p1:1") == (Verdict.CLAIMED, 0)
    await first.record(mail(), "p1:1", Sent("250"))
    assert await second.claim(mail(), "p2:1") == (Verdict.DONE, 0)
    assert ledgers.outbox() == [("s0", "s")]


@pytest.mark.parametrize("second", [Sent("250"), Failed("550"), Uncertain("lost")])
async def test_a_final_result_stays(ledgers: Ledgers, second: Sent | Failed | Uncertain) -> None:
    ledger = ledgers.of("p1")
    await ledger.claim(mail(), "p1:1")
    await ledger.record(mail(), "p1:1", Sent("250"))
    await ledger.record(mail(), "p1:1", second)
    assert ledgers.outbox() == [("s0", "s")]
    assert ledgers.counts() == {"sent": 1}


async def test_a_claim_given_back_is_free(ledgers: Ledgers) -> None:
    ledger = ledgers.of("p1")
    await ledger.claim(mail(), "p1:1")
    await ledger.record(mail(), "p1:1", Retry("450"))
    assert await ledgers.of("p2").claim(mail(), "p2:1") == (Verdict.CLAIMED, 0)
    assert ledgers.outbox() == []


async def test_a_dead_processs_claim_is_uncertain_and_sent_again(ledgers: Ledgers) -> None:
    await ledgers.of("p1").claim(mail(), "p1:1")
    ledgers.kill("p1")
    second = ledgers.of("p2")
    assert await second.claim(mail(), "p2:1") == (Verdict.UNCERTAIN, 0)
    await second.record(mail(), "p2:1", Sent("250"))
    assert ledgers.counts() == {"uncertain": 1, "sent": 1}
    assert ledgers.redis.hlen(keys.UNCERTAIN) == 1


async def test_a_claim_lives_as_long_as_its_process(ledgers: Ledgers) -> None:
    """A server may take RFC 5321's time for each step: meanwhile nobody else sends the mail, and its place is taken."""
    limits = (Limit(mails=1, window_ms=1000),)
    first, second = ledgers.of("p1", limits=limits), ledgers.of("p2", limits=limits)
    await first.claim(mail(), "p1:1")
    half_an_hour_ago = time.time() * 1000 - 1_800_000
    ledgers.redis.hset(keys.ledger("c"), "s0", f"c:{half_an_hour_ago:.0f}:p1:1")
    ledgers.redis.zadd(keys.in_flight(ACCOUNT), {"p1:1": half_an_hour_ago})
    assert (await second.claim(mail(), "p2:1"))[0] is Verdict.BUSY
    assert (await second.claim(mail(1), "p2:2"))[0] is Verdict.WAIT
    ledgers.kill("p1")
    assert (await second.claim(mail(2), "p2:3"))[0] is Verdict.WAIT  # Its place counts from now on.
    await asyncio.sleep(1.1)
    assert (await second.claim(mail(), "p2:1"))[0] is Verdict.UNCERTAIN


async def test_a_mail_is_given_up_when_its_last_try_is_uncertain(ledgers: Ledgers) -> None:
    ledger = ledgers.of("p1", pause_above_percent=1)
    for number in range(30):
        await ledger.claim(mail(number), f"p1:{number}")
        await ledger.record(mail(number), f"p1:{number}", GivenUp("given up, but it may have arrived: lost"))
        assert (await ledger.claim(mail(number), "p1:again"))[0] is Verdict.DONE
    await ledger.record(mail(), "", Failed("a second message of it is broken"))
    assert ledgers.counts() == {"uncertain": 30, "given_up": 30}
    assert ledgers.outbox() == []
    assert ledgers.redis.hexists(keys.CONTROL, "c") == 0
    assert ledgers.redis.sismember(keys.OPEN_CAMPAIGNS, "c") == 1
    listed = list(UncertainMails(ledgers.redis).all())
    assert {found.resolution for found in listed} == {"given up"}


class Rows:
    """The database's unsent recipients of campaign c."""

    def __init__(self, *unsent: str) -> None:
        self.unsent_rows = sorted(unsent)
        self.completed: list[str] = []

    def count_unsent(self, campaign_id: str) -> int:
        return len(self.unsent_rows)

    def unsent(self, campaign_id: str, after: str | None) -> list[str]:
        return [each for each in self.unsent_rows if after is None or each > after]

    def complete_campaign(self, campaign_id: str) -> bool:
        self.completed.append(campaign_id)
        return True

    def is_sent(self, campaign_id: str) -> bool:
        return campaign_id in self.completed


async def test_a_campaign_closes_with_mails_that_were_given_up_but_not_with_uncertain_ones(ledgers: Ledgers) -> None:
    ledger = ledgers.of("p1")
    results: list[Any] = [Sent("250"), Failed("550"), GivenUp("lost"), Uncertain("lost")]
    for number, result in enumerate(results):
        await ledger.claim(mail(number), f"p1:{number}")
        await ledger.record(mail(number), f"p1:{number}", result)
    ledgers.redis.delete(keys.OUTBOX)
    rows = Rows("s1", "s2", "s3")
    Campaigns(ledgers.redis, rows).close_complete()  # type: ignore[arg-type]
    assert rows.completed == []  # The fourth one comes again.
    await ledger.claim(mail(3), "p1:4")
    await ledger.record(mail(3), "p1:4", GivenUp("lost"))
    Campaigns(ledgers.redis, rows).close_complete()  # type: ignore[arg-type]
    assert rows.completed == ["c"]


async def test_a_dead_processs_claim_is_held_if_so_wished(ledgers: Ledgers) -> None:
    await ledgers.of("p1", hold_uncertain=True).claim(mail(), "p1:1")
    ledgers.kill("p1")
    second = ledgers.of("p2", hold_uncertain=True)
    for _ in range(2):
        assert await second.claim(mail(), "p2:1") == (Verdict.HELD, 0)
    assert ledgers.counts() == {"uncertain": 1}
    assert ledgers.outbox() == []


async def test_a_providers_idempotency_key_leaves_nothing_uncertain(ledgers: Ledgers) -> None:
    options = {"hold_uncertain": True, "idempotent_seconds": 3600}
    await ledgers.of("p1", **options).claim(mail(), "p1:1")
    ledgers.kill("p1")
    assert await ledgers.of("p2", **options).claim(mail(), "p2:1") == (Verdict.CLAIMED, 0)
    assert ledgers.counts() == {}


async def test_what_may_have_been_accepted_is_uncertain_once_its_key_is_forgotten(ledgers: Ledgers) -> None:
    remembered, forgotten = ledgers.of("p1", idempotent_seconds=3600), ledgers.of("p1", idempotent_seconds=1)
    await remembered.claim(mail(), "p1:1")
    await remembered.record(mail(), "p1:1", Slow("lost", maybe_accepted=True))
    await asyncio.sleep(1.1)
    assert await remembered.claim(mail(), "p1:2") == (Verdict.CLAIMED, 0)
    # A further try that is refused for now makes the first one no younger.
    await remembered.record(mail(), "p1:2", Retry("busy"))
    assert await forgotten.claim(mail(), "p1:3") == (Verdict.UNCERTAIN, 0)
    await forgotten.record(mail(), "p1:3", Sent("250"))
    assert ledgers.counts() == {"uncertain": 1, "sent": 1}


async def test_a_broken_second_message_fails_no_mail_that_is_being_sent(ledgers: Ledgers) -> None:
    ledger = ledgers.of("p1")
    await ledger.claim(mail(), "p1:1")
    await ledger.record(mail(), "", Failed("invalid job"))
    await ledger.record(mail(), "p1:1", Sent("250"))
    assert ledgers.outbox() == [("s0", "s")]


async def test_words_that_redis_refuses_spoil_nobodys_result(ledgers: Ledgers) -> None:
    ledger = ledgers.of("p1")
    entries = [mail(0), Entry("c", "half \ud83d", "id"), mail(1)]
    results = [asyncio.ensure_future(ledger.record(entry, "", Failed("half of one: \ud83d"))) for entry in entries]
    await asyncio.wait(results, timeout=3)
    assert sorted(ledgers.outbox()) == [("s0", "f"), ("s1", "f")]
    for result in results:
        result.cancel()


async def test_an_uncertain_mail_that_is_sent_again_counts_once(ledgers: Ledgers) -> None:
    ledger = ledgers.of("p1")
    await ledger.claim(mail(), "p1:1")
    await ledger.record(mail(), "p1:1", Uncertain("lost"))
    assert await ledger.claim(mail(), "p1:2") == (Verdict.CLAIMED, 0)
    await ledger.record(mail(), "p1:2", Sent("250"))
    assert ledgers.counts() == {"uncertain": 1, "sent": 1}


@pytest.mark.parametrize("state", ["paused", "cancelled"])
async def test_no_mail_of_a_campaign_that_isnt_running_is_claimed(ledgers: Ledgers, state: str) -> None:
    ledgers.redis.hset(keys.CONTROL, "c", f"{state}:why")
    ledger = ledgers.of("p1")
    assert (await ledger.claim(mail(), "p1:1"))[0] == state
    assert (await ledger.claim(mail(campaign="other"), "p1:2"))[0] is Verdict.CLAIMED


async def test_mails_outside_campaigns_are_told_apart_by_their_messages(ledgers: Ledgers) -> None:
    ledger = ledgers.of("p1")
    entry = Entry(None, None, "id")
    await ledger.claim(entry, "p1:1")
    await ledger.record(entry, "p1:1", Sent("250"))
    assert (await ledger.claim(entry, "p1:2"))[0] is Verdict.DONE
    assert (await ledger.claim(Entry(None, None, "another id"), "p1:3"))[0] is Verdict.CLAIMED
    assert ledgers.outbox() == []


async def test_a_limit_holds_in_every_window_and_is_used_up(ledgers: Ledgers) -> None:
    limits = (Limit(7, 1000), Limit(20, 3000))
    fleet = [ledgers.of(f"p{number}", limits=limits) for number in range(3)]
    accepted: list[float] = []
    numbers = itertools.count()
    end = time.monotonic() + 7

    async def send(ledger: RedisLedger, process: str) -> None:
        while time.monotonic() < end:
            number = next(numbers)
            claimant = f"{process}:{number}"
            verdict, wait_ms = await ledger.claim(mail(number), claimant)
            if verdict is Verdict.WAIT:
                await asyncio.sleep(wait_ms / 1000)
                continue
            await asyncio.sleep(0.02 * (number % 4))
            accepted.append(time.monotonic())
            await ledger.record(mail(number), claimant, Sent("250"))

    await asyncio.gather(*(send(ledger, f"p{index}") for index, ledger in enumerate(fleet) for _ in range(4)))
    for limit in limits:
        for start in accepted:
            assert sum(start <= at < start + limit.window_ms / 1000 for at in accepted) <= limit.mails
    # 20 in 3 s is the narrower one: two full windows and the beginning of a third.
    assert len(accepted) >= 40


async def test_a_limit_of_a_day_counts_to_the_mail(ledgers: Ledgers) -> None:
    ledger = ledgers.of("p1", limits=(Limit(50, 86_400_000),))
    verdicts = [(await ledger.claim(mail(number), f"p1:{number}"))[0] for number in range(60)]
    assert verdicts == [Verdict.CLAIMED] * 50 + [Verdict.WAIT] * 10
    for number in range(50):
        # What isn't accepted spends nothing of the day.
        result = Retry("450") if number < 5 else Sent("250")
        await ledger.record(mail(number), f"p1:{number}", result)
    verdicts = [(await ledger.claim(mail(number), f"p1:again {number}"))[0] for number in range(60, 70)]
    assert verdicts == [Verdict.CLAIMED] * 5 + [Verdict.WAIT] * 5


async def test_a_mail_counts_as_often_as_it_has_recipients(ledgers: Ledgers) -> None:
    ledger = ledgers.of("p1", limits=(Limit(5, 60_000),))
    assert (await ledger.claim(mail(1), "p1:1*3"))[0] is Verdict.CLAIMED
    # Three of five places are taken, on its way and afterwards.
    assert (await ledger.claim(mail(2), "p1:2*3"))[0] is Verdict.WAIT
    await ledger.record(mail(1), "p1:1*3", Sent("250"))
    assert (await ledger.claim(mail(2), "p1:2*3"))[0] is Verdict.WAIT
    assert (await ledger.claim(mail(3), "p1:3*2"))[0] is Verdict.CLAIMED
    await ledger.record(mail(3), "p1:3*2", Sent("250"))
    assert (await ledger.claim(mail(4), "p1:4"))[0] is Verdict.WAIT


async def test_a_mail_to_more_than_the_limit_goes_alone(ledgers: Ledgers) -> None:
    ledger = ledgers.of("p1", limits=(Limit(2, 1000),))
    assert (await ledger.claim(mail(1), "p1:1*9"))[0] is Verdict.CLAIMED
    await ledger.record(mail(1), "p1:1*9", Retry("450"))
    assert (await ledger.claim(mail(2), "p1:2"))[0] is Verdict.WAIT


async def test_a_dead_processs_mails_in_flight_count_as_sent(ledgers: Ledgers) -> None:
    ledger = ledgers.of("p1", limits=(Limit(2, 60_000),))
    for number in range(2):
        await ledger.claim(mail(number), f"p1:{number}")
    # As lua/beat.lua marks them.
    ledgers.redis.zadd(keys.in_flight(ACCOUNT), {"p1:0": 0, "p1:1": 0})
    verdict, wait_ms = await ledgers.of("p2", limits=(Limit(2, 60_000),)).claim(mail(9), "p2:1")
    assert verdict is Verdict.WAIT
    assert 50_000 < wait_ms <= 60_001


async def test_the_providers_word_slows_all_hosts_and_wears_off(ledgers: Ledgers) -> None:
    first, second = ledgers.of("p1"), ledgers.of("p2")
    for number in range(10):
        await first.claim(mail(number), f"p1:{number}")
    account = ledgers.account("p1")
    for _ in range(5):  # All mails in flight bring the same news.
        await account.slow_down(1500, "450 slow down")
    verdict, wait_ms = await second.claim(mail(20), "p2:20")
    assert verdict is Verdict.WAIT
    assert 1000 < wait_ms <= 1500
    interval: Any = ledgers.redis.hget(keys.account(ACCOUNT), "interval_ms")
    # Half the speed of late, which counts from half a second on; five slow-downs would be sixteen times as much.
    assert 100 <= float(interval) < 1600
    # Some quiet time later.
    ledgers.redis.hset(keys.account(ACCOUNT), mapping={"hold_until": 0, "slowed_at": 0})
    assert (await second.claim(mail(20), "p2:20"))[0] is Verdict.CLAIMED
    slower: Any = ledgers.redis.hget(keys.account(ACCOUNT), "interval_ms")
    assert float(slower) == pytest.approx(float(interval) * 0.7)


async def test_a_refused_account_is_tried_by_one_mail_at_a_time(ledgers: Ledgers) -> None:
    ledger, account = ledgers.of("p1"), ledgers.account("p1")
    waits = [await account.refused(AccountRefused("quota.", "sending")) for _ in range(5)]
    assert max(waits) <= 300
    assert (await ledger.claim(mail(1), "p1:1"))[0] is Verdict.WAIT
    await asyncio.sleep(0.35)
    verdicts = [(await ledger.claim(mail(number), f"p1:{number}"))[0] for number in range(1, 5)]
    assert verdicts == [Verdict.CLAIMED, Verdict.WAIT, Verdict.WAIT, Verdict.WAIT]
    await ledger.record(mail(1), "p1:1", Sent("250"))
    assert (await ledger.claim(mail(2), "p1:2"))[0] is Verdict.CLAIMED


async def test_an_accounts_pause_doubles_and_an_operator_ends_it(ledgers: Ledgers) -> None:
    account = ledgers.account("p1")
    first = await account.refused(AccountRefused("quota.", "sending"))
    ledgers.redis.hset(keys.account(ACCOUNT), mapping={"stopped_at": 0, "stopped_until": 0})
    second = await account.refused(AccountRefused("quota.", "sending"))
    assert (first, second) == (300, 600)
    await account.resume()
    assert (await ledgers.of("p1").claim(mail(), "p1:1"))[0] is Verdict.CLAIMED


async def test_a_refused_login_is_tried_by_one_process_at_a_time(ledgers: Ledgers) -> None:
    first, second = ledgers.account("p1"), ledgers.account("p2")
    await first.refused(AccountRefused("password.", "login"))
    assert await second.may_connect(0) > 0
    await asyncio.sleep(0.35)
    assert await second.may_connect(0) == -1
    assert await first.may_connect(0) > 0
    await second.resume()
    assert await first.may_connect(0) == 0


async def test_connections_are_capped_across_processes(ledgers: Ledgers) -> None:
    first, second = (ledgers.account(name, max_connections=3) for name in ("p1", "p2"))
    assert [await first.may_connect(0), await first.may_connect(1), await second.may_connect(0)] == [0, 0, 0]
    assert await second.may_connect(1) == NO_PLACE
    await first.count_connections(1)
    assert await second.may_connect(1) == 0


async def test_a_place_that_gets_free_goes_to_whoever_has_none(ledgers: Ledgers) -> None:
    first, second, third = (ledgers.account(name, max_connections=2) for name in ("p1", "p2", "p3"))
    assert [await first.may_connect(0), await first.may_connect(1)] == [0, 0]
    for wanting in (second, third):
        assert await wanting.may_connect(0) == NO_PLACE
        await asyncio.sleep(0.005)
    await first.count_connections(1)
    # It has another one, and the third came later.
    assert [await first.may_connect(1), await third.may_connect(0)] == [NO_PLACE, NO_PLACE]
    assert await second.may_connect(0) == 0
    await first.count_connections(0)
    assert await first.may_connect(0) == NO_PLACE
    assert await third.may_connect(0) == 0


async def test_who_wants_a_connection_no_more_is_not_waited_for(ledgers: Ledgers) -> None:
    first, second = (ledgers.account(name, max_connections=1) for name in ("p1", "p2"))
    assert [await first.may_connect(0), await second.may_connect(0)] == [0, NO_PLACE]
    await asyncio.sleep(0.005)
    await first.count_connections(0)
    assert await first.may_connect(0) == NO_PLACE
    ledgers.redis.hset(keys.wanting(ACCOUNT), "p2", "1000:1000")
    assert await first.may_connect(0) == 0


async def test_a_campaign_pauses_when_too_many_of_its_mails_fail(ledgers: Ledgers) -> None:
    ledger = ledgers.of("p1", pause_above_percent=50)
    for number in range(60):
        result: Sent | Failed = Sent("250") if number < 20 else Failed("550")
        await ledger.record(mail(number), "", result)
        state: Any = ledgers.redis.hget(keys.CONTROL, "c")
        assert (state is not None) == (number >= 40)
    assert state == b"paused:21 of 41 mails failed"


async def test_a_ledger_of_100_000_takes_at_most_15_mb(ledgers: Ledgers) -> None:
    ledger = ledgers.of("p1")
    subscriber = "00000000-0000-4000-8000-{:012}".format
    entries = [Entry("c", subscriber(number), "") for number in range(20_000)]
    await asyncio.gather(*(ledger.record(entry, "", Sent("250")) for entry in entries))
    used: Any = ledgers.redis.memory_usage(keys.ledger("c"), samples=0)
    assert used * 5 <= 15_000_000


async def test_a_new_start_ends_a_pause_only_with_other_credentials(ledgers: Ledgers, client: CountingRedis) -> None:
    def account(credentials: str) -> Account:
        return Account(client, ACCOUNT, "p1", max_connections=0, first_pause_seconds=60, credentials=credentials)

    ledger = ledgers.of("p1")
    await account("old").refused(AccountRefused("The account is blocked.", "sending"))
    await account("old").begin()
    assert (await ledger.claim(mail(), "p1:1"))[0] is Verdict.WAIT
    await account("new").begin()
    assert (await ledger.claim(mail(), "p1:1"))[0] is Verdict.CLAIMED
    # Nothing was refused with these: nothing to forget.
    ledgers.redis.hset(keys.account(ACCOUNT), mapping={"interval_ms": 500, "slowed_at": int(time.time() * 1000)})
    await account("other").begin()
    assert ledgers.redis.hget(keys.account(ACCOUNT), "interval_ms") == b"500"


async def test_what_was_listed_as_sent_again_is_held_once_that_is_asked_for(ledgers: Ledgers) -> None:
    first = ledgers.of("p1")
    assert (await first.claim(mail(), "p1:1"))[0] is Verdict.CLAIMED
    await first.record(mail(), "p1:1", Uncertain("lost"))
    [listed] = UncertainMails(ledgers.redis).all()
    assert not listed.held
    # With another message of the same recipient, after a change of the setting.
    again = Entry("c", "s0", "another identity")
    assert (await ledgers.of("p2", hold_uncertain=True).claim(again, "p2:1"))[0] is Verdict.HELD
    [listed] = UncertainMails(ledgers.redis).all()
    assert listed.held
    assert again.name == listed.entry.name
