"""The become plugin sees when sudo or sudo-rs asks for a password, and takes nothing else for it."""

import pytest
from ansible.plugins.loader import become_loader, init_plugin_loader

from testbed.paths import CHECKOUT

PROMPT = b"[sudo via ansible, key=abcdefgh] password:"


@pytest.fixture(scope="module")
def become():  # type: ignore[no-untyped-def] # Ansible's own class, which has no types.
    init_plugin_loader()
    become_loader.add_directory(str(CHECKOUT / "plugins/become"))
    plugin = become_loader.get("sudo")
    plugin.set_options(direct={"become_pass": "secret"})
    plugin.prompt = PROMPT.decode()
    return plugin


def test_it_is_ours_and_has_ansibles_options(become) -> None:  # type: ignore[no-untyped-def]
    assert become_loader.find_plugin("sudo") == str(CHECKOUT / "plugins/become/sudo.py")
    assert become.get_option("become_flags") == "-H -S -n"


@pytest.mark.parametrize(
    ("line", "asks"),
    [
        (PROMPT, True),
        (b"[sudo: " + PROMPT + b"] Password: ", True),
        (b"\r\n[sudo: " + PROMPT + b"] Passwort: ", True),
        # Half of it: PAM hasn't asked yet.
        (b"[sudo: " + PROMPT + b"]", False),
        (b"[sudo: " + PROMPT + b"] ", False),
        # Another run's, or what a command prints.
        (b"[sudo: [sudo via ansible, key=zzzzzzzz] password:] Password: ", False),
        (b"[sudo: authenticate] Password: ", False),
        (b"echo '[sudo: " + PROMPT + b"] Password: '", False),
        (b"", False),
    ],
)
def test_a_prompt_is_seen(become, line: bytes, asks: bool) -> None:  # type: ignore[no-untyped-def]
    assert become.check_password_prompt(line) == asks


def test_its_words_for_a_wrong_and_a_missing_password_are_known(become) -> None:  # type: ignore[no-untyped-def]
    assert become.check_incorrect_password(b"sudo: Authentication failed, try again.\r\n")
    assert become.check_incorrect_password(b"Sorry, try again.\r\n")
    assert become.check_missing_password(b"sudo: interactive authentication is required\r\n")
    assert not become.check_missing_password(b"root\r\n")


def test_a_prompt_is_taken_out_of_the_output_whole(become) -> None:  # type: ignore[no-untyped-def]
    for prompt in (PROMPT, b"[sudo: " + PROMPT + b"] Password: "):
        assert become.strip_become_prompt(prompt + b"\r\nroot: yes\r\n") == b"root: yes\r\n"
    assert become.strip_become_prompt(b"root: yes\r\n") == b"root: yes\r\n"
