"""One rule for a job's ids, in Python and in Lua: by what Lua reads, a message gets its lane; by what Python reads, its
campaign is paused. `tests/vectors/ids.json` holds jobs as they stand in Redis, and their campaigns."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worker.base import keys
from worker.base.redis_client import script
from worker.errors import InvalidJob
from worker.mail.jobs import parse_job
from worker.mail.names import use_own_names
from worker.mail.shape import read_recipient, recipient_key
from worker.operating.reconcile import Reconciliation
from worker.queue.producer import enqueue
from worker.recording.database import Recipient

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "ids.json").read_text(encoding="utf-8"))
PROBE = script("ids") + "return campaign_of(decode(ARGV[1])) or false"

KEYS = st.sampled_from(["campaignId", "campaign_id", "subject"])
TEXT = st.text(st.characters(codec=None), max_size=250)
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.lists(st.integers(), max_size=2)


GLANCE = script("clock", "ids", "lanes") + "return lane_at_a_glance(ARGV[1])"
RECIPIENT = (
    script("ids")
    + """
local function job_of(job) return job end
return { recipient_at_a_glance(ARGV[1], 'c', job_of) or '', recipient_of(decode(ARGV[1]), 'c') or '' }
"""
)
RECIPIENT_KEYS = st.sampled_from(["campaignId", "campaign_id", "subscriberId", "subscriber_id", "html"])


def by_python(job: str) -> str | None:
    raw = json.loads(job)
    found = recipient_key({**raw, "subscriberId": "s", "subscriber_id": None}) if isinstance(raw, dict) else None
    return found[0] if found else None


def by_lua(queue: redis.Redis, job: str) -> str | None:
    found = queue.eval(PROBE, 1, "mail:x", job.encode("utf-8", "surrogatepass"))
    return found.decode() if isinstance(found, bytes) else None


def at_a_glance(queue: redis.Redis, job: str) -> str | None:
    message = f'{{"queue_name":"mail","args":[{job}],"options":{{}}}}'
    found = queue.eval(GLANCE, len(keys.QUEUE_KEYS), *keys.QUEUE_KEYS, message.encode("utf-8", "surrogatepass"))
    return found.decode() or None if isinstance(found, bytes) else None


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["job"][:60])
def test_the_vectors(vector: dict[str, str | None], queue: redis.Redis) -> None:
    job = str(vector["job"])
    assert by_python(job) == vector["campaign"]
    assert by_lua(queue, job) == vector["campaign"]
    assert at_a_glance(queue, job) == vector["campaign"]


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(KEYS, VALUES))
def test_whatever_comes(queue: redis.Redis, raw: dict[str, object]) -> None:
    job = json.dumps(raw)
    # Python has another kind for 1.0, and takes none of it; Lua has not.
    if any(isinstance(value, float) and value == value // 1 for value in raw.values()):
        return
    assert by_lua(queue, job) == at_a_glance(queue, job) == by_python(job)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(RECIPIENT_KEYS, st.sampled_from(["c", "c ", "", "s-1", None, 7, '"campaignId":"d"']) | VALUES))
def test_a_recipient_at_a_glance_is_the_jobs(queue: redis.Redis, raw: dict[str, object]) -> None:
    found: list[bytes] = queue.eval(RECIPIENT, 1, "mail:x", json.dumps(raw))
    assert found[0] == found[1]


RECIPIENTS = json.loads((Path(__file__).parent.parent / "vectors" / "recipients.json").read_text(encoding="utf-8"))
WHOSE = """
local job = decode(ARGV[1])
local campaign = campaign_of(job)
local subscriber = campaign and recipient_of(job, campaign)
return subscriber and { campaign, subscriber } or false
"""
ADDRESSES = st.sampled_from(
    [
        "ann@Example.org",
        "a@Bücher.example",
        "zoë@b (c)",
        "Ann <ann@a.example>",
        "a@b (c)",
        " a@b ",
        "<a@b>",
        "a@b >",
        "x <a@b> c",
        "",
    ]
)
TO = (
    ADDRESSES
    | st.none()
    | st.integers(0, 3)
    | st.dictionaries(st.sampled_from(["address", "email", "name"]), ADDRESSES)
)
MAIL = st.dictionaries(
    st.sampled_from(["to", "email", "recipient", "toEmail", "campaignId", "subscriber_id", "subject"]),
    TO | st.lists(TO, max_size=2),
    max_size=4,
)
JOBS = st.dictionaries(
    st.sampled_from(["to", "campaignId", "data", "email", "mail", "list"]), TO | MAIL | st.lists(MAIL)
)


def whose_by_lua(queue: redis.Redis, raw: object) -> tuple[str, str] | None:
    found: list[bytes] | None = queue.eval(script("ids") + WHOSE, 1, "mail:x", json.dumps(raw))
    subscriber = read_recipient(found[1].decode()) if found else None
    return (found[0].decode(), subscriber) if found and subscriber else None


@pytest.mark.parametrize("vector", RECIPIENTS, ids=lambda vector: json.dumps(vector["job"])[:70])
def test_whose_mail_it_is(vector: dict[str, object], queue: redis.Redis) -> None:
    expected = tuple(vector["recipient"]) if isinstance(vector["recipient"], list) else None
    assert recipient_key(vector["job"]) == expected
    assert whose_by_lua(queue, vector["job"]) == expected


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(JOBS)
def test_whose_mail_it_is_whatever_comes(queue: redis.Redis, raw: dict[str, object]) -> None:
    assert whose_by_lua(queue, raw) == recipient_key(raw)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(JOBS)
def test_a_job_that_is_a_mail_is_its_recipients(queue: redis.Redis, raw: dict[str, object]) -> None:
    try:
        job = parse_job({"from": "a@example.org", "text": "x", **raw})
    except InvalidJob:
        return
    found = recipient_key(raw)
    assert found == (None if job.campaign_id is None else (job.campaign_id, job.subscriber_id))


class Rows:
    """A database in which rows are found by addresses."""

    def recipients(self, campaign_id: str) -> Iterator[Recipient]:
        yield Recipient("ann@xn--bcher-kva.example", sent=False)


def test_a_waiting_job_is_known_by_either_form_of_its_domain(queue: redis.Redis) -> None:
    raw = {"campaignId": "c", "to": "ann@Bücher.example", "text": "x"}
    assert list(enqueue(queue, iter([raw]))) == [1]
    assert Reconciliation(queue, Rows(), "c", "").report().waiting == {"ann@xn--bcher-kva.example"}


def test_an_apps_own_names_count_in_redis_too(queue: redis.Redis) -> None:
    use_own_names({"to": "userEmail", "campaignId": "mailingId", "subscriberId": "userId"})
    try:
        raw = {"mailingId": 7, "userId": "u", "campaignId": 8, "userEmail": "ann@example.org"}
        assert recipient_key(raw) == whose_by_lua(queue, raw) == ("7", "u")
        assert recipient_key({**raw, "mailing_id": 8}) == whose_by_lua(queue, {**raw, "mailing_id": 8}) is None
        assert recipient_key({**raw, "userId": None}) == ("7", "ann@example.org")
        assert whose_by_lua(queue, {**raw, "userId": None}) == ("7", "ann@example.org")
        probe = script("clock", "ids", "lanes") + "return glance(ARGV[1], CAMPAIGN_NAMES) or false"
        job = '{"html":"the mailingId","mailingId":7}'
        assert queue.eval(probe, len(keys.QUEUE_KEYS), *keys.QUEUE_KEYS, job) == b"7"
    finally:
        use_own_names({})
