"""`site.yml` on a bare VPS with one thing wrong at a time: each ends in one sentence that says where to fix it, shows
no secret, and leaves the host as it was. Molecule's scenario is the one where all is right."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testbed.instance import Instance
from testbed.services import Services
from tests.integration.playbooks import EMPTY, play, run_playbook

HOST = "mail1"

Site = Callable[..., str]


@pytest.fixture
def site(instance: Instance, services: Services, tmp_path: Path) -> Site:
    """Runs site.yml with these extra variables, expects it to fail, and returns what it printed on one line."""

    def run(**variables: object) -> str:
        done = play(instance, tmp_path, "site.yml", variables, "--diff")
        printed = done.stdout + done.stderr
        assert done.returncode != 0, printed
        assert "Traceback" not in printed
        for secret in (services.redis_password, services.supabase_secret_key, services.smtp_password, "wrong-one"):
            assert secret not in printed
        return " ".join(printed.split())

    return run


def on_host(instance: Instance, command: str) -> None:
    assert instance.shell(HOST, ["sh", "-c", command]) == 0


def test_a_host_that_cannot_be_reached(site: Site) -> None:
    printed = site(ansible_port=1)
    assert f"{HOST} can't be reached by SSH as root at 10." in printed
    assert "port 1 (" in printed
    assert "Check its address, port, user and key in the inventory's hosts.yml, and that it is up." in printed


@pytest.mark.parametrize("verb", ["site", "deploy", "status", "verify", "drain", "retire"])
def test_an_empty_inventory(tmp_path: Path, verb: str) -> None:
    done = run_playbook(f"playbooks/{verb}.yml", [EMPTY], tmp_path, {})
    assert done.returncode != 0
    assert "The inventory has no hosts in the group mail_workers: copy inventory/example" in " ".join(
        done.stdout.split()
    )


def test_an_inventory_without_hosts_to_secure(tmp_path: Path) -> None:
    done = run_playbook("playbooks/secure.yml", [EMPTY], tmp_path, {})
    assert done.returncode != 0
    assert "no hosts in the groups mail_workers and brokers: put your VPS into" in " ".join(done.stdout.split())


def test_a_user_who_cannot_become_root(site: Site, instance: Instance) -> None:
    on_host(
        instance,
        "id bob >/dev/null 2>&1 || useradd --create-home --shell /bin/bash bob; mkdir -p ~bob/.ssh;"
        " cp /root/.ssh/authorized_keys ~bob/.ssh/; chown -R bob: ~bob/.ssh",
    )
    printed = site(ansible_user="bob")
    assert f"bob can't become root on {HOST} (" in printed
    assert "): allow it sudo without a password, or run the playbook with --ask-become-pass" in printed


def test_a_missing_variable(site: Site) -> None:
    assert "worker_smtp_password is missing for mail1: set it in the inventory, in" in site(worker_smtp_password="")


def test_an_untouched_placeholder(site: Site) -> None:
    printed = site(worker_supabase_secret_key="CHANGE-ME")
    assert "worker_supabase_secret_key still is the example's placeholder (CHANGE-ME)" in printed


def test_an_unsupported_system(site: Site) -> None:
    printed = site(preflight_systems={"Debian": ["11"]})
    assert "mail1 runs Debian 13, but the worker is made for Debian 11: reinstall it with one of them." in printed


@pytest.fixture
def small_opt(instance: Instance) -> Iterator[None]:
    """An /opt that is full after 30 MB."""
    on_host(instance, "mount -t tmpfs -o size=30M tmpfs /opt")
    yield
    on_host(instance, "umount /opt")


@pytest.mark.usefixtures("small_opt")
def test_a_full_disk_is_seen_before_anything_is_changed(site: Site) -> None:
    printed = site()
    assert "MB free at /opt, but 700 MB are needed (preflight_min_free_disk_mb): delete something there" in printed


@pytest.mark.usefixtures("small_opt")
def test_a_disk_that_fills_up_during_the_installation(site: Site) -> None:
    printed = site(preflight_min_free_disk_mb=1)
    assert "No space left on device" in printed
    assert "mail1 was left as it is: The release " in printed
    assert "can't be built (" in printed
    assert "Solve it and deploy again." in printed


def assert_nothing_was_adopted(instance: Instance) -> None:
    assert instance.shell(HOST, ["test", "-e", "/etc/mail-worker/worker.env"]) == 1
    assert instance.shell(HOST, ["test", "-e", "/etc/mail-worker/worker.env.candidate"]) == 1


def test_a_login_that_the_mail_server_refuses(site: Site, instance: Instance, services: Services) -> None:
    """Only the installed release logs in there: the preflight doesn't know every way to."""
    printed = site(worker_smtp_password="wrong-one")
    assert "mail1 was left as it is: mail-worker check failed: FAIL" in printed
    assert (
        f"FAIL mail SMTP server {services.address}:587: it refuses the login as sender@testbed.example (535" in printed
    )
    assert "The values stand in the inventory's group_vars/mail_workers." in printed
    assert_nothing_was_adopted(instance)


WRONG_ANSWERS: dict[str, tuple[dict[str, object], str]] = {
    "redis": (
        {"worker_redis_url": "redis://default:wrong-one@{address}:6380/0"},
        "Redis: {address}:6380 refuses connections from mail1: correct worker_redis_url.",
    ),
    "supabase key": (
        {"worker_supabase_secret_key": "wrong-one"},
        "Supabase refuses the key (Invalid API key): correct worker_supabase_secret_key.",
    ),
}


@pytest.mark.parametrize("name", WRONG_ANSWERS)
def test_services_that_do_not_answer_well(name: str, site: Site, instance: Instance, services: Services) -> None:
    changes, expected = WRONG_ANSWERS[name]
    printed = site(**{key: str(value).format(address=services.address) for key, value in changes.items()})
    assert expected.format(address=services.address) in printed
    # Before anything was installed.
    assert "base : Install the base packages" not in printed
    assert_nothing_was_adopted(instance)
