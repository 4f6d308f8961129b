"""`preflight.yml` on a bare VPS: it says what is wrong, all at once, shows no secret, and changes nothing."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from preflight.network import Addresses, make_trust
from preflight.redis import RedisAnswer, RedisUrl, parse_redis_url, probe_redis
from testbed.app import App, Major
from testbed.instance import Instance
from testbed.services import Services
from tests.integration.playbooks import play

HOST = "mail1"
WATCHED = "/etc /opt /usr /var/lib /var/cache"


@dataclass(frozen=True, slots=True)
class Run:
    """How it ended, and what it printed, on one line."""

    stopped: bool
    printed: str


Preflight = Callable[..., Run]


def on_host(instance: Instance, command: str) -> None:
    assert instance.shell(HOST, ["sh", "-c", command]) == 0


@pytest.fixture
def preflight(instance: Instance, services: Services, tmp_path: Path) -> Preflight:
    """Runs the playbook as loudly as people do who look for a fault."""

    def run(**variables: object) -> Run:
        on_host(instance, "touch /run/before")
        # There is no mailadmin yet, and sshd makes an address wait whose logins fail in each of many quick runs.
        variables = {"access_admin_user": "root", **variables}
        done = play(instance, tmp_path, "preflight.yml", variables, "--diff", "-vvv")
        printed = done.stdout + done.stderr
        assert "Traceback" not in printed
        for secret in (services.redis_password, services.supabase_secret_key, services.smtp_password, "wrong-one"):
            assert secret not in printed
        assert "changed=0" in printed.rpartition(f"\n{HOST} ")[2], printed
        on_host(instance, f'test -z "$(find {WATCHED} -xdev -newer /run/before -type f)"')
        return Run(done.returncode != 0, " ".join(printed.split()))

    return run


def test_all_is_well(preflight: Preflight, services: Services) -> None:
    run = preflight()
    assert not run.stopped
    for sentence in (
        "mail1 runs Debian 13.",
        "mail1''s clock is right.",
        f"{services.address}:587 answers mail1 with STARTTLS.",
        f"{services.address}:6379 answers mail1, version ",
        f"{services.address}:443 answers mail1, tables campaigns and campaign_subscribers.",
    ):
        assert f"ok: {sentence}" in run.printed


def test_the_senders_domain_is_warned_about(preflight: Preflight) -> None:
    # Port 1 of loopback: no DNS on the internet is asked.
    run = preflight(preflight_mail_from="news@testbed.example", preflight_nameservers=["127.0.0.1:1"])
    assert not run.stopped
    assert "warning: DNS can''t be asked about testbed.example from this machine" in run.printed


def test_an_index_that_is_missing(preflight: Preflight, unindexed: str) -> None:
    run = preflight(worker_extra_environment={"SUPABASE_RECIPIENTS_TABLE": unindexed})
    assert not run.stopped
    assert "warning: Finding recipients of a campaign in unindexed takes" in run.printed
    assert "CREATE INDEX ON unindexed (campaign_id, subscriber_id);" in run.printed


def test_mistakes_in_its_own_variables(preflight: Preflight) -> None:
    assert "preflight_timeout_seconds" in preflight(preflight_timeout_seconds="soon").printed
    run = preflight(base_ca_certificates=["/nowhere/ca.pem"])
    assert run.stopped
    assert "base_ca_certificates names /nowhere/ca.pem, which isn't on this machine: correct it." in run.printed


def test_everything_that_is_wrong_is_said_at_once(preflight: Preflight, services: Services) -> None:
    run = preflight(
        preflight_systems={"Debian": ["11"]},
        worker_smtp_port=26,
        worker_redis_url=f"redis://default:wrong-one@{services.address}:6379/0",
        worker_extra_environment={"SUPABASE_RECIPIENT_SENT_COLUMN": "mailed"},
    )
    assert run.stopped
    for sentence in (
        "mail1 runs Debian 13, but the worker is made for Debian 11: reinstall it with one of them.",
        f"{services.address}:26 refuses connections from mail1, but port 587 answers: set worker_smtp_port: 587.",
        f"Redis at {services.address}:6379 refuses the user or password: correct them in worker_redis_url.",
        "Supabase's table campaign_subscribers lacks a column (column campaign_subscribers.mailed does not exist):",
    ):
        assert sentence in run.printed


@pytest.fixture
def drop(instance: Instance, services: Services) -> Iterator[Callable[[str], None]]:
    """Has the host's own firewall drop what it sends to these ports of the services."""
    made = "nft add table inet preflight_test && nft add chain inet preflight_test out"
    hook = "'{ type filter hook output priority 0; }'"

    def block(ports: str) -> None:
        rule = f"ip daddr {services.address} tcp dport '{{ {ports} }}' drop"
        on_host(instance, f"{made} {hook} && nft add rule inet preflight_test out {rule}")

    yield block
    on_host(instance, "nft delete table inet preflight_test")


def test_a_dropped_port(preflight: Preflight, services: Services, drop: Callable[[str], None]) -> None:
    drop("465")
    run = preflight(worker_smtp_port=465)
    assert run.stopped
    assert (
        f"mail1 gets no answer from {services.address}:465 within 5 s, as where a firewall drops the port, but port 587"
        " answers: set worker_smtp_port: 587." in run.printed
    )


def test_a_host_without_any_mail_port(preflight: Preflight, services: Services, drop: Callable[[str], None]) -> None:
    drop("465, 587, 2525")
    run = preflight(preflight_http_providers={"resend": services.supabase_url}, preflight_timeout_seconds=2)
    assert run.stopped
    assert (
        "and ports 465 and 2525 don't work either, but a provider's HTTP API passes from there: set"
        " worker_resend_api_key (docs/providers.md)." in run.printed
    )


def test_an_http_provider_in_use(preflight: Preflight, services: Services) -> None:
    run = preflight(worker_resend_api_key="re_x", worker_extra_environment={"MAIL_API_URL": services.supabase_url})
    assert not run.stopped
    assert f"ok: {services.address}:443 answers mail1." in run.printed
    assert "STARTTLS" not in run.printed


@pytest.fixture
def configure(queue: redis.Redis) -> Iterator[Callable[[str, str], None]]:
    """Sets a value of Redis's configuration until the test is over."""
    before: dict[str, str] = {}

    def configure(name: str, value: str) -> None:
        found = queue.config_get(name)
        assert isinstance(found, dict)
        before.update({str(key): str(text) for key, text in found.items()})
        queue.config_set(name, value)

    yield configure
    for name, value in before.items():
        queue.config_set(name, value)


def test_redis_that_evicts(preflight: Preflight, services: Services, configure: Callable[[str, str], None]) -> None:
    configure("maxmemory-policy", "allkeys-lru")
    run = preflight()
    assert run.stopped
    assert (
        f"Redis at {services.address}:6379 may throw queued mails away when its memory is full (maxmemory-policy is"
        " allkeys-lru): set it to noeviction, or on Upstash turn eviction off." in run.printed
    )


def test_a_warning_stops_nobody(
    preflight: Preflight, services: Services, configure: Callable[[str, str], None]
) -> None:
    configure("appendonly", "no")
    configure("save", "")
    run = preflight()
    assert not run.stopped
    assert f"warning: Redis at {services.address}:6379 keeps nothing on disk" in run.printed


def test_what_listens_is_not_closed_without_a_word(preflight: Preflight, instance: Instance) -> None:
    on_host(instance, "systemd-run --quiet --collect --unit=web python3 -m http.server 8080")
    on_host(instance, "systemd-run --quiet --collect --unit=local python3 -m http.server --bind 127.0.0.1 8081")
    try:
        run = preflight()
        assert run.stopped
        assert (
            f"TCP 8080 (python3) on {HOST} can be reached today, and the firewall would close it: what is to stay open"
            " goes into firewall_in_tcp_ports, the rest into preflight_closed_ports." in run.printed
        )
        assert not preflight(firewall_in_tcp_ports=[8080]).stopped
        assert not preflight(preflight_closed_ports=[8080]).stopped
        assert not preflight(firewall_enabled=False).stopped
    finally:
        on_host(instance, "systemctl stop web.service local.service")


def test_another_firewall_is_not_overlooked(preflight: Preflight, instance: Instance) -> None:
    on_host(instance, "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -yqq ufw >/dev/null")
    on_host(instance, "ufw allow 22/tcp && ufw allow 443/tcp && ufw --force enable")
    try:
        run = preflight()
        assert run.stopped
        assert f"ufw is active on {HOST}, and of two firewalls" in run.printed
        assert "put what it lets in (22/tcp, 443/tcp) into firewall_in_tcp_ports" in run.printed
        assert not preflight(firewall_enabled=False).stopped
    finally:
        on_host(instance, "ufw disable && DEBIAN_FRONTEND=noninteractive apt-get purge -yqq ufw >/dev/null")
    assert not preflight().stopped


@pytest.fixture(params=[5])
def major(request: pytest.FixtureRequest) -> Major:
    return 5


def test_the_first_jobs_of_the_apps_queue(preflight: Preflight, app: App) -> None:
    good = {"email": "ann@example.org", "html": "<p>Hello", "colour": "red"}
    app.ask("addBulk", jobs=[{"name": "mail", "data": job} for job in (good, {**good, "raw": "From: secret-words"})])
    # Port 1 of loopback: no DNS on the internet is asked.
    run = preflight(preflight_mail_from="news@testbed.example", preflight_nameservers=["127.0.0.1:1"])
    assert not run.stopped
    assert (
        "warning: 1 of the first 2 jobs in the BullMQ queue bull:mail-queue would be refused (raw can''t be sent: a"
        " mail that is written already would go out past every check: queue its parts): mend the app" in run.printed
    )
    assert "warning: The jobs in the BullMQ queue bull:mail-queue hold colour, which isn''t sent" in run.printed
    assert "secret-words" not in run.printed
    assert "ann@example.org" not in run.printed


@pytest.fixture
def alice(instance: Instance) -> Iterator[str]:
    """A user who becomes root by sudo without a password."""
    rule = "/etc/sudoers.d/preflight-test"
    on_host(
        instance,
        "useradd --create-home --shell /bin/bash alice && mkdir -p ~alice/.ssh && cp /root/.ssh/authorized_keys"
        f" ~alice/.ssh/ && chown -R alice: ~alice/.ssh && echo 'alice ALL=(ALL:ALL) NOPASSWD: ALL' > {rule}",
    )
    yield "alice"
    on_host(instance, f"rm {rule} && userdel --remove alice 2>/dev/null")


def test_a_user_with_sudo(preflight: Preflight, alice: str) -> None:
    run = preflight(ansible_user=alice)
    assert not run.stopped
    assert "ok: alice becomes root on mail1 by sudo 1." in run.printed


@pytest.fixture
def bare(instance: Instance) -> Iterator[None]:
    """The host as if ca-certificates weren't installed."""
    on_host(instance, "mv /etc/ssl/certs/ca-certificates.crt /run/")
    yield
    on_host(instance, "mv /run/ca-certificates.crt /etc/ssl/certs/")


@pytest.mark.usefixtures("bare")
def test_a_host_without_certificate_authorities(preflight: Preflight, services: Services) -> None:
    """Nothing secret goes to a server that can't be checked: not even a wrong key is noticed."""
    run = preflight(worker_supabase_secret_key="wrong-one", base_ca_certificates=[])
    assert not run.stopped
    assert "warning: mail1 has no list of certificate authorities yet, so nothing was sent to services with" in (
        run.printed
    )
    assert f"ok: {services.address}:443 answers mail1" in run.printed


def ask_redis(services: Services, url: str) -> RedisAnswer:
    parsed = parse_redis_url(url)
    assert isinstance(parsed, RedisUrl)
    return probe_redis(parsed, Addresses([services.address], []), make_trust([]), 2.0)


def test_redis_with_a_user_of_few_rights(services: Services, queue: redis.Redis) -> None:
    """As at hosted ones, where INFO and CONFIG may be forbidden: then nothing is said about them."""
    queue.acl_setuser("few", enabled=True, passwords=["+p@ss/w#rd"], commands=["+ping", "+select"], reset=True)
    try:
        answer = ask_redis(services, f"redis://few:p%40ss%2Fw%23rd@{services.address}:6379/1")
    finally:
        queue.acl_deluser("few")
    assert answer == RedisAnswer("ok")


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://default:{password}@{address}:6379", "ok"),
        ("redis://:{password}@{address}", "ok"),
        ("redis://{address}", "no password"),
        ("redis://other:{password}@{address}", "auth"),
        ("redis://:{password}@{address}/99", "no database"),
        ("rediss://:{password}@{address}", "wrong tls"),
        ("redis://:{password}@{address}:443", "wrong tls"),
        ("redis://:{password}@{address}:587", "odd"),
        ("redis://:{password}@{address}:6380", "refused"),
    ],
)
def test_what_redis_answers(services: Services, url: str, kind: str) -> None:
    answer = ask_redis(services, url.format(password=services.redis_password, address=services.address))
    assert answer.kind == kind
    if kind == "ok":
        assert answer.policy == "noeviction"
        assert answer.max_memory == 512 << 20
        assert answer.persistent
