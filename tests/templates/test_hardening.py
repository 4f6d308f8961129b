"""The hardening role's files, read by the programs that they are for; a file that isn't understood protects nothing."""

import configparser
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.templates.conftest import HERE, expect_systemd_takes, play

#: What the package unattended-upgrades brings along: the lists that would let all updates in.
PACKAGED = """
Unattended-Upgrade::Origins-Pattern { "origin=Debian,codename=${distro_codename},label=Debian"; };
Unattended-Upgrade::Allowed-Origins { "${distro_id}:${distro_codename}"; };
APT::Periodic::Unattended-Upgrade "0";
"""


def _program(name: str, reason: str) -> str:
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if path is None:
        pytest.skip(reason)
    return path


def _apt(drop_in: Path, directory: Path) -> list[str]:
    """apt's own reading of the drop-in beside the package's files, a line for each value."""
    apt_config = _program("apt-config", "this machine has no apt; the hosts' own reads it before it is put in place")
    parts = directory / "apt.conf.d"
    parts.mkdir()
    (parts / "50unattended-upgrades").write_text(PACKAGED, encoding="utf-8")
    shutil.copy(drop_in, parts / "52mail-worker")
    main = directory / "apt.conf"
    main.write_text(f'Dir::Etc::main "/dev/null"; Dir::Etc::parts "{parts}";', encoding="utf-8")
    done = subprocess.run(
        [apt_config, "dump"], env={"APT_CONFIG": str(main)}, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_apt_installs_security_updates_alone(rendered: Path, tmp_path: Path) -> None:
    values = _apt(rendered / "unattended-upgrades", tmp_path)
    assert 'APT::Periodic::Update-Package-Lists "1";' in values
    assert 'APT::Periodic::Unattended-Upgrade "1";' in values
    assert 'DPkg::Options:: "--force-confold";' in values
    origins = [line for line in values if re.match(r"Unattended-Upgrade::(Origins-Pattern|Allowed-Origins)::", line)]
    assert len(origins) == 5
    assert all("ecurity" in origin for origin in origins)


def test_a_reboot_never_surprises_anybody(rendered: Path, tmp_path: Path) -> None:
    values = _apt(rendered / "unattended-upgrades", tmp_path)
    assert 'Unattended-Upgrade::Automatic-Reboot "true";' in values
    assert 'Unattended-Upgrade::Automatic-Reboot-WithUsers "false";' in values
    [hook] = [line for line in values if line.startswith("DPkg::Post-Invoke::")]
    command = hook.split(" ", 1)[1].removeprefix('"').removesuffix('";')
    assert subprocess.run(["sh", "-n", "-c", command], check=False).returncode == 0


def test_a_fleet_reboots_spread_over_the_window(tmp_path: Path) -> None:
    hosts = [f"mail{number}" for number in range(1, 9)]
    variables = {"fleet": hosts, "render_to": str(tmp_path), "hardening_updates_reboot_start_hour": 23}
    times = []
    for _ in range(2):
        done = play(HERE / "fleet.yml", variables, tmp_path)
        assert done.returncode == 0, done.stdout
        texts = [(tmp_path / host).read_text(encoding="utf-8") for host in hosts]
        times.append([re.search(r'Reboot-Time "(\d\d):(\d\d)";', text) for text in texts])
    first, second = ([(int(time[1]), int(time[2])) for time in run if time is not None] for run in times)
    assert first == second
    assert len(set(first)) > 6
    # Past midnight too.
    assert all(hour in (23, 0) and minute < 60 for hour, minute in first)
    assert {hour for hour, _ in first} == {23, 0}


def test_systemd_waits_for_the_workers_before_it_gives_the_reboot_up(rendered: Path) -> None:
    text = (rendered / "supervisor.service").read_text(encoding="utf-8")
    [seconds] = re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    # reboot.target's JobTimeoutSec is 30 minutes, then it reboots by force.
    assert int(seconds) < 30 * 60


def test_needrestart_leaves_the_workers_alone(rendered: Path) -> None:
    perl = _program("perl", "this machine has no perl; the hosts' own reads the file before it is put in place")
    program = """
        our %nrconf = (override_rc => {qr(^dbus) => 0}, restart => 'i');
        do($ARGV[0]) // die $@;
        my @left = grep { 'supervisor.service' =~ /$_/ && !$nrconf{override_rc}{$_} } keys %{$nrconf{override_rc}};
        print $nrconf{restart}, scalar(@left), scalar(keys %{$nrconf{override_rc}});
    """
    done = subprocess.run(
        [perl, "-we", program, str(rendered / "needrestart.conf")], capture_output=True, text=True, check=True
    )
    assert done.stdout == "a12"


def test_the_kernel_settings_are_readable(rendered: Path) -> None:
    lines = _lines(rendered / "sysctl.conf")
    assert [line for line in lines if not re.fullmatch(r"-[\w.*]+ = .+", line)] == []
    settings = dict(line.removeprefix("-").split(" = ") for line in lines)
    assert len(settings) == len(lines)
    assert settings["kernel.dmesg_restrict"] == "1"
    assert settings["kernel.core_pattern"] == "|/bin/false"
    # Containers need both.
    assert not {"net.ipv4.ip_forward", "kernel.unprivileged_userns_clone"} & set(settings)


def test_sysctl_reads_the_kernel_settings(rendered: Path) -> None:
    sysctl = _program("sysctl", "this machine has no procps; on the hosts, systemd-sysctl reads the file at each boot")
    if "--dry-run" not in subprocess.run([sysctl, "--help"], capture_output=True, text=True, check=False).stdout:
        pytest.skip("this machine's sysctl has no --dry-run; on the hosts, systemd-sysctl reads the file at each boot")
    done = subprocess.run(
        [sysctl, "--dry-run", "--ignore", "--load", str(rendered / "sysctl.conf")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "kernel.kptr_restrict = 2" in done.stdout
    assert "invalid" not in done.stderr


def test_each_module_is_blocked_twice(rendered: Path) -> None:
    lines = _lines(rendered / "modprobe.conf")
    blocked = {line.split()[1] for line in lines if line.startswith("blacklist ")}
    assert blocked == {line.split()[1] for line in lines if re.fullmatch(r"install \S+ /bin/false", line)}
    assert len(lines) == 2 * len(blocked)
    assert {"sctp", "usb-storage"} <= blocked
    # Snaps, EFI, containers.
    assert not {"squashfs", "vfat", "overlay", "bridge"} & blocked


def test_modprobe_reads_the_blocked_modules(rendered: Path) -> None:
    modprobe = _program("modprobe", "this machine has no kmod, as containers haven't")
    done = subprocess.run(
        [modprobe, "--config", str(rendered / "modprobe.conf"), "--showconfig"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "install usb_storage /bin/false" in done.stdout
    assert "blacklist sctp" in done.stdout


def test_a_login_shell_takes_its_limits_twice(rendered: Path) -> None:
    script = '. "$0" && . "$0" && umask && echo "$TMOUT"'
    done = subprocess.run(
        ["sh", "-euc", script, str(rendered / "profile.sh")],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("0027\n900\n", "")


def test_pam_counts_failures_around_the_password(rendered: Path) -> None:
    # pam-auth-update itself would write this machine's own /etc/pam.d: debconf starts it again without --root.
    before, after = (_pam_profile(rendered / name) for name in ("faillock-notify", "faillock"))
    # pam_unix's profile has 256, and the highest comes first.
    assert int(before["Priority"]) > 256 > int(after["Priority"])
    assert before["Auth-Type"] == after["Auth-Type"] == "Primary"
    assert before["Auth"].startswith("requisite pam_faillock.so preauth ")
    assert after["Auth"].startswith("[default=die] pam_faillock.so authfail ")
    for line in (before["Auth"], after["Auth"]):
        assert {"deny=5", "unlock_time=900", "admin_group=sudo"} <= set(line.split())
        assert "even_deny_root" not in line
    # A success resets the count.
    assert before["Account"] == "required pam_faillock.so"


def _pam_profile(path: Path) -> dict[str, str]:
    """The fields of a file in /usr/share/pam-configs; a field's value may stand on the next line."""
    text = path.read_text(encoding="utf-8").replace(":\n\t", ": ")
    fields = dict(line.split(": ", 1) for line in text.splitlines())
    assert {"Name", "Default", "Priority"} <= set(fields)
    return fields


def test_each_audit_rule_has_a_key_and_holds_for_both_architectures(rendered: Path) -> None:
    rules = [shlex.split(line) for line in _lines(rendered / "audit.rules")]
    # Errors don't keep other rules out, and nothing makes the rules immutable.
    assert rules.pop(0) == ["-i"]
    arches: dict[str, list[list[str]]] = {"b64": [], "b32": []}
    for rule in rules:
        assert rule[:3] == ["-a", "always,exit", "-F"]
        assert set(rule[2:-2:2]) <= {"-F", "-S", "-C"}
        assert re.fullmatch(r"key=[a-z_]+", rule[-1])
        assert any(re.match(r"(dir|path)=/", word) for word in rule) or "-S" in rule
        arches[rule[3].removeprefix("arch=")].append(rule[4:])
    assert arches["b64"] == arches["b32"]
    watched = {word.split("=")[1] for rule in rules for word in rule if re.match(r"(dir|path)=", word)}
    assert {"/etc/mail-worker/", "/etc/supervisor/", "/etc/shadow", "/etc/sudoers.d/", "/etc/ssh/"} <= watched


def test_tmpfiles_sets_the_rights(rendered: Path, tmp_path: Path) -> None:
    tmpfiles = _program("systemd-tmpfiles", "this machine has no systemd; Molecule's scenario looks at the rights")
    if os.geteuid() != 0:
        pytest.skip("systemd-tmpfiles gives files to root for root alone")
    for directory in ("etc/cron.d", "usr/bin", "boot"):
        (tmp_path / directory).mkdir(parents=True)
    for name in ("etc/crontab", "usr/bin/x86_64-linux-gnu-gcc-14", "usr/bin/x86_64-linux-gnu-strip"):
        (tmp_path / name).touch(mode=0o755)
    done = subprocess.run(
        [tmpfiles, f"--root={tmp_path}", "--create", str(rendered / "tmpfiles.conf")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert (modes["cron.d"], modes["boot"], modes["crontab"]) == (0o700, 0o700, 0o600)
    assert modes["x86_64-linux-gnu-gcc-14"] == 0o750
    assert modes["x86_64-linux-gnu-strip"] == 0o755
    assert (tmp_path / "etc/cron.allow").read_text(encoding="utf-8") == "root\n"


def test_systemd_takes_aides_units(rendered: Path, tmp_path: Path) -> None:
    units = [rendered / f"mail-worker-aide{name}" for name in (".service", ".timer", "-renew.service", "-renew.timer")]
    expect_systemd_takes(units, "/usr/local/sbin/mail-worker-aide", tmp_path)


def test_the_journal_stays_and_dumps_dont(rendered: Path) -> None:
    parser = configparser.ConfigParser()
    parser.read([rendered / "journal.conf", rendered / "coredump.conf"], encoding="utf-8")
    assert parser["Journal"]["Storage"] == "persistent"
    assert parser["Journal"]["ForwardToSyslog"] == "no"
    assert parser["Coredump"]["Storage"] == "none"
    # The star of limits.conf(5) doesn't hold for root.
    assert _lines(rendered / "limits.conf") == ["* - core 0", "root - core 0"]


def test_pwqualitys_settings_are_its_own(rendered: Path) -> None:
    lines = _lines(rendered / "pwquality.conf")
    names = {line.split(" = ")[0] for line in lines}
    assert names <= set("minlen minclass difok maxrepeat maxsequence dictcheck usercheck enforce_for_root".split())
    assert "minlen = 14" in lines


def _lines(path: Path) -> list[str]:
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]
