"""Everything that an app, our processes and a Node worker may do to one BullMQ queue, in random order, and what must
hold after each step: each job stands in one state, locks are of active jobs, and a recipient who got two mails is
listed."""

import asyncio
import itertools
import json
import random
from collections import Counter, defaultdict
from typing import Any

import redis

from testbed.app import App, AppError
from tests.integration.consumers import BULLMQ, Consumer, MakeConsumer, die, entry_of, job
from worker.base import keys
from worker.ledger.ledger import Entry, Verdict
from worker.ledger.uncertain import UncertainMails
from worker.mail.outcomes import Failed, Retry, Sent, Uncertain
from worker.queue import bullmq
from worker.queue.bullmq import BullJob
from worker.queue.control import Control

CAMPAIGNS = ("c1", "c2")
DEAD_AFTER_MS = 60_000
LISTS = ("wait", "paused", "active")
SORTED_SETS = ("prioritized", "delayed", "completed", "failed")
OTHERS = frozenset([*LISTS, *SORTED_SETS, *"marker meta events id pc limiter stalled stalled-check".split()])
#: Of a step: what it is, and how often it's drawn.
WEIGHTS = {
    "add": 4,
    "take": 5,
    "claim": 6,
    "record": 8,
    "beat": 2,
    **dict.fromkeys("back delay die freeze thaw leave stranded".split(), 1),
    **dict.fromkeys("pause resume concurrency pause_campaign resume_campaigns cancel_campaign".split(), 1),
    **dict.fromkeys("remove retry promote clean drain priority due update".split(), 1),
    **dict.fromkeys("resend mark_sent node_takes node_completes node_dies sweep lose_locks".split(), 1),
}


class Worker:
    """One of our processes, and what it has in hand."""

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self.frozen = False
        #: Id → the job, whose mail it is, and the claimant once it's claimed.
        self.hand: dict[str, tuple[BullJob, Entry, str | None]] = {}


class Model:
    """One run; `steps` says what happened, for whoever reads a failure."""

    def __init__(self, app: App, queue: redis.Redis, process: MakeConsumer, seed: int) -> None:
        self.random = random.Random(seed)
        self._app = app
        self._queue = queue
        self._hold = self.random.random() < 0.4
        self._process = process
        self._workers = [self._worker() for _ in range(3)]
        self._control = Control(queue, BULLMQ)
        self._uncertain = UncertainMails(queue)
        self._subscribers, self._tokens, self._claims = itertools.count(1), itertools.count(1), itertools.count(1)
        self._node: tuple[dict[str, Any], str] | None = None
        self._sent: Counter[tuple[str, str]] = Counter()
        self._listed: set[tuple[str, str]] = set()
        self.steps: list[str] = []
        self._lives: dict[tuple[str, str], list[str]] = defaultdict(list)
        #: Whose mail Node sent before it died → of which job.
        self._node_sent: dict[tuple[str, str], str] = {}

    async def run(self, steps: int) -> None:
        """Takes so many steps; then everything is let go, and all is sent."""
        names, weights = list(WEIGHTS), list(WEIGHTS.values())
        for _ in range(steps):
            [name] = self.random.choices(names, weights)
            self.steps.append(name)
            try:
                await getattr(self, f"_{name}")()
            except AppError as error:  # BullMQ refuses what its app may not do at the moment.
                self.steps.append(str(error)[:100])
            self._check()
        await self._finish()

    def _worker(self) -> Worker:
        return Worker(self._process(hold_uncertain=self._hold))

    def _check(self) -> None:
        states = self._states()
        assert not {one: found for one, found in states.items() if len(found) > 1}
        for raw in self._queue.scan_iter(match=f"{BULLMQ}:*", count=5000):
            name = raw.decode().removeprefix(f"{BULLMQ}:")
            if name.endswith(":lock"):
                assert "active" in states.get(name.removesuffix(":lock"), []), name
            elif name not in OTHERS and not name.startswith(("de:", "dn:")):
                assert self._queue.hexists(raw, "name"), f"{name} is a ghost"
                assert name in states, f"{name} is in no state"
        for one in states:
            assert self._queue.exists(f"{BULLMQ}:{one}"), f"{one} is gone"
        self._listed |= {(str(mail.entry.campaign_id), str(mail.entry.subscriber_id)) for mail in self._uncertain.all()}
        # What Node sent and never told shows when its job is taken again.
        twice = self._twice() - self._node_sent.keys()
        assert not twice, {whose: self._lives[whose] for whose in twice}

    def _twice(self) -> set[tuple[str, str]]:
        """Who got two mails, and isn't listed."""
        return {whose for whose, times in self._sent.items() if times > 1} - self._listed

    def _tell(self, entry: Entry, what: str) -> None:
        step = len(self.steps)
        self._lives[str(entry.campaign_id), str(entry.subscriber_id)].append(f"{step}: {what}")

    def _states(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for name in (*LISTS, *SORTED_SETS):
            read: Any = self._queue.lrange if name in LISTS else self._queue.zrange
            for one in read(f"{BULLMQ}:{name}", 0, -1):
                found[one.decode()].append(name)
        return found

    async def _finish(self) -> None:
        self._app.ask("resume")
        self._app.ask("removeGlobalConcurrency")
        await self._resume_campaigns()
        if self._node:
            self._queue.delete(f"{BULLMQ}:{self._node[0]['id']}:lock")
        for worker in self._workers:
            die(self._queue, worker.consumer)
        last = self._worker()
        self._workers = [last]
        for _ in range(14):
            self._queue.delete(f"{BULLMQ}:stalled-check")
            await last.consumer.beat(dead_after_ms=DEAD_AFTER_MS, idle=True)
            while (await self._fetch(last, 20)) > 0:
                for one in list(last.hand):
                    await self._claim_one(last, one)
                    if one in last.hand:
                        await self._was_accepted(last, one)
                self._check()
            await asyncio.sleep(0.03)
        # Where its app has removed that job, nobody can know.
        twice = {one for one in self._twice() if self._queue.exists(f"{BULLMQ}:{self._node_sent.get(one)}")}
        assert not twice, {whose: self._lives[whose] for whose in twice}
        counts = self._app.counts("active", "waiting", "prioritized", "delayed", "paused")
        assert not any(counts.values()), counts

    def _someone(self, *, with_jobs: bool = False) -> Worker | None:
        alive = [worker for worker in self._workers if not worker.frozen and (worker.hand or not with_jobs)]
        return self.random.choice(alive) if alive else None

    def _replace(self, worker: Worker) -> None:
        self._workers[self._workers.index(worker)] = self._worker()

    # What our processes do.

    async def _fetch(self, worker: Worker, wanted: int) -> int:
        taken = (await worker.consumer.fetch(wanted)).jobs
        for one in taken:
            data = json.loads(one.data)
            keep = (float(self.random.choice([-1, -1, 0, 3])), -1.0, 1000.0)
            entry = entry_of(one, str(data["subscriberId"]), str(data["campaignId"]), keep)
            worker.hand[one.id] = (one, entry, None)
        return len(taken)

    async def _take(self) -> None:
        if worker := self._someone():
            await self._fetch(worker, self.random.randint(1, 4))

    async def _claim(self) -> None:
        if worker := self._someone(with_jobs=True):
            await self._claim_one(worker, self.random.choice(list(worker.hand)))

    async def _claim_one(self, worker: Worker, identity: str) -> None:
        one, entry, claimant = worker.hand[identity]
        if claimant is not None:
            return
        consumer, claimant = worker.consumer, f"{worker.consumer.name}:{next(self._claims)}"
        verdict, _ = await consumer.ledger.claim(entry, claimant)
        self._tell(entry, f"{claimant} of job {identity}: {verdict}")
        if verdict in (Verdict.CLAIMED, Verdict.UNCERTAIN):
            worker.hand[identity] = (one, entry, claimant)
            return
        del worker.hand[identity]
        if verdict is Verdict.PAUSED and entry.campaign_id:
            await consumer.settle(bullmq.park(one, entry.campaign_id))
        elif verdict is Verdict.HELD:
            await consumer.settle(bullmq.hold(one, entry.name, "earlier"))
        elif verdict is Verdict.BUSY:
            await consumer.settle(bullmq.delay(one, 30, spent=False, reason="", slow_downs=0, losses=0))
        else:
            await consumer.settle(bullmq.already_done(entry))

    async def _was_accepted(self, worker: Worker, identity: str) -> None:
        _, entry, claimant = worker.hand.pop(identity)
        self._sent[str(entry.campaign_id), str(entry.subscriber_id)] += 1
        self._tell(entry, f"{claimant} sent it")
        await worker.consumer.ledger.record(entry, str(claimant), Sent("250 taken"))

    async def _record(self) -> None:
        worker = self._someone(with_jobs=True)
        claimed = [one for one, (_, _, claimant) in worker.hand.items() if claimant] if worker else []
        if worker is None or not claimed:
            return
        identity, chance = self.random.choice(claimed), self.random.random()
        if chance < 0.55:
            await self._was_accepted(worker, identity)
            return
        one, entry, claimant = worker.hand.pop(identity)
        consumer, whose = worker.consumer, (str(entry.campaign_id), str(entry.subscriber_id))
        self._tell(entry, f"{claimant} records {chance}")
        if chance < 0.65:
            await consumer.ledger.record(entry, str(claimant), Failed("550 no"))
        elif chance < 0.75:
            await consumer.ledger.record(entry, str(claimant), Retry("450 later"))
            await consumer.settle(bullmq.delay(one, 20, spent=True, reason="450 later", slow_downs=0, losses=0))
        elif chance < 0.85:
            self._sent[whose] += self.random.random() < 0.5
            await consumer.ledger.record(entry, str(claimant), Uncertain("lost"))
            later = bullmq.delay(one, 20, spent=True, reason="lost", slow_downs=0, losses=1)
            await consumer.settle(bullmq.hold(one, entry.name, "lost") if self._hold else later)
        else:
            self._sent[whose] += 1  # And dies before that is recorded.
            die(self._queue, consumer)
            self._replace(worker)

    async def _back(self) -> None:
        if worker := self._someone(with_jobs=True):
            one, entry, claimant = worker.hand.pop(self.random.choice(list(worker.hand)))
            if claimant:
                await worker.consumer.ledger.record(entry, claimant, Retry("the gate"))
            await worker.consumer.settle(bullmq.back(one, entry))

    async def _delay(self) -> None:
        worker = self._someone(with_jobs=True)
        free = [one for one, (_, _, claimant) in worker.hand.items() if not claimant] if worker else []
        if worker and free:
            one, _, _ = worker.hand.pop(self.random.choice(free))
            await worker.consumer.settle(bullmq.delay(one, 20, spent=False, reason="", slow_downs=1, losses=0))

    async def _beat(self) -> None:
        if worker := self._someone():
            await worker.consumer.beat(dead_after_ms=DEAD_AFTER_MS, idle=self.random.random() < 0.5)

    async def _die(self) -> None:
        if worker := self._someone():
            die(self._queue, worker.consumer)
            self._replace(worker)

    async def _freeze(self) -> None:
        alive = [worker for worker in self._workers if not worker.frozen]
        if len(alive) > 1:
            alive[0].frozen = True
            die(self._queue, alive[0].consumer)

    async def _thaw(self) -> None:
        for worker in self._workers:
            worker.frozen = False

    async def _leave(self) -> None:
        if worker := self._someone():
            await worker.consumer.jobs.leave()
            await worker.consumer.messages.leave()
            self._replace(worker)

    async def _stranded(self) -> None:
        if worker := self._someone():
            await worker.consumer.jobs.give_back_all_but(set(worker.hand))

    async def _lose_locks(self) -> None:
        for worker in self._workers:
            if worker.frozen:
                self._queue.delete(*(f"{BULLMQ}:{one}:lock" for one in (*worker.hand, "none")))

    # What an app and an operator do.

    async def _add(self) -> None:
        jobs = []
        for _ in range(self.random.randint(1, 3)):
            number = next(self._subscribers) if self.random.random() < 0.85 else self.random.randint(1, 20)
            drawn = (
                ("priority", self.random.randint(1, 3), 0.2),
                ("delay", self.random.randint(1, 60), 0.15),
                ("lifo", True, 0.1),
                ("jobId", f"x{self.random.randint(1, 6)}", 0.1),
                ("deduplication", {"id": f"d{self.random.randint(1, 2)}", "keepLastIfActive": True}, 0.1),
            )
            options = {name: value for name, value, chance in drawn if self.random.random() < chance}
            jobs.append({**job(number, self.random.choice(CAMPAIGNS)), "opts": options})
        self._app.ask("addBulk", jobs=jobs)

    async def _pause(self) -> None:
        if self.random.random() < 0.3:
            self._app.ask("pause")

    async def _resume(self) -> None:
        self._app.ask("resume")

    async def _concurrency(self) -> None:
        if self.random.random() < 0.4:
            self._app.ask("setGlobalConcurrency", concurrency=self.random.randint(1, 4))
        else:
            self._app.ask("removeGlobalConcurrency")

    async def _pause_campaign(self) -> None:
        if self.random.random() < 0.4:
            self._control.pause(self.random.choice(CAMPAIGNS))

    async def _resume_campaigns(self) -> None:
        for campaign in CAMPAIGNS:
            self._control.resume(campaign)

    async def _cancel_campaign(self) -> None:
        if self.random.random() < 0.08:
            self._control.cancel(self.random.choice(CAMPAIGNS))

    def _one(self, state: str = "") -> str | None:
        states = self._states()
        chosen = [one for one, found in states.items() if state in found] or list(states)
        return self.random.choice(chosen) if chosen else None

    async def _ask_of(self, command: str, state: str = "", **options: Any) -> None:
        if one := self._one(state):
            self._app.ask(command, id=one, **options)

    async def _remove(self) -> None:
        await self._ask_of("remove")

    async def _retry(self) -> None:
        await self._ask_of("retry", "failed")

    async def _promote(self) -> None:
        await self._ask_of("promote", "delayed")

    async def _priority(self) -> None:
        await self._ask_of("changePriority", priority=self.random.randint(0, 3))

    async def _due(self) -> None:
        await self._ask_of("changeDelay", "delayed", delay=self.random.choice([0, 10, 50]))

    async def _update(self) -> None:
        one = self._one()
        data: Any = self._queue.hget(f"{BULLMQ}:{one}", "data") if one else None
        if data:
            self._app.ask("updateData", id=one, data={**json.loads(data), "changed": 1})

    async def _clean(self) -> None:
        if self.random.random() < 0.25:
            state = self.random.choice(["failed", "completed", "delayed", "wait", "paused", "active", "prioritized"])
            self._app.ask("clean", type=state, limit=self.random.choice([0, 2]))

    async def _drain(self) -> None:
        if self.random.random() < 0.2:
            self._app.ask("drain", delayed=self.random.random() < 0.5)

    async def _resend(self) -> None:
        if held := [mail for mail in self._uncertain.all() if mail.held]:
            self._uncertain.resend(self.random.choice(held))

    async def _mark_sent(self) -> None:
        if held := [mail for mail in self._uncertain.all() if mail.held]:
            self._uncertain.mark_sent(self.random.choice(held))

    # What a Node worker does beside: it sends without asking the ledger.

    async def _node_takes(self) -> None:
        token = f"node-{next(self._tokens)}"
        if self._node is None and (taken := self._app.ask("take", token=token)):
            self._node = (taken, token)

    async def _node_completes(self) -> None:
        if self._node:
            (_, token), self._node = self._node, None
            self._app.ask("complete", token=token, value="ok")

    async def _node_dies(self) -> None:
        if self._node:
            (taken, _), self._node = self._node, None
            campaign, subscriber = taken["data"]["campaignId"], str(taken["data"]["subscriberId"])
            self._queue.delete(f"{BULLMQ}:{taken['id']}:lock")
            fresh = not self._queue.hget(keys.ledger(campaign), subscriber) and not self._sent[campaign, subscriber]
            if fresh and self.random.random() < 0.6:
                self._sent[campaign, subscriber] += 1
                self._node_sent[campaign, subscriber] = taken["id"]
                self._lives[campaign, subscriber].append(f"{len(self.steps)}: Node sent job {taken['id']}, and died")

    async def _sweep(self) -> None:
        self._queue.delete(f"{BULLMQ}:stalled-check")
        self._app.ask("sweep")
