"""Whose lock a deploy takes over without being told to."""

import os
import subprocess

from tests.unit.action_plugins import load_action_plugin


def test_only_an_ended_run_of_the_same_user_and_machine_is_dead() -> None:
    is_dead = load_action_plugin("worker", "prepare_release").is_dead
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert is_dead(f"ann@laptop:{ended.pid}", "ann@laptop")
    assert not is_dead(f"ann@laptop:{os.getpid()}", "ann@laptop")
    assert not is_dead(f"ann@desk:{ended.pid}", "ann@laptop")
    assert not is_dead("ann@laptop:rubbish", "ann@laptop")
    assert not is_dead("", "ann@laptop")
