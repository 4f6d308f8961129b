"""Settings: every mistake at once, secrets never shown, and no input that ends in a traceback."""

import base64
import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.base.redis_client import connect
from worker.base.settings import ENV_FILE_VARIABLE, Secret, load_settings
from worker.errors import SettingsError

GOOD = {
    "REDIS_URL": "rediss://default:hunter2@redis.example:6379/0",
    "SUPABASE_URL": "https://project.supabase.co",
    "SUPABASE_SECRET_KEY": "sb_secret_hunter2",
    "SMTP_HOST": "smtp.example",
    "SMTP_PORT": "587",
    "SMTP_USER": "user@example.com",
    "SMTP_PASS": "hunter2 ${HOME} #'\"",
}


def key_of(role: str) -> str:
    """A Supabase key of old. Its signature is nobody's."""
    parts = ({"alg": "HS256", "typ": "JWT"}, {"iss": "supabase", "role": role}, "hunter2")
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)


def mistakes_of(**changes: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_settings({**GOOD, **changes})
    return caught.value.mistakes


def test_plain_names() -> None:
    settings = load_settings(GOOD)
    assert settings.smtp_password == "hunter2 ${HOME} #'\""
    assert (settings.smtp_port, settings.smtp_implicit_tls) == (587, False)
    assert settings.concurrency == 5


def test_names_of_todays_users() -> None:
    settings = load_settings(
        {
            "UPSTASH_REDIS_URL": GOOD["REDIS_URL"],
            "NEXT_PUBLIC_SUPABASE_URL": "https://project.supabase.co/",
            "SUPABASE_SERVICE_ROLE_KEY": "eyJhbGciOi",
            "SMTP_HOST": "smtp.zoho.com",
            "SMTP_USER": "user@example.com",
            "SMTP_PASS": "x",
            "WORKER_CONCURRENCY": "10",
        }
    )
    assert settings.redis_url == GOOD["REDIS_URL"]
    assert settings.supabase_url == "https://project.supabase.co"
    assert settings.supabase_key == "eyJhbGciOi"
    assert (settings.smtp_port, settings.smtp_implicit_tls) == (465, True)
    assert settings.concurrency == 10


@pytest.mark.parametrize(
    "key", [key_of("service_role"), "a.b.c", "..", "a.%%%.c", f"a.{'A' * 40}.c", "sb_secret_x.y.z"]
)
def test_a_key_of_no_visitor_is_taken(key: str) -> None:
    assert load_settings({**GOOD, "SUPABASE_SECRET_KEY": key}).supabase_key == key


def test_all_mistakes_come_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({"SMTP_PORT": "eighty", "WORKER_CONCURRENCY": "0"})
    text = "\n".join(caught.value.mistakes)
    for name in ("REDIS_URL", "SUPABASE_URL", "SUPABASE_SECRET_KEY", "SMTP_HOST", "SMTP_USER", "SMTP_PASS"):
        assert f"set {name} in" in text
    assert "SMTP_PORT is 'eighty', but must be a whole number from 1 to 65535" in text
    assert "WORKER_CONCURRENCY is '0'" in text
    assert len(caught.value.mistakes) == 8


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("REDIS_URL", "https://eu1-redis.upstash.io", "REST address"),
        ("REDIS_URL", "localhost:6379", "must look like rediss://"),
        ("REDIS_URL", "redis://default:hun/ter2@redis.example:6379", "%2F for /"),
        ("REDIS_URL", "redis://default:hunter2@redis.example:6379/zero", "a database's number"),
        ("REDIS_URL", "redis://default:hunter2@redis.example:6379?hunter2=1", "a database's number"),
        ("SUPABASE_URL", "project.supabase.co", "https://PROJECT.supabase.co"),
        ("SUPABASE_URL", "https://project.supabase.co/rest/v1", "address alone"),
        ("SUPABASE_SECRET_KEY", "sb_publishable_hunter2", "publishable key"),
        ("SUPABASE_SECRET_KEY", key_of("anon"), "the key of the role anon"),
        ("SUPABASE_SECRET_KEY", key_of("authenticated"), "the key of the role authenticated"),
        ("SMTP_HOST", "smtp.example:587", "host name alone"),
        ("SMTP_PASS", "hunter2\nhunter2", "line break"),
        ("SMTP_HELO_NAME", "mail1", "a full host name"),
        ("SMTP_HELO_NAME", "mail1.example.com RCPT", "a full host name"),
        ("MAIL_FROM", "nobody", "MAIL_FROM isn't one mail address"),
        ("LOG_LEVEL", "loud", "must be one of"),
        ("MAIL_TEXT_PART", "off", "MAIL_TEXT_PART is 'off', but must be one of auto, none: set MAIL_TEXT_PART in"),
        ("SUPABASE_RECIPIENTS_TABLE", "a b", "plain name"),
    ],
)
def test_a_wrong_value_is_named_and_no_secret_shown(name: str, value: str, words: str) -> None:
    (mistake,) = mistakes_of(**{name: value})
    assert words in mistake
    assert f"set {name} in /etc/mail-worker/worker.env or the environment" in mistake
    assert "hunter2" not in mistake
    assert "ter2" not in mistake


def test_secrets_hide_in_reprs() -> None:
    settings = load_settings(GOOD)
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in f"{[settings.redis_url, settings.supabase_key, settings.smtp_password]}"


@given(st.text())
def test_any_redis_url_is_refused_or_can_be_used(value: str) -> None:
    try:
        settings = load_settings({**GOOD, "REDIS_URL": value})
    except SettingsError:
        return
    connect(settings.redis_url).close()


@given(st.dictionaries(st.sampled_from([*GOOD, "MAIL_FROM", "MAIL_MAX_ATTEMPTS", "LOG_LEVEL"]), st.text()))
def test_no_environment_ends_in_a_traceback(values: dict[str, str]) -> None:
    with contextlib.suppress(SettingsError):
        load_settings({**GOOD, **values})


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "worker.env"
    path.write_text("SMTP_HOST='file.example'\nSMTP_USER='it\\'s #1 \\\\ ${HOME}'\n", encoding="utf-8")
    environ = {name: value for name, value in GOOD.items() if name != "SMTP_USER"}
    settings = load_settings({**environ, ENV_FILE_VARIABLE: str(path)})
    assert settings.smtp_host == "smtp.example"
    assert settings.smtp_user == "it's #1 \\ ${HOME}"


def test_a_file_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    (mistake,) = mistakes_of(**{ENV_FILE_VARIABLE: str(tmp_path / "missing.env")})
    assert "missing.env doesn't exist" in mistake


def test_a_file_of_rubbish_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "worker.env"
    path.write_bytes(b"\xff\xfe\x00SMTP_HOST")
    (mistake,) = mistakes_of(**{ENV_FILE_VARIABLE: str(path)})
    assert "isn't UTF-8 text" in mistake


def test_a_secret_is_an_ordinary_string_otherwise() -> None:
    assert f"{Secret('a')}b" == "ab"


@pytest.mark.parametrize(
    ("changes", "sender"),
    [
        ({"MAIL_FROM": "News <news@example.com>", "FROM_EMAIL": "old@example.com"}, "news@example.com"),
        ({"FROM_EMAIL": "old@example.com"}, "old@example.com"),
        ({}, "user@example.com"),
        ({"SMTP_USER": "apikey"}, None),
    ],
)
def test_the_sender_is_the_first_that_there_is(changes: dict[str, str], sender: str | None) -> None:
    mail_from = load_settings({**GOOD, **changes}).mail_from
    assert (mail_from and mail_from.email) == sender


def test_the_queue_of_the_web_app() -> None:
    assert load_settings(GOOD).bullmq == "bull:mail-queue"
    assert load_settings({**GOOD, "BULLMQ_QUEUE": "news", "BULLMQ_PREFIX": "{app:1}"}).bullmq == "{app:1}:news"
    assert load_settings({**GOOD, "BULLMQ_QUEUE": " "}).bullmq == ""
    assert "that's what the worker's own keys begin with" in mistakes_of(BULLMQ_PREFIX="mail")[0]
    assert "BULLMQ_QUEUE is 'a:b', but must be a name without spaces or colons" in mistakes_of(BULLMQ_QUEUE="a:b")[0]


def test_what_jobs_get_that_do_not_say_it() -> None:
    defaults = load_settings(
        {**GOOD, "MAIL_REPLY_TO": "Team <team@example.com>", "MAIL_HEADERS": '{"X-Priority":"3"}'}
    ).jobs.defaults
    assert defaults.reply_to is not None
    assert (defaults.reply_to.email, dict(defaults.headers)) == ("team@example.com", {"X-Priority": "3"})
    assert "MAIL_HEADERS must be a JSON object" in mistakes_of(MAIL_HEADERS="X-Priority: 3")[0]
    assert "headers can't set Subject" in mistakes_of(MAIL_HEADERS='{"Subject":"x"}')[0]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("redirect:Me <me@example.com>", "all mails go to me@example.com, and not to their recipients"),
        ("capture:/var/log/mail-worker/sandbox", "all mails are caught in /var/log/mail-worker/sandbox, and nobody"),
        ("capture:smtp://127.0.0.1:1026", "all mails are caught in 127.0.0.1:1026, and nobody gets one"),
        ("capture:smtp://mailpit", "all mails are caught in mailpit:1025, and nobody gets one"),
    ],
)
def test_a_sandbox(value: str, words: str) -> None:
    settings = load_settings({**GOOD, "MAIL_SANDBOX": value})
    assert str(settings.sandbox).startswith(words)


@pytest.mark.parametrize("value", ["on", "redirect:", "redirect:nobody", "capture:here", "capture:http://x", "x:/y"])
def test_what_is_no_sandbox_is_a_mistake(value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({**GOOD, "MAIL_SANDBOX": value})
    assert "MAIL_SANDBOX" in str(caught.value.mistakes)


@pytest.mark.parametrize("url", ["smtp://user:hidden@mail.example:25", "smtp://user:hidden@mail.example:99999"])
@pytest.mark.parametrize("kind", ["capture:", ""])
def test_a_catchers_login_is_refused_and_not_shown(kind: str, url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({**GOOD, "MAIL_SANDBOX": kind + url})
    assert "MAIL_SANDBOX holds a user or a password" in str(caught.value.mistakes)
    assert "hidden" not in str(caught.value.mistakes)
