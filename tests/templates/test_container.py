"""The container role's files, read by the programs that they are for."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.templates.conftest import GOOD, HERE, expect_systemd_takes, play

ROLE = HERE.parent.parent / "roles/container"
UNITS = ("mail-worker.target", "mail-recorder.service", "mail-worker@.service")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("container")
    done = play(HERE / "container.yml", {**GOOD, "worker_runtime": "container", "render_to": str(directory)}, directory)
    assert done.returncode == 0, done.stdout
    return directory


def run_line(unit: Path) -> list[str]:
    [line] = re.findall(r"^ExecStart=(.*)$", unit.read_text(encoding="utf-8"), re.MULTILINE)
    return shlex.split(line)


@pytest.mark.parametrize("name", UNITS)
def test_systemd_takes_the_units(name: str, rendered: Path, tmp_path: Path) -> None:
    others = [rendered / other for other in UNITS if other != name]
    expect_systemd_takes([*others, rendered / name], "/usr/bin/podman", tmp_path)


def test_the_containers_are_caged(rendered: Path) -> None:
    for unit, name, program in (
        ("mail-worker@", "mail-worker_%i", "run"),
        ("mail-recorder", "mail-recorder", "record"),
    ):
        words = run_line(rendered / f"{unit}.service")
        assert words[-2:] == ["localhost/mail-worker:0.1.0-0123456789ab", program]
        assert {
            f"--name={name}",
            f"--env=SUPERVISOR_PROCESS_NAME={name}",
            "--hostname=mail1",
            # The firewall knows the worker by its user, in the host's network alone.
            "--network=host",
            "--user=998:997",
            "--read-only",
            "--cap-drop=all",
            "--security-opt=no-new-privileges",
            "--memory=256m",
            "--cpus=1",
            "--stop-timeout=40",
            "--volume=/etc/mail-worker:/etc/mail-worker:ro",
        } <= set(words)


def test_systemd_waits_longer_than_podman_and_podman_longer_than_the_worker(rendered: Path) -> None:
    # worker_stop_timeout_seconds is 30.
    for name in ("mail-worker@.service", "mail-recorder.service"):
        text = (rendered / name).read_text(encoding="utf-8")
        assert "--stop-timeout=40 " in text
        assert "TimeoutStopSec=60\n" in text


def test_the_environment_is_the_same_as_supervisords(rendered: Path) -> None:
    """But for the mails at once, which supervisord has in its programs."""
    lines = (rendered / "container.env").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("WORKER_CONCURRENCY=")] == (
        (rendered / "worker.env").read_text(encoding="utf-8").splitlines()
    )
    assert "WORKER_CONCURRENCY='5'" in lines


def test_no_secret_is_in_the_units_and_the_command(rendered: Path) -> None:
    for name in (*UNITS, "mail-worker"):
        text = (rendered / name).read_text(encoding="utf-8")
        for secret in ("worker_smtp_password", "worker_redis_url", "worker_supabase_secret_key"):
            assert str(GOOD[secret]) not in text


def test_the_hosts_processes_are_numbered_as_supervisords(rendered: Path) -> None:
    facts = json.loads((rendered / "facts.json").read_text(encoding="utf-8"))
    workers = [f"mail-worker@{number:02d}.service" for number in range(3)]
    assert facts["units"] == ["mail-recorder.service", *workers]


def test_needrestart_leaves_the_containers_alone(rendered: Path) -> None:
    units = json.loads((rendered / "facts.json").read_text(encoding="utf-8"))["units"]
    program = """
        our %nrconf = (override_rc => {});
        do($ARGV[0]) // die $@;
        for my $unit (@ARGV[1 .. $#ARGV]) { print "$unit\n" if grep { $unit =~ /$_/ } keys %{$nrconf{override_rc}} }
    """
    done = subprocess.run(
        ["perl", "-we", program, str(rendered / "needrestart.conf"), *units, "ssh.service", "xmail-worker@00.service"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == units


@pytest.fixture
def command(rendered: Path, tmp_path: Path) -> Path:
    """The command on the host, with a podman that shows its words and what it is lent."""
    podman = tmp_path / "podman"
    podman.write_text(
        '#!/bin/sh\nfor word; do echo "$word"; case $word in --volume=/tmp/*) ls "${word#*=}"; esac; done'
    )
    text = (rendered / "mail-worker").read_text(encoding="utf-8")
    text = text.replace("$EUID == 0", "0 == 0").replace("chgrp 997", "true").replace("--owner=root --group=997 ", "")
    path = tmp_path / "mail-worker"
    path.write_text(text.replace("podman run", f"sh {podman} run"), encoding="utf-8")
    return path


def test_the_command_lends_files_to_the_container(command: Path, tmp_path: Path) -> None:
    jobs = tmp_path / "my jobs.csv"
    jobs.write_text("to\n", encoding="utf-8")
    for words, expected in (
        (["enqueue", "my jobs.csv"], ["enqueue", "/tmp/lent/my jobs.csv"]),
        (["reconcile", "c", f"--jobs={jobs}"], ["reconcile", "c", "--jobs=/tmp/lent/my jobs.csv"]),
        (["dead", "show", "no such file"], ["dead", "show", "no such file"]),
    ):
        done = subprocess.run(["bash", str(command), *words], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-len(expected) :] == expected
        # The copy is gone.
        [lent] = re.findall(r"^--volume=(/tmp/mail-worker\.\w+):/tmp/lent:ro$", done.stdout, re.MULTILINE)
        assert not Path(lent).exists()


def test_compose_can_scale_and_waits_for_mails() -> None:
    compose = yaml.safe_load((ROLE / "files/compose.yml").read_text(encoding="utf-8"))
    assert set(compose["services"]) == {"worker", "recorder"}
    for service in compose["services"].values():
        # A fixed name or a published port would be there once only.
        assert not {"container_name", "hostname", "ports", "environment"} & set(service)
        assert service["env_file"]
        assert service["restart"] == "unless-stopped"
        assert int(service["stop_grace_period"].removesuffix("s")) > 30
        assert service["mem_limit"]
        assert service["cpus"]
        assert service["healthcheck"]["test"] == "mail-worker healthy"
        assert service["logging"]["options"]["max-size"]
        assert service["cap_drop"] == ["ALL"]


def test_the_versions_agree() -> None:
    """compose.yml names the image that make image builds."""
    project = (HERE.parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    [version] = re.findall(r'^version = "(.*)"$', project, re.MULTILINE)
    assert f":-{version}}}" in (ROLE / "files/compose.yml").read_text(encoding="utf-8")
