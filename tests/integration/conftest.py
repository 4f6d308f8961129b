"""The real services, and the worker's programs as processes of their own. `make integration` and `make hosts` start the
services."""

import itertools
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import Any, Protocol, cast

import psycopg
import pytest
import redis

from demo.campaign import Campaign
from testbed.app import App, Major
from testbed.instance import Instance
from testbed.services import Services
from tests.integration.consumers import Consumer, MakeConsumer, was_here
from tests.integration.programs import Programs
from worker.base.redis_client import CountingRedis, connect_async
from worker.base.settings import Secret
from worker.queue.producer import enqueue

#: Of the test bed; the tests on hosts run beside the others, with services of their own.
INSTANCE = os.environ.get("TESTBED_INSTANCE", "test")
PROGRAMS = pytest.StashKey[Programs]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Shows what a failed test's programs printed."""
    report = yield
    if report.failed and (programs := item.stash.get(PROGRAMS, None)):
        report.sections.append(("the programs", programs.printed()))
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks those that need VPSes."""
    for item in items:
        if isinstance(item, pytest.Function) and "instance" in item.fixturenames:
            item.add_marker(pytest.mark.hosts)


class MakeCampaign(Protocol):
    """The fixture `make_campaign`."""

    def __call__(self, recipients: int, *, busy: bool = False) -> Campaign: ...


@pytest.fixture(scope="session")
def instance() -> Instance:
    return Instance(INSTANCE)


@pytest.fixture(scope="session")
def services() -> Services:
    return Services.load(INSTANCE)


@pytest.fixture
def queue(services: Services) -> Iterator[redis.Redis]:
    """Redis, empty."""
    with redis.Redis.from_url(services.redis_url) as client:
        client.flushall()
        yield client


@pytest.fixture
def database(services: Services) -> Iterator["psycopg.Connection[tuple[object, ...]]"]:
    with psycopg.connect(services.database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def unindexed(
    make_campaign: MakeCampaign, services: Services, database: "psycopg.Connection[tuple[object, ...]]"
) -> Iterator[str]:
    """The name of a table of recipients in which looking up some takes its time, as without an index."""
    make_campaign(500)
    database.execute(
        "CREATE VIEW unindexed AS SELECT found.* FROM (SELECT pg_sleep(0.3)) AS sleep, campaign_subscribers AS found;"
        "GRANT SELECT ON unindexed TO service_role"
    )
    services.control("postgrest", "restart")
    yield "unindexed"
    database.execute("DROP VIEW unindexed")
    services.control("postgrest", "restart")


@pytest.fixture
def make_campaign(services: Services, tmp_path: Path) -> MakeCampaign:
    """Makes a campaign of so many recipients: its rows in the database, its jobs in jobs.jsonl."""

    def make(recipients: int, *, busy: bool = False) -> Campaign:
        campaign = Campaign.invent(recipients, busy=busy)
        campaign.insert(services.database_url)
        campaign.write_jobs(tmp_path / "jobs.jsonl")
        return campaign

    return make


@pytest.fixture(scope="session")
def bytecode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where programs find their bytecode, as on a host; and nothing of root's gets into a user's checkout."""
    directory = tmp_path_factory.mktemp("bytecode")
    environment = {"PATH": "/usr/bin:/bin", "PYTHONOPTIMIZE": "2", "PYTHONPYCACHEPREFIX": str(directory)}
    subprocess.run([sys.executable, "-m", "worker.bytecode"], env=environment, check=True)
    return directory


@pytest.fixture
def environment(services: Services, bytecode: Path) -> dict[str, str]:
    """A right environment for the worker, by the names that users of the old worker have."""
    return {
        "UPSTASH_REDIS_URL": services.redis_url,
        "NEXT_PUBLIC_SUPABASE_URL": services.supabase_url,
        "SUPABASE_SERVICE_ROLE_KEY": services.supabase_secret_key,
        "SMTP_HOST": services.smtp_host,
        "SMTP_PORT": str(services.smtp_port),
        "SMTP_USER": services.smtp_user,
        "SMTP_PASS": services.smtp_password,
        "MAIL_FROM": "The tests <news@testbed.example>",
        "SSL_CERT_FILE": str(services.ca_file),
        "PATH": "/usr/bin:/bin",
        "PYTHONOPTIMIZE": "2",
        "PYTHONPYCACHEPREFIX": str(bytecode),
    }


@pytest.fixture
def programs(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    environment: dict[str, str],
    queue: redis.Redis,
    services: Services,
) -> Iterator[Programs]:
    """Starts programs; ends them after the test, and reads what they printed for what must never be there."""
    programs = Programs(tmp_path, environment)
    request.node.stash[PROGRAMS] = programs
    try:
        yield programs
    finally:
        programs.end()
    printed = programs.printed()
    for secret in (services.redis_password, services.supabase_secret_key, services.smtp_password):
        assert secret not in printed
    assert "Traceback" not in printed


@pytest.fixture(params=[5, 6])
def major(request: pytest.FixtureRequest) -> Major:
    """Of the npm package that the app uses."""
    return cast("Major", request.param)


@pytest.fixture
def app(services: Services, queue: redis.Redis, major: Major) -> Iterator[App]:
    """A web app with a BullMQ queue, on an empty Redis."""
    was_here(queue)
    with App(major, services.redis_url) as app:
        yield app


@pytest.fixture(params=["dramatiq", "bullmq"])
def put(request: pytest.FixtureRequest, queue: redis.Redis, app: App) -> Any:
    """Queues jobs, in either queue, as an app does that checks nothing."""

    def put(jobs: list[dict[str, Any]]) -> None:
        if request.param == "dramatiq":
            for _ in enqueue(queue, iter(jobs)):
                pass
        else:
            app.ask("addBulk", jobs=[{"name": "email", "data": job} for job in jobs])

    return put


@pytest.fixture
async def client(services: Services) -> AsyncIterator[CountingRedis]:
    client = connect_async(Secret(services.redis_url), 4)
    yield client
    await client.aclose()


@pytest.fixture
def process(client: CountingRedis) -> MakeConsumer:
    """Makes a worker process; each has a name of its own."""
    numbers = itertools.count(1)
    return lambda **options: Consumer(client, f"p{next(numbers)}", **options)
