"""The worker's image, run by the very command lines of the container role's units, on real services.

What this machine may lack is left out of them: systemd as the parent, and limits where cgroup v2 has no controllers.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import redis
import yaml

from demo.campaign import Campaign
from demo.tally import tally
from testbed.images import python_image
from testbed.paths import CHECKOUT
from testbed.podman import command, environment, podman
from testbed.services import Services
from tests.integration.conftest import MakeCampaign
from tests.integration.programs import wait_until
from tests.templates.conftest import play
from worker.base import keys

ROLE = CHECKOUT / "roles/container"
IDS = "10001:10001"
AUTHORITIES = " ".join(map(str, sorted(Path("/usr/local/share/ca-certificates").glob("*.crt"))))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test bed's podman as a program."""
    path = tmp_path_factory.mktemp("engine") / "podman"
    configuration = environment()["CONTAINERS_CONF"]
    path.write_text(f'#!/bin/sh\nCONTAINERS_CONF={configuration} exec {shlex.join(command())} "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def image(engine: Path) -> Iterator[str]:
    """Built as `make image` does, on Debian's Python: there may be no registry."""
    done = subprocess.run(
        [ROLE / "files/build-image"],
        env={
            **os.environ,
            "CONTAINER_ENGINE": str(engine),
            "PYTHON": sys.executable,
            "BASE": python_image(print),
            "CERTIFICATES": AUTHORITIES,
        },
        stdout=subprocess.PIPE,
        text=True,
        timeout=400,
        check=True,
    )
    name = done.stdout.splitlines()[-1]
    yield name
    podman("rmi", name, name.rpartition("-")[0], check=False)


def limits_work() -> bool:
    """Whether containers can have limits here."""
    return "memory" in podman("info", "--format", "{{.Host.CgroupControllers}}")


class Host:
    """A host's containers, by the role's own files."""

    def __init__(self, files: Path, engine: Path) -> None:
        self.files = files
        self.engine = engine
        #: Names are this test's own: others may run beside it.
        self.prefix = f"mw-{uuid4().hex[:8]}-"
        self._started: list[str] = []

    def start(self, unit: str, instance: str = "") -> str:
        """Runs a unit's ExecStart; returns the container's name."""
        text = (self.files / f"{unit}.service").read_text(encoding="utf-8")
        [line] = re.findall(r"^ExecStart=/usr/bin/podman (.*)$", text, re.MULTILINE)
        words = [self._here(word.replace("%i", instance)) for word in shlex.split(line)]
        podman(*(word for word in words if word))
        [name] = [word.removeprefix("--name=") for word in words if word.startswith("--name=")]
        self._started.append(name)
        return name

    def _here(self, word: str) -> str:
        if word.startswith("--name="):
            return word.replace("--name=", f"--name={self.prefix}")
        if word == "--log-driver=journald":
            return "--log-driver=k8s-file"
        # So that a test can read the log of one that has ended.
        if word in ("--cgroups=split", "--rm"):
            return ""
        if re.match("--(memory|cpus|pids-limit)=", word) and not limits_work():
            return ""
        return self._mounted(word)

    def _mounted(self, word: str) -> str:
        for path in ("/etc/mail-worker", "/etc/ssl/certs"):
            word = word.replace(f"--volume={path}:", f"--volume={self.files}{path}:")
        return word

    def run(self, *words: str) -> tuple[int, str]:
        """Runs the host's command `mail-worker`."""
        text = (self.files / "mail-worker").read_text(encoding="utf-8")
        path = self.files / "mail-worker-here"
        path.write_text(self._mounted(text).replace("podman run", f"{self.engine} run"), encoding="utf-8")
        done = subprocess.run(
            ["bash", str(path), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode, done.stdout

    def healthy(self, name: str) -> bool:
        """Runs the image's health check once."""
        done = subprocess.run([self.engine, "healthcheck", "run", name], capture_output=True, check=False)
        return done.returncode == 0

    def set(self, **changes: str) -> None:
        """Changes the environment file."""
        path = self.files / "etc/mail-worker/worker.env"
        text = path.read_text(encoding="utf-8")
        for variable, value in changes.items():
            text = re.sub(f"(?m)^{variable}=.*$", f"{variable}='{value}'", text)
        path.write_text(text, encoding="utf-8")

    def log(self, name: str) -> str:
        return subprocess.run(
            [self.engine, "logs", name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
        ).stdout

    def stop(self, name: str) -> int:
        """As the unit does it; returns the exit code of the container's program."""
        podman("stop", "--ignore", name)
        return int(podman("inspect", "--format", "{{.State.ExitCode}}", name))

    def end(self) -> None:
        for name in self._started:
            podman("rm", "--force", "--time", "5", name, check=False)


@pytest.fixture(scope="module")
def rendered(services: Services, image: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("container")
    variables = {
        "worker_runtime": "container",
        "worker_redis_url": services.redis_url,
        "worker_supabase_url": services.supabase_url,
        "worker_supabase_secret_key": services.supabase_secret_key,
        "worker_smtp_host": services.smtp_host,
        "worker_smtp_port": services.smtp_port,
        "worker_smtp_user": services.smtp_user,
        "worker_smtp_password": services.smtp_password,
        "worker_mail_from": "The tests <news@testbed.example>",
        "container_image": image,
        "container_ids": IDS,
        "container_gid": IDS.partition(":")[2],
        "render_to": str(directory),
    }
    done = play(CHECKOUT / "tests/templates/container.yml", variables, directory)
    assert done.returncode == 0, done.stdout
    return directory


@pytest.fixture
def host(rendered: Path, services: Services, engine: Path, queue: redis.Redis, tmp_path: Path) -> Iterator[Host]:
    """A host with the environment that the role writes; nothing runs on it yet."""
    files = tmp_path / "host"
    for directory in ("etc/mail-worker", "etc/ssl/certs"):
        (files / directory).mkdir(parents=True)
    for path in rendered.iterdir():
        (files / path.name).write_bytes(path.read_bytes())
    for source, target in (
        (rendered / "container.env", "etc/mail-worker/worker.env"),
        (services.ca_file, "etc/ssl/certs/ca-certificates.crt"),
    ):
        (files / target).write_bytes(source.read_bytes())
        (files / target).chmod(0o644)
    host = Host(files, engine)
    try:
        yield host
    finally:
        host.end()


def test_the_image_holds_the_worker_and_nothing_of_yours(image: str) -> None:
    [found] = json.loads(podman("image", "inspect", image))
    assert found["Config"]["User"] == IDS
    assert found["Config"]["Entrypoint"] == ["mail-worker"]
    assert found["Config"]["Cmd"] == ["run"]
    assert found["Config"]["StopSignal"] == "SIGTERM"
    assert found["Healthcheck"]["Test"] == ["CMD", "mail-worker", "healthy"]
    release = found["Labels"]["org.opencontainers.image.version"]
    shown = podman(
        *("run", "--rm", "--network=none", "--read-only", "--user=0", "--entrypoint=find", image),
        *("/opt", "/tmp", "/home", "/srv", "-mindepth", "1", "-maxdepth", "3"),
    )
    directory = "/opt/mail-worker"
    assert set(shown.split()) == {
        directory,
        f"{directory}/current",
        f"{directory}/releases",
        f"{directory}/releases/{release}",
    }


def test_a_campaign_goes_through_three_containers(
    host: Host, services: Services, make_campaign: MakeCampaign, tmp_path: Path
) -> None:
    code, printed = host.run("check")
    assert (code, [line[:4] for line in printed.splitlines()]) == (0, ["ok  "] * 5), printed
    recorder = host.start("mail-recorder")
    workers = [host.start("mail-worker@", "00")]
    wait_until(lambda: host.healthy(workers[0]) and host.healthy(recorder))
    # Scaled, while the first one works.
    campaign: Campaign = make_campaign(300)
    jobs = tmp_path / "jobs.jsonl"
    jobs.chmod(0o600)
    assert host.run("enqueue", str(jobs)) == (0, "queued 300 jobs\n")
    workers += [host.start("mail-worker@", number) for number in ("01", "02")]
    wait_until(lambda: all(host.healthy(name) for name in workers))
    _, status = host.run("status")
    names = re.findall(r"^process +(\S+) ", status, re.MULTILINE)
    assert names == ["mail1/mail-recorder", *(f"mail1/mail-worker_0{number}" for number in range(3))]
    wait_until(lambda: tally(services, campaign).accounted_for)
    assert str(tally(services, campaign)) == (
        "queued 300, accepted 297, unique 297, rows sent 297, failed 3, campaign sent"
    )
    assert [host.stop(name) for name in (*workers, recorder)] == [0] * 4
    assert all("Stopped." in host.log(name) for name in (*workers, recorder))
    assert "workers    none" in host.run("status")[1]


def test_a_stop_finishes_what_it_sends_and_doubles_nothing(
    host: Host, services: Services, queue: redis.Redis, make_campaign: MakeCampaign, tmp_path: Path
) -> None:
    campaign = make_campaign(400)
    host.run("enqueue", str(tmp_path / "jobs.jsonl"))
    host.start("mail-recorder")
    first = host.start("mail-worker@", "00")
    wait_until(lambda: tally(services, campaign).accepted > 20)
    # 137 would be Podman's patience at its end.
    assert host.stop(first) == 0
    accepted = tally(services, campaign).accepted
    assert accepted < 396
    # The rest is back in the queue, and nothing goes out any more.
    assert queue.zcard(keys.in_flight(f"smtp:{services.smtp_user}@{services.smtp_host}")) == 0
    host.start("mail-worker@", "01")
    wait_until(lambda: tally(services, campaign).accounted_for)
    result = tally(services, campaign)
    assert (result.accepted, result.unique) == (396, 396)


def test_wrong_passwords_get_their_sentences(host: Host, services: Services) -> None:
    host.set(SMTP_PASS="wrong-one")
    code, printed = host.run("check")
    assert code == 1
    assert f"FAIL mail      SMTP server {services.address}:587: it refuses the login as" in printed
    host.set(REDIS_URL=f"redis://default:wrong-one@{services.address}:6379/0")
    name = host.start("mail-worker@", "00")
    sentence = "Redis refuses the user or password that are in REDIS_URL"
    wait_until(lambda: sentence in host.log(name))
    assert not host.healthy(name)
    assert sentence in host.run("status")[1]
    assert "wrong-one" not in printed + host.log(name)
    assert host.stop(name) == 0


def test_compose_scales(
    image: str, engine: Path, host: Host, services: Services, make_campaign: MakeCampaign, tmp_path: Path
) -> None:
    """Debian's podman-compose reads the same file as Docker Compose does; its --scale is newer."""
    compose = yaml.safe_load((ROLE / "files/compose.yml").read_text(encoding="utf-8"))
    for service in compose["services"].values():
        # The test's image, network and certificate; no more.
        service["image"] = image
        service["volumes"] = [f"{host.files}/etc/ssl/certs:/etc/ssl/certs:ro"]
        service["env_file"] = ["worker.env"]
        for limit in ("mem_limit", "cpus", "pids_limit"):
            if not limits_work():
                del service[limit]
    (tmp_path / "compose.yml").write_text(yaml.safe_dump(compose), encoding="utf-8")
    values = (host.files / "container.env").read_text(encoding="utf-8")
    # Docker Compose and podman read quotes differently: none are needed here.
    lines = re.findall(r"(?m)^(\w+)='(.+)'$", values)
    (tmp_path / "worker.env").write_text("".join(f"{name}={value}\n" for name, value in lines), encoding="utf-8")
    project = host.prefix.rstrip("-")

    def run(*words: str) -> str:
        done = subprocess.run(
            ["podman-compose", "--podman-path", engine, "-p", project, "-f", tmp_path / "compose.yml", *words],
            env={**os.environ, "MAIL_WORKERS": "3"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def there() -> list[str]:
        label = f"label=io.podman.compose.project={project}"
        return podman("ps", "--all", "--filter", label, "--format", "{{.Names}}").split()

    campaign = make_campaign(100)
    host.run("enqueue", str(tmp_path / "jobs.jsonl"))
    try:
        run("up", "-d")
        wait_until(lambda: tally(services, campaign).accounted_for)
        names = there()
        assert len(names) == 4
        wait_until(lambda: all(host.healthy(name) for name in names))
        assert len(re.findall(r"^process ", host.run("status")[1], re.MULTILINE)) == 4
    finally:
        printed = run("down", "--timeout", "45")
        left = there()
        # podman-compose 1.0 hides podman's failures; a recorder that stays would take later tests' results.
        for name in left:
            podman("rm", "--force", name)
    assert not left, printed
