"""`playbooks/redis.yml` on a bare VPS of its own: who may come in and do what, what a crash loses, and a restore."""

import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from secrets import token_hex
from types import SimpleNamespace
from typing import Any, Literal, cast

import pytest
import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError
from redis.retry import Retry

from preflight.network import Addresses, make_trust
from preflight.redis import RedisUrl, parse_redis_url, probe_redis
from testbed.app import App, AppError
from testbed.instance import Instance
from testbed.paths import CHECKOUT
from testbed.services import Services
from tests.integration.consumers import BULLMQ, Consumer, add, job, was_here
from tests.integration.playbooks import EMPTY, run_playbook
from tests.integration.test_dramatiq import Fleet
from worker.base import keys
from worker.base.redis_client import connect, connect_async
from worker.base.settings import JobSettings, Secret, Settings
from worker.ledger.ledger import Entry, LedgerOptions, RedisLedger, Verdict
from worker.mail.jobs import Defaults
from worker.mail.outcomes import Failed, Sent
from worker.operating.checks import check_bullmq, check_redis
from worker.queue import bullmq
from worker.queue.producer import enqueue
from worker.watching.host import Broker as BrokerLine

pytestmark = pytest.mark.hosts

HOST = "mail1"
PATIENCE_SECONDS = 30.0
NEVER_AGAIN = Retry(NoBackoff(), 0)
PASSWORDS = {f"redis_{user}_password": token_hex(16) for user in ("worker", "app", "admin", "backup")}


class Broker:
    """The VPS, with what a user's inventory says about it."""

    def __init__(self, instance: Instance, directory: Path) -> None:
        inventory = json.loads((instance.directory / "hosts.yml").read_text(encoding="utf-8"))
        host = inventory["mail_workers"]["hosts"][HOST]
        self._instance = instance
        self._directory = directory
        self.address = str(host["ansible_host"])
        self.ca_file = directory / "ca" / f"{HOST}.crt"
        # The network's own address is what this machine's connections come from.
        gateway = f"{self.address.rpartition('.')[0]}.1"
        host |= {
            **PASSWORDS,
            "redis_client_addresses": [gateway],
            "redis_ca_directory": str(self.ca_file.parent),
            # A container shows its host's RAM.
            "redis_ram_mb": 960,
        }
        self._inventory = directory / "hosts.yml"
        self._inventory.write_text(json.dumps({"brokers": {"hosts": {HOST: host}}}), encoding="utf-8")

    def play(self, playbook: str, *options: str, **variables: object) -> str:
        """Runs a playbook, expects it to end well and to show no password; returns what it printed."""
        done = run_playbook(playbook, [self._inventory], self._directory, variables, *options)
        printed = done.stdout + done.stderr
        for password in (*PASSWORDS.values(), *map(str, variables.values())):
            assert len(password) < 24 or password not in printed
        assert done.returncode == 0, printed[-8000:]
        return printed

    def run(self, command: str) -> "subprocess.CompletedProcess[str]":
        """Runs a command as root."""
        return self._instance.output(HOST, ["bash", "-c", command])

    def says(self, command: str) -> str:
        """What a command that succeeds prints."""
        done = self.run(command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def url(self, user: str) -> Secret:
        return Secret(f"rediss://{user}:{PASSWORDS[f'redis_{user}_password']}@{self.address}:6379")

    def until(self, condition: Callable[[], object]) -> None:
        """Waits for Redis to be back and `condition` to hold."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                if condition():
                    return
            except redis.ConnectionError:
                pass
            assert time.monotonic() < deadline, self.says("journalctl -u redis-server --no-pager | tail -n 60")
            time.sleep(0.1)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A bare VPS; the first run made it a broker, the second one changed nothing."""
    instance = Instance("redis")
    instance.down()
    try:
        instance.up(vps=1, suite="trixie", services=False, mail_delay_ms=0, say=lambda _: None)
        broker = Broker(instance, tmp_path_factory.mktemp("broker"))
        broker.play("playbooks/redis.yml", "--diff", "-vvv")
        second = broker.play("playbooks/redis.yml", "--diff")
        [recap] = [line for line in second.splitlines() if line.startswith(f"{HOST} ") and "ok=" in line]
        assert "changed=0 " in recap, second[-8000:]
        yield broker
    finally:
        instance.down()


@pytest.fixture(autouse=True)
def trust(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a host trusts it by base_ca_certificates."""
    monkeypatch.setenv("SSL_CERT_FILE", str(broker.ca_file))
    monkeypatch.setenv("NODE_EXTRA_CA_CERTS", str(broker.ca_file))


@pytest.fixture
def worker(broker: Broker) -> Iterator["redis.Redis"]:
    with connect(broker.url("worker")) as client:
        yield client


@pytest.fixture
def app(broker: Broker) -> Iterator["redis.Redis"]:
    with connect(broker.url("app")) as client:
        yield client


def test_without_brokers_one_sentence_says_so(tmp_path: Path) -> None:
    done = run_playbook("playbooks/redis.yml", [EMPTY], tmp_path, {})
    assert done.returncode != 0
    assert "The inventory has no hosts in the group brokers: put the VPS" in " ".join(done.stdout.split())


def test_plain_text_is_no_way_in(broker: Broker) -> None:
    with (
        redis.Redis(host=broker.address, socket_timeout=3, retry=NEVER_AGAIN) as client,
        pytest.raises(redis.ConnectionError),
    ):
        client.ping()


def test_only_the_named_addresses_reach_it(broker: Broker) -> None:
    rules = broker.says("nft list chain inet host_firewall input")
    [rule] = [line for line in rules.splitlines() if "6379" in line]
    assert rule.split()[:2] == ["ip", "saddr"]


def test_the_authority_is_good_for_the_brokers_names_alone(broker: Broker, tmp_path: Path) -> None:
    """Whoever takes the broker over has its authority's key, and mustn't be Supabase for the mail workers."""
    script = """
        cd "$(mktemp -d)"
        openssl req -newkey rsa:2048 -nodes -keyout k -out r -subj /CN=x -addext subjectAltName=DNS:project.supabase.co
        openssl x509 -req -in r -CA /etc/mail-broker/tls/ca.crt -CAkey /etc/mail-broker/tls/ca.key -copy_extensions copy
    """
    forged = tmp_path / "forged.pem"
    forged.write_text(broker.says(f"({script}) 2>/dev/null"), encoding="utf-8")
    done = subprocess.run(
        ["openssl", "verify", "-CAfile", broker.ca_file, forged], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "permitted subtree violation" in done.stdout + done.stderr


def test_whoever_isnt_a_user_may_do_nothing(broker: Broker) -> None:
    def client(**login: str) -> "redis.Redis":
        return redis.Redis(
            host=broker.address, ssl=True, ssl_ca_certs=str(broker.ca_file), retry=NEVER_AGAIN, **cast(Any, login)
        )

    for login in ({}, {"password": PASSWORDS["redis_worker_password"]}, {"username": "worker", "password": "wrong"}):
        with client(**login) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()


def test_another_authoritys_client_refuses_the_broker(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", ssl.get_default_verify_paths().openssl_cafile)
    with connect(broker.url("worker")) as client, pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY"):
        client.ping()


def test_it_keeps_everything(broker: Broker) -> None:
    info = broker.says("redis-admin INFO")
    for line in ("aof_enabled:1", "maxmemory_policy:noeviction", "maxmemory:268435456"):
        assert line in info.split()
    assert "everysec" in broker.says("redis-admin CONFIG GET appendfsync")


async def test_the_worker_does_its_work(broker: Broker, app: "redis.Redis", worker: "redis.Redis") -> None:
    settings = cast(Settings, SimpleNamespace(redis_url=broker.url("worker")))
    assert check_redis(settings).startswith(f"{broker.address}:6379, version ")
    # Given a job by the app and one by Dramatiq's own producer,
    fleet = Fleet(cast(Services, SimpleNamespace(redis_url=broker.url("worker"))), worker)
    seen: list[int] = []

    async def send_mail(job: dict[str, int]) -> None:
        seen.append(job["number"])

    actor = fleet.actor(send_mail)
    assert list(enqueue(app, iter([{"number": 1}]))) == [1]
    actor.send({"number": 2})
    actor.send_with_options(args=({"number": 3},), delay=200)
    # when a worker runs, with a dead one to clear up behind,
    worker.zadd(keys.ALIVE, {"dead": 0})
    worker.sadd(keys.fetched("dead"), "gone")
    async with fleet.worker(dead_after_seconds=4):
        # then it does them all.
        await fleet.until(lambda: sorted(seen) == [1, 2, 3] and fleet.left() == 0)
        await fleet.until(lambda: worker.zscore(keys.ALIVE, "dead") is None)


async def test_the_worker_keeps_its_ledger(broker: Broker, worker: "redis.Redis") -> None:
    client = connect_async(broker.url("worker"), 2)
    worker.zadd(keys.ALIVE, {"p": time.time() * 1000})
    ledger, mail = RedisLedger(client, "p", "account", LedgerOptions()), Entry("c", "s", "message")
    assert await ledger.claim(mail, "p:1") == (Verdict.CLAIMED, 0)
    await ledger.record(mail, "p:1", Sent("250"))
    assert await ledger.claim(mail, "p:2") == (Verdict.DONE, 0)
    await client.aclose()
    # The recorder's commands.
    worker.xgroup_create(keys.OUTBOX, "database", id="0", mkstream=True)
    entries: Any = worker.xreadgroup("database", "r", {keys.OUTBOX: ">"}, count=10)
    worker.xautoclaim(keys.OUTBOX, "database", "r", 0)
    with worker.pipeline(transaction=True) as pipeline:
        pipeline.xack(keys.OUTBOX, "database", entries[0][1][0][0])
        pipeline.xdel(keys.OUTBOX, entries[0][1][0][0])
        pipeline.execute()
    assert list(worker.scan_iter(match="mail:*"))


FORBIDDEN = (
    "FLUSHALL",
    "FLUSHDB",
    "CONFIG SET maxmemory-policy allkeys-lru",
    "CONFIG GET *",
    "ACL LIST",
    "SHUTDOWN",
    "CLIENT KILL TYPE normal",
    "REPLICAOF NO ONE",
    "SCRIPT FLUSH",
    "MODULE LIST",
    "SET foreign 1",
    "PUBLISH channel 1",
)


@pytest.mark.parametrize("user", ["worker", "app"])
def test_clients_may_not_command_the_broker(broker: Broker, user: str) -> None:
    with connect(broker.url(user)) as client:
        for command in FORBIDDEN:
            with pytest.raises(NoPermissionError):
                client.execute_command(*command.split())


def test_the_app_sees_its_queue_alone(app: "redis.Redis") -> None:
    for command in ("HGETALL mail:ledger:c", "LRANGE mail:outbox 0 -1", "KEYS *", "SCAN 0", "DEL mail:control"):
        with pytest.raises(NoPermissionError):
            app.execute_command(*command.split())  # type: ignore[no-untyped-call]
    with pytest.raises(redis.ResponseError, match="permission"):
        app.eval("return redis.call('HGETALL', 'mail:ledger:c')", 0)
    app.info("server")


async def test_the_app_and_the_workers_share_bullmqs_queue(
    broker: Broker, worker: "redis.Redis", major: Literal[5, 6]
) -> None:
    was_here(worker)
    name = bullmq.worker_client_name(BULLMQ, "p")
    client = connect_async(broker.url("worker"), 2, shown_as=name)
    process = Consumer(client, "p")
    with App(major, broker.url("app")) as app:
        # When a process takes, sends, fails, puts off and gives back,
        add(app, 4)
        sent, failed, late, returned = await process.take()
        campaign = f"c{major}"
        await process.send(sent, "0", campaign)
        assert await process.claim(failed, "1", campaign) is Verdict.CLAIMED
        await process.record(failed, Failed("550 no"), "1", campaign)
        await process.settle(bullmq.delay(late, 60_000, spent=True, reason="busy", slow_downs=0))
        await process.settle(bullmq.back(returned, None))
        await process.beat(idle=True)
        # then the app sees it, and who did it;
        counts = app.ask("counts", types=["completed", "failed", "delayed", "waiting"])
        assert [counts[state] for state in ("completed", "failed", "delayed", "waiting")] == [1, 1, 1, 1]
        assert name in {one["rawname"] for one in app.ask("workers")}
        assert await process.jobs.listen() is not None
        # and an operator sees the app's workers.
        app.ask("worker")
        settings = SimpleNamespace(
            redis_url=broker.url("worker"), bullmq=BULLMQ, jobs=JobSettings(Defaults(), {}, makes_text=True)
        )
        found = check_bullmq(cast(Settings, settings))
        assert found.startswith(f"{BULLMQ} of bullmq:{major}.")
        assert "others work on it too" in found
        app.ask("workerClose")
        looked = probe_redis(
            cast(RedisUrl, parse_redis_url(broker.url("worker"))),
            Addresses([broker.address], []),
            make_trust([broker.ca_file.read_text(encoding="ascii")]),
            5.0,
            BULLMQ,
        ).queue
        assert looked is not None
        assert looked.version.startswith(f"bullmq:{major}.")
        app.ask("obliterate", force=True)
    await client.aclose()


def test_bullmq_does_all_that_an_app_wants(broker: Broker, major: Literal[5, 6]) -> None:
    with App(major, broker.url("app")) as app:
        app.ask("listen")
        app.ask("pause")
        app.ask("add", name="high", data={}, opts={"priority": 1, "deduplication": {"id": "d"}})
        child = {**job(1), "queueName": "mail-queue"}
        app.ask("addFlow", tree={"name": "parent", "queueName": "mail-queue", "data": {}, "children": [child]})
        app.ask("upsertJobScheduler", id="nightly", repeat={"every": 100}, template={"name": "report", "data": {}})
        app.ask("setGlobalRateLimit", max=100, duration=1000)
        app.ask("resume")
        app.ask("worker")
        late = app.ask("add", name="late", data={}, opts={"delay": 10, "attempts": 2})
        app.ask("waitUntilFinished", id=late, timeoutMs=20_000)
        app.ask("workerClose")
        app.ask("removeJobScheduler", id="nightly")
        app.ask("worker", result="fail")
        lost = app.ask("add", name="lost", data={})
        with pytest.raises(AppError, match="refused"):
            app.ask("waitUntilFinished", id=lost, timeoutMs=20_000)
        app.ask("workerClose")
        app.ask("retry", id=lost)
        app.ask("remove", id=lost)
        for done in ("completed", "failed"):
            app.ask("clean", type=done, grace=0, limit=1000)
        app.ask("drain", delayed=True)
        app.ask("obliterate", force=True)
        assert set(app.ask("counts", types=[]).values()) == {0}


async def test_a_worker_without_bullmqs_queue_may_work(broker: Broker) -> None:
    client = connect_async(broker.url("worker"), 2)
    process = Consumer(client, "without", bullmq="")
    assert (await process.fetch()).jobs == []
    await process.beat(idle=True)
    await process.messages.leave()
    await client.aclose()


def test_no_password_is_on_the_host(broker: Broker) -> None:
    broker.says("sync")
    for password in PASSWORDS.values():
        # Not in the words of this very command either.
        first, second = password[:16], password[16:]
        found = broker.run(f'a={first}; grep -rlF "$a"{second} /etc /home /opt /root /tmp /usr/local /var')
        assert (found.returncode, found.stdout) == (1, "")


def test_a_kill_loses_nothing_confirmed(broker: Broker, worker: "redis.Redis") -> None:
    broker.says("redis-admin CONFIG SET appendfsync always")
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, broker.url("worker")],
        cwd=CHECKOUT,
        env={**os.environ, "SSL_CERT_FILE": str(broker.ca_file)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    for _ in range(200):
        writer.stdout.readline()
    killed = broker.says("redis-admin INFO server | grep ^run_id")
    broker.says("kill -9 $(systemctl show --value --property MainPID redis-server)")
    rest, _ = writer.communicate(timeout=PATIENCE_SECONDS)
    confirmed = int(rest.split()[-1]) if rest.split() else 200
    broker.until(lambda: worker.ping())
    assert broker.says("redis-admin INFO server | grep ^run_id") != killed
    stored: Any = worker.llen("mail:test")
    assert stored >= confirmed >= 200
    # Transactions came back whole.
    assert worker.hget("mail:counts:test", "s") == str(stored).encode()
    worker.delete("mail:test", "mail:counts:test")
    broker.says("redis-admin CONFIG SET appendfsync everysec")
    assert "everysec" in broker.says("redis-admin CONFIG GET appendfsync")


#: Prints each number after Redis has confirmed it.
WRITER = """
import sys
import redis
from worker.base.redis_client import connect
client = connect(sys.argv[1])
try:
    while True:
        with client.pipeline(transaction=True) as pipeline:
            pipeline.hincrby("mail:counts:test", "s", 1)
            pipeline.rpush("mail:test", "x")
            print(pipeline.execute()[1], flush=True)
except redis.RedisError:
    pass
"""


def test_backup_wipe_restore(broker: Broker, app: "redis.Redis", worker: "redis.Redis") -> None:
    # Given a queue and a ledger, and a backup of them,
    list(enqueue(app, iter([{"number": number} for number in range(1000)])))
    worker.hset(keys.ledger("backup"), mapping={f"s{number}": "s" for number in range(1000)})
    worker.set("mail:dead:soon", "ends", ex=3600)
    waiting, messages = worker.lrange(keys.WAITING, 0, -1), worker.hgetall(keys.MESSAGES)
    assert broker.run("systemctl start redis-backup").returncode == 0
    backup = broker.says("ls /var/backups/redis/redis-*.rdb | tail -n 1")
    assert broker.says(f"stat -c '%a %U' {backup} $(dirname {backup})").split() == ["600", "root", "700", "root"]
    # when all is wiped out and something new has come,
    broker.says("redis-admin FLUSHALL")
    list(enqueue(app, iter([{"number": -1}])))
    # then a damaged file changes nothing,
    broker.says(f"head -c 2000 {backup} > /tmp/damaged.rdb")
    damaged = broker.run("redis-restore /tmp/damaged.rdb")
    assert damaged.returncode != 0
    assert "is no whole backup; nothing was changed." in damaged.stderr
    assert worker.llen(keys.WAITING) == 1
    # a restore that ends in another number of keys is taken back,
    broker.says(
        "mkdir -p /tmp/fake && printf '#!/bin/sh\\necho 4\\n' > /tmp/fake/redis-admin && chmod +x /tmp/fake/redis-admin"
    )
    broken = broker.run(f"PATH=/tmp/fake:$PATH redis-restore {backup}")
    assert broken.returncode != 0
    assert "the data from before are put back." in broken.stderr
    broker.until(lambda: worker.llen(keys.WAITING) == 1)
    # and the restore brings everything back,
    said = broker.says(f"redis-restore {backup}")
    assert "keys are restored from" in said
    broker.until(lambda: worker.ping())
    assert (worker.lrange(keys.WAITING, 0, -1), worker.hgetall(keys.MESSAGES)) == (waiting, messages)
    assert worker.hlen(keys.ledger("backup")) == 1000
    assert 0 < worker.ttl("mail:dead:soon") <= 3600
    # for good, with a rewrite and another restart after it,
    worker.rpush(keys.WAITING, "one more")
    broker.says("redis-admin BGREWRITEAOF")
    broker.until(lambda: "aof_rewrite_in_progress:0" in broker.says("redis-admin INFO persistence"))
    broker.says("systemctl restart redis-server")
    broker.until(lambda: worker.llen(keys.WAITING) == len(cast(list[bytes], waiting)) + 1)
    # with what was there before kept aside.
    assert broker.says("ls -d /var/lib/redis/before-restore-*/appendonlydir")


def test_old_backups_go(broker: Broker) -> None:
    broker.says("touch /var/backups/redis/redis-2000010{1,2,3,4,5,6,7,8}T000000Z.rdb")
    assert broker.run("systemctl start redis-backup").returncode == 0
    assert broker.says("ls /var/backups/redis/*.rdb | wc -l") == "7"
    assert "NextElapseUSecRealtime=" in broker.says(
        "systemctl show redis-backup.timer --property NextElapseUSecRealtime"
    )


def test_a_backup_that_fails_is_told_where_the_workers_look(broker: Broker, worker: "redis.Redis") -> None:
    def told() -> BrokerLine:
        broker.says("systemctl start broker-tell")
        [(name, line)] = cast(dict[bytes, bytes], worker.hgetall(keys.BROKERS)).items()
        return BrokerLine.read(name.decode(), line)

    well = told()
    assert (well.name, well.units) == (broker.says("uname -n"), ())
    assert well.disk_mb > well.disk_free_mb > 0
    broker.says("mv /var/backups/redis /var/backups/lost && touch /var/backups/redis")
    assert broker.run("systemctl start redis-backup").returncode != 0
    broker.until(lambda: told().units == ("redis-backup",))
    broker.says("rm /var/backups/redis && mv /var/backups/lost /var/backups/redis && systemctl start redis-backup")
    broker.until(lambda: told().units == ())
    assert broker.says("systemctl show broker-tell.timer --property ActiveState --value") == "active"


def test_a_change_needs_no_restart(broker: Broker, worker: "redis.Redis") -> None:
    before: Any = worker.info("server")
    old = certificate(broker)
    other = token_hex(16)
    broker.play(
        "tests/integration/redis.yml",
        "--diff",
        redis_maxmemory_mb=200,
        redis_app_password=other,
        redis_tls_renew_before_days=1850,
        redis_tls_days=1900,
    )
    after: Any = worker.info()
    assert after["run_id"] == before["run_id"]
    assert after["maxmemory"] == 200 * 1024 * 1024
    with connect(broker.url("app")) as app, pytest.raises(redis.AuthenticationError):
        app.ping()
    PASSWORDS["redis_app_password"] = other
    with connect(broker.url("app")) as app:
        assert app.ping()
    assert certificate(broker) != old


def certificate(broker: Broker) -> str:
    """The certificate that the broker shows now."""
    return ssl.get_server_certificate((broker.address, 6379), ca_certs=str(broker.ca_file))
