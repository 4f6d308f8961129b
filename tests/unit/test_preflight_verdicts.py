"""What the preflight says about what its probes found: one sentence each, with the way out."""

import base64

import pytest

from preflight import verdicts
from preflight.http import HttpAnswer
from preflight.network import Addresses, ProbeError
from preflight.redis import QueueAnswer, RedisAnswer, RedisUrl
from preflight.services import Questions, ask
from preflight.smtp import SmtpAnswer

OK = SmtpAnswer("ok")
DROPPED = SmtpAnswer("timeout")

SMTP: dict[str, tuple[int, dict[int, SmtpAnswer], dict[str, HttpAnswer], str, str]] = {
    "well": (587, {587: OK}, {}, "ok", "smtp.example:587 answers mail1 with STARTTLS."),
    "well on 465": (465, {465: OK, 587: DROPPED}, {}, "ok", "smtp.example:465 answers mail1 with TLS."),
    "465 dropped": (
        465,
        {465: DROPPED, 587: OK, 2525: OK},
        {},
        "failure",
        "mail1 gets no answer from smtp.example:465 within 5 s, as where a firewall drops the port, but port 587"
        " answers: set worker_smtp_port: 587.",
    ),
    "587 dropped": (
        587,
        {587: DROPPED, 465: DROPPED, 2525: OK},
        {},
        "failure",
        "mail1 gets no answer from smtp.example:587 within 5 s, as where a firewall drops the port, but port 2525"
        " answers: set worker_smtp_port: 2525.",
    ),
    "all dropped": (
        465,
        {465: DROPPED, 587: DROPPED, 2525: SmtpAnswer("unreachable", "No route to host")},
        {"resend": HttpAnswer("ok"), "sendgrid": HttpAnswer("timeout"), "mailgun": HttpAnswer("ok")},
        "failure",
        "mail1 gets no answer from smtp.example:465 within 5 s, as where a firewall drops the port, and ports 587"
        " and 2525 don't work either, but a provider's HTTP API passes from there: set worker_resend_api_key or"
        " worker_mailgun_api_key (docs/providers.md).",
    ),
    "nothing passes": (
        587,
        {587: DROPPED, 465: DROPPED},
        {"resend": HttpAnswer("timeout")},
        "failure",
        "mail1 gets no answer from smtp.example:587 within 5 s, as where a firewall drops the port, and port 465"
        " doesn't work either: ask the VPS's provider to open port 587, or let the mails leave by HTTP"
        " (docs/providers.md).",
    ),
    "refused": (
        25,
        {25: SmtpAnswer("refused"), 587: SmtpAnswer("refused")},
        {},
        "failure",
        "smtp.example:25 refuses connections from mail1, and port 587 doesn't work either: check"
        " worker_smtp_host and worker_smtp_port.",
    ),
    "no such name": (
        587,
        {587: SmtpAnswer("no name", "Name or service not known"), 465: SmtpAnswer("no name")},
        {},
        "failure",
        "mail1 finds no address for smtp.example (Name or service not known): correct worker_smtp_host.",
    ),
    "no resolver": (
        587,
        {587: SmtpAnswer("no resolver")},
        {},
        "failure",
        "mail1 can't look up smtp.example, because its resolver doesn't answer: correct the host's resolver"
        " (/etc/resolv.conf).",
    ),
    "untrusted": (
        587,
        {587: SmtpAnswer("certificate", "self-signed certificate"), 465: SmtpAnswer("certificate")},
        {},
        "failure",
        "mail1 doesn't trust the certificate of smtp.example:587 (self-signed certificate): set worker_smtp_host to the"
        " name in the certificate, or add its authority's PEM file to base_ca_certificates.",
    ),
    "wrong TLS on 465": (
        465,
        {465: SmtpAnswer("wrong tls"), 587: OK},
        {},
        "failure",
        "smtp.example:465 doesn't speak TLS from the first byte, but port 587 answers: set worker_smtp_port: 587.",
    ),
    "wrong TLS on 2465": (
        2465,
        {2465: SmtpAnswer("wrong tls"), 465: OK, 587: SmtpAnswer("closed")},
        {},
        "failure",
        "smtp.example:2465 speaks TLS from the first byte, which the worker does on port 465 alone, but port 465"
        " answers: set worker_smtp_port: 465.",
    ),
    "no STARTTLS": (
        25,
        {25: SmtpAnswer("no starttls"), 587: OK},
        {},
        "failure",
        "smtp.example:25 offers no STARTTLS, but port 587 answers: set worker_smtp_port: 587.",
    ),
    "busy": (
        587,
        {587: SmtpAnswer("odd", "421 too busy")},
        {},
        "failure",
        "smtp.example:587 answers mail1 oddly (421 too busy): check worker_smtp_host and worker_smtp_port.",
    ),
}


@pytest.mark.parametrize("name", SMTP)
def test_smtp(name: str) -> None:
    port, answers, apis, level, sentence = SMTP[name]
    [verdict] = verdicts.smtp_verdict("mail1", "smtp.example", port, answers, apis, 5.0)
    assert verdict == (level, "smtp", sentence)


def test_a_broken_ipv6_is_a_warning_where_ipv4_works() -> None:
    [good, broken] = verdicts.smtp_verdict("mail1", "smtp.example", 587, {587: SmtpAnswer("ok", "", True)}, {}, 5.0)
    assert good.level == "ok"
    assert broken.level == "warning"
    assert broken.sentence.startswith("mail1 reaches smtp.example:587 by IPv4 alone, while IPv6, which is tried first,")


API: dict[str, tuple[HttpAnswer, str, str]] = {
    "any status": (HttpAnswer("ok", status=404), "ok", "api.resend.com:443 answers mail1."),
    "dropped": (
        HttpAnswer("timeout"),
        "failure",
        "mail1 gets no answer from api.resend.com:443 within 5 s, as where a firewall drops the port: open port 443 for"
        " the host, or correct MAIL_API_URL (resend's API carries the mails).",
    ),
    "untrusted": (
        HttpAnswer("certificate", "unable to get local issuer certificate"),
        "failure",
        "mail1 doesn't trust the certificate of api.resend.com:443 (unable to get local issuer certificate): add its"
        " authority's PEM file to base_ca_certificates (resend's API carries the mails).",
    ),
}


@pytest.mark.parametrize("name", API)
def test_api(name: str) -> None:
    answer, level, sentence = API[name]
    [verdict] = verdicts.api_verdict("mail1", "resend", "api.resend.com:443", answer, 5.0)
    assert verdict == (level, "mail API", sentence)


REDIS: dict[str, tuple[RedisAnswer, list[tuple[str, str]]]] = {
    "well": (
        RedisAnswer("ok", version="7.2.4", max_memory=0, policy="noeviction", persistent=True),
        [("ok", "redis.example:6379 answers mail1, version 7.2.4.")],
    ),
    "tells nothing": (RedisAnswer("ok"), [("ok", "redis.example:6379 answers mail1.")]),
    "evicts": (
        RedisAnswer("ok", version="7.2.4", max_memory=1 << 29, policy="allkeys-lru"),
        [
            (
                "failure",
                "Redis at redis.example:6379 may throw queued mails away when its memory is full (maxmemory-policy is"
                " allkeys-lru): set it to noeviction, or on Upstash turn eviction off.",
            )
        ],
    ),
    "would evict, keeps nothing": (
        RedisAnswer("ok", version="7.2.4", max_memory=0, policy="volatile-ttl", persistent=False),
        [
            ("ok", "redis.example:6379 answers mail1, version 7.2.4."),
            (
                "warning",
                "Redis at redis.example:6379 would, once it has a maxmemory, throw queued mails away when its memory is"
                " full (maxmemory-policy is volatile-ttl): set it to noeviction, or on Upstash turn eviction off.",
            ),
            (
                "warning",
                "Redis at redis.example:6379 keeps nothing on disk, so its restart loses the queue: set appendonly yes"
                " there.",
            ),
        ],
    ),
    "old": (
        RedisAnswer("ok", version="6.0.16", policy="noeviction"),
        [
            (
                "failure",
                "Redis at redis.example:6379 is version 6.0.16, but 6.2 or newer is needed: upgrade it, or set"
                " worker_redis_url to another one.",
            )
        ],
    ),
    "wrong password": (
        RedisAnswer("auth"),
        [
            (
                "failure",
                "Redis at redis.example:6379 refuses the user or password: correct them in worker_redis_url.",
            )
        ],
    ),
    "no password given": (
        RedisAnswer("no password"),
        [("failure", "Redis at redis.example:6379 wants a password: put it into worker_redis_url.")],
    ),
    "other error": (
        RedisAnswer("error", "ERR"),
        [("failure", "Redis at redis.example:6379 refuses ERR: correct worker_redis_url.")],
    ),
    "refused": (
        RedisAnswer("refused"),
        [("failure", "Redis: redis.example:6379 refuses connections from mail1: correct worker_redis_url.")],
    ),
    "dropped": (
        RedisAnswer("timeout"),
        [
            (
                "failure",
                "Redis: mail1 gets no answer from redis.example:6379 within 5 s, as where a firewall drops the port:"
                " correct worker_redis_url's host and port, or let this host through Redis's firewall (a broker of"
                " yours does by site.yml; behind --limit, name brokers, too).",
            )
        ],
    ),
    "TLS alone": (
        RedisAnswer("wrong tls"),
        [
            (
                "failure",
                "Redis at redis.example:6379 speaks TLS alone: begin worker_redis_url with rediss://.",
            )
        ],
    ),
    "loading": (
        RedisAnswer("loading"),
        [
            (
                "warning",
                "Redis at redis.example:6379 is still loading its data: run the playbook again if it goes on.",
            )
        ],
    ),
}


@pytest.mark.parametrize("name", REDIS)
def test_redis(name: str) -> None:
    answer, expected = REDIS[name]
    url = RedisUrl(False, "redis.example", 6379, "default", "s3cret", 0)
    found = verdicts.redis_verdict("mail1", url, answer, 5.0)
    assert [(verdict.level, verdict.sentence) for verdict in found] == expected


def test_redis_without_tls_where_it_is_wanted() -> None:
    url = RedisUrl(True, "redis.example", 6379, "default", "s3cret", 0)
    [verdict] = verdicts.redis_verdict("mail1", url, RedisAnswer("wrong tls"), 5.0)
    assert verdict.sentence == "Redis at redis.example:6379 speaks no TLS: begin worker_redis_url with redis://."


def test_redis_url_that_is_none() -> None:
    [verdict] = verdicts.redis_verdict("mail1", None, RedisAnswer("silent"), 5.0)
    assert verdict.sentence == "worker_redis_url must look like rediss://default:PASSWORD@HOST:6379: correct it."


QUEUE: dict[str, tuple[QueueAnswer | None, list[tuple[str, str]]]] = {
    "Redis won't tell": (None, []),
    "none": (
        QueueAnswer(""),
        [
            (
                "ok",
                "redis.example:6379 has no BullMQ queue bull:mail-queue yet: if the app's has another name, set"
                " worker_bullmq_queue or worker_bullmq_prefix.",
            )
        ],
    ),
    "not for this user": (
        QueueAnswer("", refused=True),
        [
            (
                "failure",
                "Redis at redis.example:6379 refuses the keys of the BullMQ queue bull:mail-queue to its user: correct"
                " worker_bullmq_prefix, or let the user have them (playbooks/redis.yml does, on a broker of yours).",
            )
        ],
    ),
    "empty": (
        QueueAnswer("bullmq:6.7.0", completed=5000),
        [("ok", "redis.example:6379 has the BullMQ queue bull:mail-queue of bullmq:6.7.0, 0 jobs wait.")],
    ),
    "jobs wait": (
        QueueAnswer("bullmq:5.81.5", waiting=12_000),
        [
            (
                "ok",
                "redis.example:6379 has the BullMQ queue bull:mail-queue of bullmq:5.81.5, 12,000 jobs wait, which the"
                " workers send as soon as they run.",
            )
        ],
    ),
    "paused, and nobody removes jobs": (
        QueueAnswer("bullmq:5.81.5", paused=True, waiting=3, completed=250_000),
        [
            ("ok", "redis.example:6379 has the BullMQ queue bull:mail-queue of bullmq:5.81.5, 3 jobs wait."),
            (
                "warning",
                "The BullMQ queue bull:mail-queue is paused: nothing leaves it until the app's queue.resume().",
            ),
            (
                "warning",
                "The BullMQ queue bull:mail-queue keeps 250,000 completed jobs, mails and all, in Redis's memory: bound"
                " them by removeOnComplete in the app, such as { count: 1000 }; where it says nothing, the workers go"
                " by worker_bullmq_keep_completed.",
            ),
        ],
    ),
}


@pytest.mark.parametrize("name", QUEUE)
def test_bullmqs_queue(name: str) -> None:
    answer, expected = QUEUE[name]
    found = verdicts.queue_verdict("redis.example:6379", "bull:mail-queue", answer)
    assert [(verdict.level, verdict.sentence) for verdict in found] == expected
    assert {verdict.about for verdict in found} <= {"bullmq"}


SUPABASE: dict[str, tuple[HttpAnswer, str]] = {
    "well": (HttpAnswer("ok", status=200), "x.example:443 answers mail1, tables campaigns."),
    "not asked": (HttpAnswer("ok"), "x.example:443 answers mail1."),
    "wrong key": (
        HttpAnswer("ok", status=401, message="Invalid API key"),
        "Supabase refuses the key (Invalid API key): correct worker_supabase_secret_key.",
    ),
    "publishable key": (
        HttpAnswer("ok", status=403, code="42501", message="permission denied for table campaigns"),
        "Supabase's key may not read the table campaigns (permission denied for table campaigns): set"
        " worker_supabase_secret_key to the secret key (sb_secret_…).",
    ),
    "no table": (
        HttpAnswer("ok", status=404, code="PGRST205", message="Could not find the table"),
        "Supabase has no table campaigns (Could not find the table): create it, or name yours by"
        " SUPABASE_CAMPAIGNS_TABLE or SUPABASE_RECIPIENTS_TABLE in worker_extra_environment.",
    ),
    "no column": (
        HttpAnswer("ok", status=400, code="42703", message="column campaigns.state does not exist"),
        "Supabase's table campaigns lacks a column (column campaigns.state does not exist): add it, or name yours by"
        " its SUPABASE_…_COLUMN in worker_extra_environment.",
    ),
    "another server": (
        HttpAnswer("ok", status=404),
        "x.example:443 isn't a Supabase project (404): correct worker_supabase_url.",
    ),
    "paused": (
        HttpAnswer("ok", status=540),
        "Supabase at x.example:443 answers 540 for the table campaigns: check that the project isn't paused.",
    ),
    "no such project": (
        HttpAnswer("no name"),
        "Supabase: mail1 finds no address for x.example: check worker_supabase_url, and that the project isn't paused.",
    ),
    "no TLS": (
        HttpAnswer("wrong tls"),
        "Supabase: x.example:443 doesn't speak HTTPS: check worker_supabase_url, and that the project isn't paused.",
    ),
}


@pytest.mark.parametrize("name", SUPABASE)
def test_supabase(name: str) -> None:
    answer, sentence = SUPABASE[name]
    [verdict] = verdicts.supabase_verdict("mail1", "x.example:443", {"campaigns": answer}, 5.0)
    assert verdict == ("ok" if name in ("well", "not asked") else "failure", "supabase", sentence)


def test_a_visitors_key_is_no_secret_one() -> None:
    payload = base64.urlsafe_b64encode(b'{"role":"anon"}').decode().rstrip("=")
    questions = Questions(
        "mail1", supabase_url="http://127.0.0.1:1", supabase_key=f"x.{payload}.x", timeout_seconds=0.1
    )
    [verdict] = ask(questions)
    assert verdict.level == "failure"
    assert verdict.sentence.startswith("worker_supabase_secret_key is the key of the role anon, which row level")
    assert payload not in verdict.sentence


def test_a_slow_lookup() -> None:
    [verdict] = verdicts.lookup_verdict("recipients", ["campaign_id", "subscriber_id"], 227.4)
    assert verdict.level == "warning"
    assert "takes 227 ms" in verdict.sentence
    assert "CREATE INDEX ON recipients (campaign_id, subscriber_id);" in verdict.sentence
    assert verdicts.lookup_verdict("recipients", ["campaign_id", "subscriber_id"], 6.7) == []
    assert verdicts.lookup_verdict("recipients", ["campaign_id", "subscriber_id"], None) == []


def test_what_is_wrong_with_all_tables_is_said_once() -> None:
    answer = HttpAnswer("ok", status=401, message="Invalid API key")
    assert len(verdicts.supabase_verdict("mail1", "x.example:443", {"a": answer, "b": answer}, 5.0)) == 1


def test_names() -> None:
    works = {"pypi.org": Addresses(["192.0.2.1"], [])}
    broken = {"pypi.org": Addresses([], [], ProbeError("no resolver", "Temporary failure in name resolution"))}
    assert [verdict.level for verdict in verdicts.names_verdict("mail1", works, "pypi.org")] == ["ok"]
    [verdict] = verdicts.names_verdict("mail1", broken, "pypi.org")
    assert verdict.level == "warning"
    assert verdict.sentence.startswith("mail1 can't look up pypi.org (Temporary failure in name resolution), where")
    assert verdicts.names_verdict("mail1", {}, "") == []
