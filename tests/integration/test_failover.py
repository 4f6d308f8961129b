"""Redis fails over to a replica, while what was the primary lives on as one, and old connections with it."""

from pathlib import Path

import redis

from demo.tally import tally
from testbed.redis_pair import RedisPair
from testbed.services import Services
from testbed.tcp_proxy import Proxy
from tests.integration.conftest import MakeCampaign
from tests.integration.programs import Programs, wait_until


def test_the_workers_follow(
    make_campaign: MakeCampaign,
    programs: Programs,
    services: Services,
    queue: redis.Redis,
    tmp_path: Path,
) -> None:
    proxy = Proxy(services.address, 6379)
    url = f"redis://default:{services.redis_password}@127.0.0.1:{proxy.port}/0"
    try:
        with RedisPair(services) as pair:
            worker = programs.start("run", UPSTASH_REDIS_URL=url)
            recorder = programs.start("record", UPSTASH_REDIS_URL=url)
            worker.wait_for("sends by")
            recorder.wait_for("writes to")
            pair.fail_over()
            proxy.target = pair.address
            campaign = make_campaign(50)
            assert programs.run("enqueue", str(tmp_path / "jobs.jsonl"), UPSTASH_REDIS_URL=url)[0] == 0
            wait_until(lambda: tally(services, campaign).status == "sent")
            assert tally(services, campaign).rows_sent + tally(services, campaign).failed == 50
            assert "Redis is a replica" in programs.run("check")[1]
    finally:
        proxy.stop()
