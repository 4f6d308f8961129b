"""From what the probes found to sentences. Pure functions: no I/O, no clock. No sentence holds a secret."""

from __future__ import annotations

from collections.abc import Mapping

from .http import HttpAnswer
from .jobs import JobsAnswer
from .network import Addresses
from .redis import QueueAnswer, RedisAnswer, RedisUrl
from .smtp import IMPLICIT_TLS_PORT, SmtpAnswer
from .verdict import Verdict, failure, listed, ok, warning

#: XAUTOCLAIM came with 6.2.
OLDEST_REDIS = (6, 2)
#: More completed jobs than this, and nobody seems to remove them; as worker/operating/checks.py has it.
UNBOUNDED_JOBS = 5000
TRUST_IT = "add its authority's PEM file to base_ca_certificates"
#: Kinds that a firewall on the way makes.
DROPPED = ("timeout", "unreachable")


def trouble(host: str, server: str, kind: str, words: str, seconds: float) -> str | None:
    """The part that all services share, without the way out; None for kinds of their own."""
    shown = f" ({words})" if words else ""
    return {
        "no name": f"{host} finds no address for {server.rpartition(':')[0]}{shown}",
        "no resolver": f"{host} can't look up {server.rpartition(':')[0]}, because its resolver doesn't answer{shown}",
        "timeout": f"{host} gets no answer from {server} within {seconds:g} s, as where a firewall drops the port",
        "refused": f"{server} refuses connections from {host}",
        "unreachable": f"{host} has no way to {server}{shown}",
        "silent": f"{server} accepts the connection from {host} and then says nothing",
        "closed": f"{server} accepts the connection from {host} and closes it at once",
        "certificate": f"{host} doesn't trust the certificate of {server}{shown}",
        "odd": f"{server} answers {host} oddly{shown}",
    }.get(kind)


def ipv6_verdict(about: str, host: str, server: str, *, dropped: bool) -> list[Verdict]:
    """The worker takes addresses in the system's order, and waits on each for seconds."""
    if not dropped:
        return []
    return [
        warning(
            about,
            f"{host} reaches {server} by IPv4 alone, while IPv6, which is tried first, gets no answer: mend IPv6 on"
            " the host, or switch it off (sysctl net.ipv6.conf.all.disable_ipv6=1).",
        )
    ]


def names_verdict(host: str, names: Mapping[str, Addresses], installs_from: str) -> list[Verdict]:
    """Does the host's resolver work? Each service's own verdict tells what became of its name."""
    addresses = names.get(installs_from)
    if not installs_from or addresses is None:
        return []
    if addresses.problem is None:
        return [ok("names", f"{host} looks up names.")]
    return [
        warning(
            "names",
            f"{host} can't look up {installs_from} ({addresses.problem.words or addresses.problem.kind}), where"
            " releases are installed from: correct its resolver (/etc/resolv.conf), unless it goes by a proxy"
            " (then set preflight_name).",
        )
    ]


def smtp_verdict(
    host: str,
    server: str,
    port: int,
    answers: Mapping[int, SmtpAnswer],
    apis: Mapping[str, HttpAnswer],
    seconds: float,
) -> list[Verdict]:
    """About the port in use; the others are looked at for a way out, and the APIs if no port is one."""
    answer = answers[port]
    name = f"{server}:{port}"
    if answer.kind == "ok":
        tls = "TLS" if port == IMPLICIT_TLS_PORT else "STARTTLS"
        return [
            ok("smtp", f"{name} answers {host} with {tls}."),
            *ipv6_verdict("smtp", host, name, dropped=answer.ipv6_dropped),
        ]
    problem = trouble(host, name, answer.kind, answer.words, seconds) or {
        "no starttls": f"{name} offers no STARTTLS",
        "wrong tls": f"{name} doesn't speak TLS from the first byte"
        if port == IMPLICIT_TLS_PORT
        else f"{name} speaks TLS from the first byte, which the worker does on port 465 alone",
    }.get(answer.kind, f"{name} doesn't answer {host} ({answer.kind})")
    return [failure("smtp", f"{problem}{_way_out(host, port, answers, apis)}")]


def _way_out(host: str, port: int, answers: Mapping[int, SmtpAnswer], apis: Mapping[str, HttpAnswer]) -> str:
    others = [other for other, answer in answers.items() if other != port and answer.kind == "ok"]
    if others:
        # STARTTLS on 587 is what providers support best (RFC 6409).
        best = 587 if 587 in others else others[0]
        return f", but port {best} answers: set worker_smtp_port: {best}."
    kind = answers[port].kind
    if kind == "no name":
        return ": correct worker_smtp_host."
    if kind == "no resolver":
        return ": correct the host's resolver (/etc/resolv.conf)."
    if kind == "certificate":
        return f": set worker_smtp_host to the name in the certificate, or {TRUST_IT}."
    tried = [str(other) for other in sorted(answers) if other != port]
    many = len(tried) > 1
    nothing = f", and port{'s' * many} {listed(tried)} {'don' if many else 'doesn'}'t work either" if tried else ""
    if not all(answer.kind in DROPPED for answer in answers.values()):
        return f"{nothing}: check worker_smtp_host and worker_smtp_port."
    reachable = [name for name, answer in apis.items() if answer.kind == "ok"]
    if reachable:
        keys = listed([f"worker_{name}_api_key" for name in reachable], "or")
        return f"{nothing}, but a provider's HTTP API passes from there: set {keys} (docs/providers.md)."
    return f"{nothing}: ask the VPS's provider to open port 587, or let the mails leave by HTTP (docs/providers.md)."


def api_verdict(host: str, provider: str, address: str, answer: HttpAnswer, seconds: float) -> list[Verdict]:
    """Any status is an answer: `mail-worker check` tries the key later."""
    if answer.kind == "ok":
        return [
            ok("mail API", f"{address} answers {host}."),
            *ipv6_verdict("mail API", host, address, dropped=answer.ipv6_dropped),
        ]
    problem = trouble(host, address, answer.kind, answer.words, seconds) or f"{address} doesn't speak HTTPS"
    way_out = TRUST_IT if answer.kind == "certificate" else "open port 443 for the host, or correct MAIL_API_URL"
    return [failure("mail API", f"{problem}: {way_out} ({provider}'s API carries the mails).")]


def redis_verdict(host: str, url: RedisUrl | None, answer: RedisAnswer, seconds: float) -> list[Verdict]:
    """Reachable, logged in, new enough, and keeping what it's given."""
    if url is None:
        return [failure("redis", "worker_redis_url must look like rediss://default:PASSWORD@HOST:6379: correct it.")]
    server = url.shown
    if answer.kind != "ok":
        return [_redis_trouble(host, url, answer, seconds)]
    verdicts = ipv6_verdict("redis", host, server, dropped=answer.ipv6_dropped)
    if answer.version and _version(answer.version) < OLDEST_REDIS:
        needed = ".".join(map(str, OLDEST_REDIS))
        verdicts.append(
            failure(
                "redis",
                f"Redis at {server} is version {answer.version}, but {needed} or newer is needed: upgrade it, or set"
                " worker_redis_url to another one.",
            )
        )
    if answer.policy not in (None, "noeviction"):
        evicts = (
            f"Redis at {server} {{}} throw queued mails away when its memory is full (maxmemory-policy is"
            f" {answer.policy}): set it to noeviction, or on Upstash turn eviction off."
        )
        if answer.max_memory:
            verdicts.append(failure("redis", evicts.format("may")))
        else:
            verdicts.append(warning("redis", evicts.format("would, once it has a maxmemory,")))
    if answer.persistent is False:
        verdicts.append(
            warning(
                "redis",
                f"Redis at {server} keeps nothing on disk, so its restart loses the queue: set appendonly yes there.",
            )
        )
    if any(verdict.level == "failure" for verdict in verdicts):
        return verdicts
    version = f", version {answer.version}" if answer.version else ""
    return [ok("redis", f"{server} answers {host}{version}."), *verdicts]


def _redis_trouble(host: str, url: RedisUrl, answer: RedisAnswer, seconds: float) -> Verdict:
    server = url.shown
    if answer.kind == "loading":
        return warning("redis", f"Redis at {server} is still loading its data: run the playbook again if it goes on.")
    problem = trouble(host, server, answer.kind, answer.words, seconds)
    way_out = {
        "no resolver": "correct the host's resolver (/etc/resolv.conf)",
        "certificate": TRUST_IT,
        "timeout": (
            "correct worker_redis_url's host and port, or let this host through Redis's firewall (a broker of yours"
            " does by site.yml; behind --limit, name brokers, too)"
        ),
        "wrong tls": f"begin worker_redis_url with {'redis' if url.tls else 'rediss'}://",
        "auth": "correct them in worker_redis_url",
        "no password": "put it into worker_redis_url",
        "no database": "correct the end of worker_redis_url",
    }.get(answer.kind, "correct worker_redis_url")
    own = {
        "wrong tls": "speaks no TLS" if url.tls else "speaks TLS alone",
        "auth": "refuses the user or password",
        "no password": "wants a password",
        "no database": f"refuses the login, or has no database {url.database}",
    }.get(answer.kind, f"refuses {answer.words or answer.kind}")
    return failure("redis", f"{f'Redis: {problem}' if problem else f'Redis at {server} {own}'}: {way_out}.")


def queue_verdict(server: str, queue: str, answer: QueueAnswer | None) -> list[Verdict]:
    """What of the queue is good to know before workers take its jobs; only a lack of rights is a reason not to."""
    if answer is None:
        return []
    if answer.refused:
        return [
            failure(
                "bullmq",
                f"Redis at {server} refuses the keys of the BullMQ queue {queue} to its user: correct"
                " worker_bullmq_prefix, or let the user have them (playbooks/redis.yml does, on a broker of yours).",
            )
        ]
    if not answer.version:
        return [
            ok(
                "bullmq",
                f"{server} has no BullMQ queue {queue} yet: if the app's has another name, set worker_bullmq_queue or"
                " worker_bullmq_prefix.",
            )
        ]
    begin = ", which the workers send as soon as they run" if answer.waiting and not answer.paused else ""
    verdicts = [
        ok("bullmq", f"{server} has the BullMQ queue {queue} of {answer.version}, {answer.waiting:,} jobs wait{begin}.")
    ]
    if answer.paused:
        verdicts.append(
            warning("bullmq", f"The BullMQ queue {queue} is paused: nothing leaves it until the app's queue.resume().")
        )
    if answer.completed > UNBOUNDED_JOBS:
        verdicts.append(
            warning(
                "bullmq",
                f"The BullMQ queue {queue} keeps {answer.completed:,} completed jobs, mails and all, in Redis's memory:"
                " bound them by removeOnComplete in the app, such as { count: 1000 }; where it says nothing, the"
                " workers go by worker_bullmq_keep_completed.",
            )
        )
    return verdicts


def jobs_verdict(queue: str, answer: JobsAnswer | None) -> list[Verdict]:
    """What would become of the first jobs: said before the first one is sent, but no reason not to begin."""
    if answer is None:
        return []
    found: list[Verdict] = []
    if answer.refused:
        found.append(
            warning(
                "bullmq",
                f"{len(answer.refused)} of the first {answer.read} jobs in the BullMQ queue {queue} would be refused"
                f" ({answer.refused[0]}): mend the app, or name its fields with worker_job_fields (docs/jobs.md).",
            )
        )
    if answer.unsent:
        found.append(
            warning(
                "bullmq",
                f"The jobs in the BullMQ queue {queue} hold {', '.join(answer.unsent[:10])}, which isn't sent:"
                " see docs/jobs.md.",
            )
        )
    if answer.unfilled:
        found.append(
            warning(
                "bullmq",
                f"Mails of the jobs in the BullMQ queue {queue} hold {', '.join(answer.unfilled[:10])}, which goes out"
                " as it stands: fill it in in the app, or set worker_placeholders (docs/jobs.md).",
            )
        )
    return found


def _version(text: str) -> tuple[int, ...]:
    numbers = [part for part in text.split(".")[:2] if part.isdigit()]
    return tuple(map(int, numbers))


#: With an index on both columns it's below 10 ms among millions of rows.
SLOW_LOOKUP_MS = 100.0


def supabase_verdict(host: str, address: str, answers: Mapping[str, HttpAnswer], seconds: float) -> list[Verdict]:
    """`answers` by table. What is wrong with all of them is said once."""
    verdicts: list[Verdict] = []
    for table, answer in answers.items():
        verdict = _table_verdict(host, address, table, answer, seconds)
        if verdict is not None and verdict not in verdicts:
            verdicts.append(verdict)
    if verdicts:
        return verdicts
    # None where the certificate couldn't be checked, and so no key was sent.
    tables = listed([table for table, answer in answers.items() if answer.status])
    dropped = any(answer.ipv6_dropped for answer in answers.values())
    return [
        ok("supabase", f"{address} answers {host}{f', tables {tables}' if tables else ''}."),
        *ipv6_verdict("supabase", host, address, dropped=dropped),
    ]


def lookup_verdict(table: str, columns: list[str], milliseconds: object) -> list[Verdict]:
    """What finding a campaign's recipients takes; nothing where it isn't known, or well."""
    if not isinstance(milliseconds, float) or milliseconds <= SLOW_LOOKUP_MS:
        return []
    return [
        warning(
            "supabase",
            f"Finding recipients of a campaign in {table} takes {milliseconds:.0f} ms, and each update does it: CREATE"
            f" INDEX ON {table} ({', '.join(columns)}); makes that a few.",
        )
    ]


def _table_verdict(host: str, address: str, table: str, answer: HttpAnswer, seconds: float) -> Verdict | None:
    if answer.kind != "ok":
        problem = trouble(host, address, answer.kind, answer.words, seconds) or f"{address} doesn't speak HTTPS"
        way_out = (
            TRUST_IT if answer.kind == "certificate" else "check worker_supabase_url, and that the project isn't paused"
        )
        return failure("supabase", f"Supabase: {problem}: {way_out}.")
    if answer.status in (0, 200, 206):
        return None
    said = f" ({answer.message})" if answer.message else ""
    if answer.code == "42501":
        sentence = f"Supabase's key may not read the table {table}{said}: set worker_supabase_secret_key to the secret"
        return failure("supabase", f"{sentence} key (sb_secret_…).")
    if answer.status in (401, 403):
        return failure("supabase", f"Supabase refuses the key{said}: correct worker_supabase_secret_key.")
    if answer.code in ("PGRST205", "42P01"):
        sentence = f"Supabase has no table {table}{said}: create it, or name yours by SUPABASE_CAMPAIGNS_TABLE or"
        return failure("supabase", f"{sentence} SUPABASE_RECIPIENTS_TABLE in worker_extra_environment.")
    if answer.code in ("42703", "PGRST204"):
        sentence = f"Supabase's table {table} lacks a column{said}: add it, or name yours by its SUPABASE_…_COLUMN in"
        return failure("supabase", f"{sentence} worker_extra_environment.")
    if answer.status == 404:
        return failure("supabase", f"{address} isn't a Supabase project (404): correct worker_supabase_url.")
    sentence = f"Supabase at {address} answers {answer.status}{said} for the table {table}"
    return failure("supabase", f"{sentence}: check that the project isn't paused.")
