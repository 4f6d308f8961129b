"""Redis fails over to a replica, while what was the primary lives on as one, and old connections with it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from demo.tally import tally
from testbed.podman import podman
from testbed.services import Services
from testbed.tcp_proxy import Proxy
from tests.integration.conftest import MakeCampaign
from tests.integration.programs import Programs, wait_until

REPLICA_PORT = 6390


@pytest.fixture
def replica(services: Services, queue: redis.Redis) -> Iterator[redis.Redis]:
    """A second Redis, which follows the first one."""
    password = services.redis_password
    podman(
        *("exec", services.container, "redis-server", "--port", str(REPLICA_PORT), "--bind", "0.0.0.0"),
        *("--requirepass", password, "--masterauth", password, "--save", "", "--daemonize", "yes"),
        *("--replicaof", "127.0.0.1 6379", "--dir", "/tmp"),
    )
    client = redis.Redis(host=services.address, port=REPLICA_PORT, password=password)
    queue.config_set("masterauth", password)
    wait_until(lambda: bool(client.info("replication").get("master_link_status") == "up"))
    yield client
    queue.replicaof("NO", "ONE")
    queue.config_set("masterauth", "")
    client.shutdown(nosave=True)


def test_the_workers_follow(
    make_campaign: MakeCampaign,
    programs: Programs,
    services: Services,
    queue: redis.Redis,
    replica: redis.Redis,
    tmp_path: Path,
) -> None:
    proxy = Proxy(services.address, 6379)
    url = f"redis://default:{services.redis_password}@127.0.0.1:{proxy.port}/0"
    try:
        worker = programs.start("run", UPSTASH_REDIS_URL=url)
        recorder = programs.start("record", UPSTASH_REDIS_URL=url)
        worker.wait_for("sends by")
        recorder.wait_for("writes to")
        replica.replicaof("NO", "ONE")
        queue.replicaof("127.0.0.1", REPLICA_PORT)
        proxy.target = (services.address, REPLICA_PORT)
        campaign = make_campaign(50)
        assert programs.run("enqueue", str(tmp_path / "jobs.jsonl"), UPSTASH_REDIS_URL=url)[0] == 0
        wait_until(lambda: tally(services, campaign).status == "sent")
        assert tally(services, campaign).rows_sent + tally(services, campaign).failed == 50
        assert "Redis is a replica" in programs.run("check")[1]
    finally:
        proxy.stop()
