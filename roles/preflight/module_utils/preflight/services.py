"""All probes at once, and the verdicts on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from . import verdicts
from .http import HttpAnswer, Url, jwt_role, parse_url, probe_http, probe_lookup, table_path
from .jobs import judge_jobs
from .network import Addresses, Trust, in_parallel, make_trust, resolve_all
from .redis import RedisAnswer, RedisUrl, parse_redis_url, probe_redis
from .smtp import SmtpAnswer, probe_smtp
from .verdict import Verdict, failure, warning

#: The number is of ms (`probe_lookup`).
Answer = SmtpAnswer | HttpAnswer | RedisAnswer | float | None
PUBLISHABLE = "sb_publishable_"
#: https://supabase.com/docs/guides/database/postgres/roles
VISITORS = ("anon", "authenticated")


class Table(NamedTuple):
    """A table and the columns that the worker uses; `lookup` are those by which it finds a row, if that matters."""

    name: str
    columns: list[str]
    lookup: list[str]


@dataclass(frozen=True)
class Questions:
    """What to ask; what is empty isn't asked. The module's documentation describes each."""

    host: str
    smtp_host: str = ""
    smtp_port: int = 465
    smtp_other_ports: list[int] = field(default_factory=list)
    transport: str = "smtp"
    http_providers: dict[str, str] = field(default_factory=dict)
    redis_url: str = field(default="", repr=False)
    bullmq: str = ""
    job_package: str = field(default="", repr=False)
    job_settings: dict[str, object] = field(default_factory=dict)
    supabase_url: str = ""
    supabase_key: str = field(default="", repr=False)
    supabase_tables: list[dict[str, object]] = field(default_factory=list)
    name: str = ""
    ca_certificates: list[str] = field(default_factory=list)
    timeout_seconds: float = 5.0


def ask(questions: Questions) -> list[Verdict]:
    """Looks up all names, then asks all services at once."""
    try:
        trust = make_trust(questions.ca_certificates)
    except ValueError as error:
        return [failure("certificates", f"preflight_ca_certificates: {error}: correct base_ca_certificates.")]
    return _Asking(questions, trust).verdicts()


class _Asking:
    def __init__(self, questions: Questions, trust: Trust) -> None:
        self._questions = questions
        self._trust = trust
        self._seconds = questions.timeout_seconds
        self._redis: RedisUrl | None = parse_redis_url(questions.redis_url)
        self._supabase: Url | None = parse_url(questions.supabase_url)
        self._tables = [_table(table) for table in questions.supabase_tables]
        self._providers = {name: parse_url(url) for name, url in questions.http_providers.items()}
        self._smtp = questions.smtp_host if questions.transport == "smtp" else ""
        self._names: dict[str, Addresses] = {}
        self._answers: dict[str, Answer] = {}

    def verdicts(self) -> list[Verdict]:
        provider = self._providers.get(self._questions.transport)
        hosts = [url.host for url in (self._redis, self._supabase, provider) if url is not None]
        self._names = resolve_all([*hosts, self._smtp, self._questions.name], self._seconds)
        self._answers = in_parallel(
            {**self._smtp_calls(), **self._api_calls([self._questions.transport]), **self._data_calls()},
            3 * self._seconds,
        )
        return [
            *self._trust_verdict(),
            *verdicts.names_verdict(self._questions.host, self._names, self._questions.name),
            *self._smtp_verdict(),
            *self._api_verdict(),
            *self._redis_verdict(),
            *self._supabase_verdict(),
        ]

    def _smtp_calls(self) -> dict[str, Callable[[], Answer]]:
        host = self._smtp
        if not host:
            return {}

        def call(port: int) -> Callable[[], Answer]:
            return lambda: probe_smtp(host, self._names[host], port, self._trust, self._seconds)

        return {f"smtp {port}": call(port) for port in self._ports()}

    def _ports(self) -> list[int]:
        return list(dict.fromkeys([self._questions.smtp_port, *self._questions.smtp_other_ports]))

    def _api_calls(self, names: list[str]) -> dict[str, Callable[[], Answer]]:
        def call(url: Url) -> Callable[[], Answer]:
            return lambda: probe_http(url, self._names[url.host], self._trust, self._seconds)

        urls = {name: self._providers.get(name) for name in names}
        return {f"api {name}": call(url) for name, url in urls.items() if url is not None}

    def _data_calls(self) -> dict[str, Callable[[], Answer]]:
        calls: dict[str, Callable[[], Answer]] = {}
        redis, supabase, key = self._redis, self._supabase, self._questions.supabase_key
        if redis is not None:
            calls["redis"] = lambda: probe_redis(
                redis, self._names[redis.host], self._trust, self._seconds, self._questions.bullmq
            )
        if supabase is not None and not _wrong_key(key):
            url = supabase

            def call(path: str) -> Callable[[], Answer]:
                return lambda: probe_http(url, self._names[url.host], self._trust, self._seconds, path, key)

            for table in self._tables:
                calls[f"table {table.name}"] = call(table_path(table.name, table.columns))
                if len(table.lookup) == 2:
                    calls[f"lookup {table.name}"] = self._lookup_call(url, table, key)
        return calls

    def _lookup_call(self, url: Url, table: Table, key: str) -> Callable[[], Answer]:
        return lambda: probe_lookup(
            url, self._names[url.host], self._trust, self._seconds, table.name, table.lookup, key
        )

    def _trust_verdict(self) -> list[Verdict]:
        if self._trust.complete:
            return []
        return [
            warning(
                "certificates",
                f"{self._questions.host} has no list of certificate authorities yet, so nothing was sent to services"
                " with TLS: the role base installs it (ca-certificates).",
            )
        ]

    def _smtp_verdict(self) -> list[Verdict]:
        if not self._smtp:
            return []
        answers = {port: self._smtp_answer(port) for port in self._ports()}
        apis: dict[str, HttpAnswer] = {}
        if all(answer.kind in verdicts.DROPPED for answer in answers.values()):
            apis = self._ask_apis()
        return verdicts.smtp_verdict(
            self._questions.host, self._smtp, self._questions.smtp_port, answers, apis, self._seconds
        )

    def _ask_apis(self) -> dict[str, HttpAnswer]:
        """Only where no mail port is open: nobody else needs to know of this host."""
        urls = [url for url in self._providers.values() if url is not None]
        self._names.update(resolve_all([url.host for url in urls], self._seconds / 2))
        found = in_parallel(self._api_calls(list(self._providers)), self._seconds)
        return {key[4:]: answer for key, answer in found.items() if isinstance(answer, HttpAnswer)}

    def _api_verdict(self) -> list[Verdict]:
        questions = self._questions
        url = self._providers.get(questions.transport)
        if url is None:
            if questions.transport in questions.http_providers:
                return [failure("mail API", "MAIL_API_URL must look like https://api.example.com: correct it.")]
            return []
        answer = self._answers.get(f"api {questions.transport}")
        answer = answer if isinstance(answer, HttpAnswer) else HttpAnswer("silent")
        address = f"{url.host}:{url.port}"
        return verdicts.api_verdict(questions.host, questions.transport, address, answer, self._seconds)

    def _redis_verdict(self) -> list[Verdict]:
        if not self._questions.redis_url:
            return []
        answer = self._answers.get("redis")
        answer = answer if isinstance(answer, RedisAnswer) else RedisAnswer("silent")
        found = verdicts.redis_verdict(self._questions.host, self._redis, answer, self._seconds)
        if self._redis is None:
            return found
        queue = self._questions.bullmq
        head = answer.queue.head if answer.queue is not None else ()
        jobs = judge_jobs(head, self._questions.job_package, self._questions.job_settings)
        return [
            *found,
            *verdicts.queue_verdict(self._redis.shown, queue, answer.queue),
            *verdicts.jobs_verdict(queue, jobs),
        ]

    def _supabase_verdict(self) -> list[Verdict]:
        questions = self._questions
        if not questions.supabase_url:
            return []
        if self._supabase is None:
            sentence = "worker_supabase_url must look like https://PROJECT.supabase.co: correct it."
            return [failure("supabase", sentence)]
        if kind := _wrong_key(questions.supabase_key):
            return [
                failure(
                    "supabase",
                    f"worker_supabase_secret_key is {kind}: set the secret key (sb_secret_…, or the service_role key of"
                    " old).",
                )
            ]
        found = {table.name: self._answers.get(f"table {table.name}") for table in self._tables}
        answers = {name: one if isinstance(one, HttpAnswer) else HttpAnswer("silent") for name, one in found.items()}
        address = f"{self._supabase.host}:{self._supabase.port}"
        return [
            *verdicts.supabase_verdict(questions.host, address, answers, self._seconds),
            *(
                verdict
                for table in self._tables
                for verdict in verdicts.lookup_verdict(
                    table.name, table.lookup, self._answers.get(f"lookup {table.name}")
                )
            ),
        ]

    def _smtp_answer(self, port: int) -> SmtpAnswer:
        answer = self._answers.get(f"smtp {port}")
        return answer if isinstance(answer, SmtpAnswer) else SmtpAnswer("silent")


def _wrong_key(key: str) -> str:
    """What the key is if it isn't a secret one, or an empty string."""
    if key.startswith(PUBLISHABLE):
        return "a publishable key, which can't write"
    role = jwt_role(key)
    return f"the key of the role {role}, which row level security lets see nothing" if role in VISITORS else ""


def _table(given: dict[str, object]) -> Table:
    columns, lookup = ([str(name) for name in _listed(given.get(key))] for key in ("columns", "lookup"))
    return Table(str(given.get("name", "")), columns, lookup)


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []
