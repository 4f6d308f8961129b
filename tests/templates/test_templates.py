"""Each rendered file, read by the program that it is for."""

import configparser
import re
from pathlib import Path
from typing import cast

import pytest
from supervisor.options import ServerOptions

from tests.templates.conftest import GOOD, HERE, expect_nft_takes, expect_systemd_takes, play
from worker.base.settings import ENV_FILE_VARIABLE, load_settings


@pytest.fixture
def supervisord(rendered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServerOptions:
    """supervisord's own reading of both files, with the directories that it insists on."""
    for name in ("supervisord.conf", "programs.conf"):
        text = (rendered / name).read_text(encoding="utf-8")
        text = text.replace("/etc/supervisor/conf.d/*.conf", str(tmp_path / "programs.conf"))
        text = text.replace("user=mailworker", "user=nobody").replace("user=root", "")
        for directory in ("/var/log/supervisor", "/var/log/mail-worker", "/run/supervisor", "/opt/mail-worker"):
            text = text.replace(directory, str(tmp_path))
        (tmp_path / name).write_text(text, encoding="utf-8")
    options = ServerOptions()
    monkeypatch.setattr("sys.argv", ["supervisord"])
    options.realize(["--configuration", str(tmp_path / "supervisord.conf"), "--nodaemon"])
    return options


def test_supervisord_runs_equal_programs_with_one_term_each(supervisord: ServerOptions) -> None:
    groups = {group.name: group for group in supervisord.process_group_configs}
    assert sorted(groups) == ["mail-recorder", "mail-worker"]
    workers = groups["mail-worker"].process_configs
    assert [worker.name for worker in workers] == ["mail-worker_00", "mail-worker_01", "mail-worker_02"]
    for program in (*workers, *groups["mail-recorder"].process_configs):
        assert program.autorestart
        assert program.stopsignal == 15
        assert not program.stopasgroup
        # Longer than the worker's own time to finish its mails.
        assert program.stopwaitsecs == 40
        assert program.redirect_stderr
        assert program.stdout_logfile_maxbytes == 20 * 1024 * 1024


def test_supervisords_socket_is_closed_to_others(rendered: Path) -> None:
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    parser.read(rendered / "supervisord.conf", encoding="utf-8")
    assert parser["unix_http_server"]["chmod"] == "0700"
    assert not parser.has_section("inet_http_server")


def test_no_secret_is_in_the_programs(rendered: Path) -> None:
    text = (rendered / "programs.conf").read_text(encoding="utf-8")
    for name in ("worker_smtp_password", "worker_redis_url", "worker_supabase_secret_key"):
        assert str(GOOD[name]) not in text
    assert "/etc/mail-worker" not in text


def test_systemd_takes_the_unit(rendered: Path, tmp_path: Path) -> None:
    expect_systemd_takes([rendered / "supervisor.service"], "/opt/supervisor/venv/bin/supervisord", tmp_path)


def test_nftables_takes_the_rules(rendered: Path, tmp_path: Path) -> None:
    expect_nft_takes(rendered / "firewall.nft", tmp_path)


def test_the_firewall_lets_the_worker_reach_its_services_only(rendered: Path) -> None:
    text = (rendered / "firewall.nft").read_text(encoding="utf-8")
    chain = text[text.index("chain worker {") : text.index("chain refuse {")]
    # Supabase, SMTP and Redis, as the inventory has them.
    assert "tcp dport { 443, 465, 6379 } accept" in chain
    assert str(GOOD["worker_redis_url"]) not in text


def test_the_firewall_lets_the_clock_reach_its_servers(rendered: Path) -> None:
    text = (rendered / "firewall.nft").read_text(encoding="utf-8")
    chain = text[text.index("chain output {") : text.index("chain worker {")]
    assert "udp dport { 53, 123 } accept" in chain
    assert re.search(r"\n    tcp dport { 53, [^}]*\b4460\b[^}]* } accept\n", chain)


def test_systemd_waits_longer_than_any_program(rendered: Path) -> None:
    text = (rendered / "supervisor.service").read_text(encoding="utf-8")
    # worker_stop_timeout_seconds is at most 600.
    assert "TimeoutStopSec=660\n" in text
    assert "KillMode=mixed\n" in text
    # The kernel kills one worker for its memory; systemd would stop all of them.
    assert "OOMPolicy=continue\n" in text


def test_the_journal_is_limited(rendered: Path) -> None:
    parser = configparser.ConfigParser()
    parser.read(rendered / "journald.conf", encoding="utf-8")
    assert parser["Journal"]["SystemMaxUse"] == "200M"


def test_the_environment_comes_out_as_it_went_in(rendered: Path) -> None:
    settings = load_settings({ENV_FILE_VARIABLE: str(rendered / "worker.env")})
    assert settings.redis_url == GOOD["worker_redis_url"]
    assert settings.supabase_key == GOOD["worker_supabase_secret_key"]
    assert settings.smtp_password == GOOD["worker_smtp_password"]
    assert settings.mail_from is not None
    assert settings.mail_from.name == "Zoë 'Z'"
    assert settings.jobs.defaults.reply_to is not None
    assert settings.jobs.defaults.reply_to.name == "O'Hara"
    # YAML's numbers are texts there.
    assert settings.jobs.defaults.headers == {**cast(dict[str, str], GOOD["worker_headers"]), "X-Priority": "3"}
    assert (settings.bullmq, settings.jobs.defaults.placeholders) == ("{bull}:mail-queue", "name")
    assert settings.jobs.own_names == {}
    assert (settings.bullmq_keep_completed, settings.bullmq_keep_failed) == (1000, 5000)
    assert settings.jobs.makes_text
    assert settings.concurrency == 5
    assert settings.smtp_implicit_tls


@pytest.mark.parametrize("empty", ["", None])
def test_an_empty_queue_switches_bullmq_off(empty: str | None, tmp_path: Path) -> None:
    variables: dict[str, object] = {
        "worker_bullmq_queue": empty,
        "worker_placeholders": "none",
        "worker_job_fields": {"email": "userEmail", "html": "emailBody"},
        "worker_headers": {},
        "worker_mail_text_part": "none",
    }
    done = play(HERE / "container.yml", {**GOOD, **variables, "render_to": str(tmp_path)}, tmp_path)
    assert done.returncode == 0, done.stdout
    # What supervisord's programs read, and what the containers do.
    for name in ("worker.env", "container.env"):
        settings = load_settings({ENV_FILE_VARIABLE: str(tmp_path / name)})
        assert settings.bullmq == ""
        assert settings.jobs.defaults.placeholders == "none"
        assert settings.jobs.own_names == {"to": "userEmail", "html": "emailBody"}
        assert settings.jobs.defaults.headers == {}
        assert not settings.jobs.makes_text
