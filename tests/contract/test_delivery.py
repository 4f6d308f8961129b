"""Mails on their way through delivery, with a real transport and its server: what a bad one costs, and whom."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from tests.contract.peers import SmtpPeer
from worker.errors import AccountRefused
from worker.ledger.ledger import Entry, GivenUp, Result, Verdict
from worker.mail.jobs import Job, parse_job
from worker.mail.outcomes import Failed, Outcome, Sent, Uncertain
from worker.mail.retry import tries_within
from worker.queue.control import Fault
from worker.queue.gate import Gate
from worker.sending import delivery as path
from worker.sending.account import Judgement
from worker.sending.delivery import Back, Delivery, Disposition, Later, Options, Queued
from worker.sending.transports.base import Claim, Transport


class Ledger:
    """In memory, for one process."""

    def __init__(self) -> None:
        self.claimed: set[str] = set()
        self.results: dict[str, list[Result]] = {}

    async def claim(self, entry: Entry, claimant: str) -> tuple[Verdict, int]:
        assert entry.field not in self.claimed
        self.claimed.add(entry.field)
        return Verdict.CLAIMED, 0

    async def record(self, entry: Entry, claimant: str, result: Result) -> None:
        self.claimed.discard(entry.field)
        self.results.setdefault(entry.field, []).append(result)

    def last(self, subscriber: str) -> Result | None:
        return self.results.get(subscriber, [None])[-1]


class Account:
    """It rests for a moment, and what a recipient is told is its own matter."""

    def __init__(self) -> None:
        self.pauses = 0

    async def slow_down(self, after_ms: int) -> None: ...

    async def strained(self) -> None: ...

    async def refused(self, error: AccountRefused) -> int:
        self.pauses += 1
        return 50

    async def judge(self, *_: object, **__: object) -> Judgement:
        return Judgement("fail")


class Campaigns:
    """None of them goes wrong."""

    async def pause(self, campaign_id: str, reason: str) -> None:
        raise AssertionError(reason)

    async def fault(self, campaign_id: str, subscriber_id: str, reason: str, hint: str) -> Fault:
        raise AssertionError(reason)


def job(subscriber: str) -> Job:
    return parse_job(
        {
            "to": f"{subscriber}@example.org",
            "from": "news@example.com",
            "subject": "Hello",
            "html": "<p>Hello</p>",
            "campaignId": "c",
            "subscriberId": subscriber,
        }
    )


class Queue:
    """Delivers jobs as a process's queue does, with as many at once, until none is left."""

    def __init__(self, transport: Transport, stopping: asyncio.Event, *, retry_hours: int = 1, **options: Any) -> None:
        self.ledger = Ledger()
        self.account = Account()
        self.gate = Gate(stopping)
        self.tries: Counter[str] = Counter()
        self.seen: dict[str, Disposition] = {}
        self.delivery = Delivery(
            transport,
            self.ledger,
            self.account,  # type: ignore[arg-type]
            self.gate,
            Campaigns(),
            "process",
            Options(retry_hours=retry_hours, max_attempts=3, **options),
        )

    async def run(self, *subscribers: str, at_once: int = 5) -> None:
        waiting: asyncio.Queue[tuple[str, Queued]] = asyncio.Queue()
        for each in subscribers:
            waiting.put_nowait((each, Queued(each)))
        unfinished = len(subscribers)

        async def work() -> None:
            nonlocal unfinished
            while unfinished:
                try:
                    async with asyncio.timeout(0.05):
                        subscriber, queued = await waiting.get()
                except TimeoutError:
                    continue
                self.tries[subscriber] += 1
                disposition = self.seen[subscriber] = await self.delivery.deliver(job(subscriber), queued)
                match disposition:
                    case Later(attempts=attempts, slow_downs=slow_downs, losses=losses):
                        again = (subscriber, Queued(subscriber, attempts, slow_downs, losses))
                        asyncio.get_running_loop().call_later(0.05, waiting.put_nowait, again)
                    case Back():
                        waiting.put_nowait((subscriber, queued))
                    case _:
                        unfinished -= 1

        await asyncio.gather(*(work() for _ in range(at_once)))


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path, "HINDERED_DELAY_SECONDS", 0.05)
    monkeypatch.setattr(path, "LONGEST_HELD_SECONDS", 1.0)


@pytest.fixture(params=[False, True], ids=["one by one", "pipelined"])
async def peer(request: pytest.FixtureRequest) -> SmtpPeer:
    return SmtpPeer(request.param)


async def test_recipients_under_whom_the_server_hangs_up_end_and_hold_nobody_up(
    transport: Transport, peer: SmtpPeer
) -> None:
    peer.server.recipients = {f"bad{number}@example.org": "close" for number in range(5)}
    peer.server.delays = {"CONTENT": 0.01}
    good = [f"good{number}" for number in range(200)]
    queue = Queue(transport, asyncio.Event())
    bad = [f"bad{number}" for number in range(5)]
    async with asyncio.timeout(20):
        await queue.run(*good[:100], *bad, *good[100:])
    assert all(isinstance(queue.ledger.last(each), Sent) for each in good)
    for each in bad:
        result = queue.ledger.last(each)
        assert isinstance(result, Failed), queue.seen[each]
        assert "before the reply to RCPT TO" in result.reason
        # Two that cost nothing, and its attempts; a few more if bad ones alone were under way.
        assert queue.tries[each] <= tries_within(1) + 7
    assert queue.ledger.claimed == set()


async def test_a_mail_that_is_hindered_at_its_campaigns_end_ends_too(transport: Transport, peer: SmtpPeer) -> None:
    peer.server.recipients = {"bad@example.org": "close"}
    queue = Queue(transport, asyncio.Event())
    async with asyncio.timeout(10):
        await queue.run("good", "bad", at_once=1)
    assert isinstance(queue.ledger.last("bad"), Failed)
    assert queue.tries["bad"] == 2 + tries_within(1)
    assert queue.gate.seconds == 0


async def test_a_refusal_with_a_hang_up_fails_at_once(transport: Transport, peer: SmtpPeer) -> None:
    peer.server.recipients = {"bad@example.org": "550 5.1.1 no such mailbox"}
    peer.server.hangs_up_after = {"RCPT"}
    queue = Queue(transport, asyncio.Event())
    await queue.run("bad")
    assert queue.tries["bad"] == 1
    assert isinstance(queue.ledger.last("bad"), Failed)
    assert queue.gate.seconds == 0


async def test_an_outage_costs_nobody_anything(
    transport: Transport, peer: SmtpPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.sending.outage.FIRST_WAIT_SECONDS", 0.02)
    monkeypatch.setattr("worker.sending.outage.LONGEST_WAIT_SECONDS", 0.02)
    queue = Queue(transport, asyncio.Event())
    await queue.run(*(f"before{number}" for number in range(20)))
    # It takes the login and then hangs up on everybody.
    peer.server.replies = {"MAIL": "close"}
    waiting = [f"waiting{number}" for number in range(5)]
    running = asyncio.create_task(queue.run(*waiting))
    await asyncio.sleep(1.5)
    attempts = [seen.attempts for seen in queue.seen.values() if isinstance(seen, Later)]
    assert all(each == 0 for each in attempts)
    assert not any(isinstance(queue.ledger.last(each), Failed) for each in waiting)
    peer.server.replies = {}
    async with asyncio.timeout(10):
        await running
    assert all(isinstance(queue.ledger.last(each), Sent) for each in waiting)


async def test_a_mail_for_which_alone_the_account_is_refused_stops_nobody_for_ever(
    transport: Transport, peer: SmtpPeer
) -> None:
    """The first time it may be the account's quota; if others are accepted after it, the next time it's the mail's."""
    peer.server.recipients = {"bad@example.org": "550 5.4.6 unusual sending activity"}
    peer.server.delays = {"CONTENT": 0.01}
    queue = Queue(transport, asyncio.Event())
    good = [f"good{number}" for number in range(200)]
    async with asyncio.timeout(20):
        await queue.run(*good[:20], "bad", *good[20:])
    assert queue.account.pauses == 1
    assert all(isinstance(queue.ledger.last(each), Sent) for each in good)
    assert isinstance(queue.ledger.last("bad"), Failed)


async def test_no_text_is_made_where_none_is_wanted(transport: Transport, peer: SmtpPeer) -> None:
    await Queue(transport, asyncio.Event()).run("with")
    await Queue(transport, asyncio.Event(), makes_text=False).run("without")
    assert [arrived.text.strip() for arrived in peer.arrived()] == ["Hello", ""]
    assert [arrived.html.strip() for arrived in peer.arrived()] == ["<p>Hello</p>"] * 2


async def test_a_used_up_account_costs_nobody_anything(transport: Transport, peer: SmtpPeer) -> None:
    queue = Queue(transport, asyncio.Event())
    await queue.run(*(f"before{number}" for number in range(20)))
    peer.server.replies = {"MAIL": "550 5.4.5 daily limit"}
    waiting = [f"waiting{number}" for number in range(5)]
    running = asyncio.create_task(queue.run(*waiting))
    await asyncio.sleep(1)
    assert queue.account.pauses > 1
    assert not any(isinstance(seen, Later) for seen in queue.seen.values())
    peer.server.replies = {}
    async with asyncio.timeout(10):
        await running
    assert all(isinstance(queue.ledger.last(each), Sent) for each in waiting)


@pytest.mark.parametrize("manner", ["close after the content", "rubbish"])
async def test_the_last_uncertain_try_is_no_failure(transport: Transport, peer: SmtpPeer, manner: str) -> None:
    peer.behave(manner)
    queue = Queue(transport, asyncio.Event())
    await queue.run("s")
    first, second, last = queue.ledger.results["s"]
    assert isinstance(first, Uncertain)
    assert isinstance(second, Uncertain)
    assert isinstance(last, GivenUp)
    assert "may have arrived" in last.reason


@pytest.mark.parametrize(("step", "claimed"), [("RCPT", set()), ("CONTENT", {"s"})])
async def test_who_is_stopped_in_time_gives_the_claim_back(
    transport: Transport, peer: SmtpPeer, step: str, claimed: set[str]
) -> None:
    """A claim that stays with a process that is gone makes its mail uncertain."""
    peer.server.replies = {step: "stall"}
    queue = Queue(transport, asyncio.Event())
    task = asyncio.create_task(queue.delivery.deliver(job("s"), Queued("s")))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert queue.ledger.claimed == claimed


class Surprising:
    """A transport with a fault that nobody foresaw."""

    idempotent_seconds = 0

    def __init__(self, *, claims: bool) -> None:
        self._claims = claims

    async def send(self, mail: object, claim: Claim) -> Outcome:
        if self._claims:
            await claim()
        raise ZeroDivisionError

    async def check(self) -> str:
        return ""

    async def close(self) -> None: ...


async def test_a_surprise_after_the_claim_is_recorded() -> None:
    queue = Queue(Surprising(claims=True), asyncio.Event())
    disposition = await queue.delivery.deliver(job("s"), Queued("s"))
    assert isinstance(disposition, Later)
    assert disposition.attempts == 1
    assert isinstance(queue.ledger.last("s"), Uncertain)
    assert queue.ledger.claimed == set()


async def test_a_surprise_before_the_claim_is_the_queues_matter() -> None:
    queue = Queue(Surprising(claims=False), asyncio.Event())
    with pytest.raises(ZeroDivisionError):
        await queue.delivery.deliver(job("s"), Queued("s"))
    assert queue.ledger.results == {}
