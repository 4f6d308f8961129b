"""The command `mail-worker`. Exit codes: 0 well, 1 not well, 2 wrong settings or arguments, and what a command says of
its own (`status --exit-code`, `why`)."""

import os
import sys

import redis

from worker.base.redis_client import explain
from worker.errors import MailWorkerError, SettingsError
from worker.programs import PROGRAMS, active_settings


def main(arguments: list[str] | None = None) -> int:
    """Runs one command."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        code = PROGRAMS[words[0]](active_settings()) if len(words) == 1 and words[0] in PROGRAMS else _obey(words)
        print(end="", flush=True)
        return code
    except BrokenPipeError:
        # Whoever read it has enough, as head has; and the rest of it is to raise nothing at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except SettingsError as error:
        for mistake in error.mistakes:
            print(f"FAIL settings  {mistake}", flush=True)
        return 2
    except MailWorkerError as error:
        print(error, file=sys.stderr)
    except redis.RedisError as error:
        print(explain(error), file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 1


def _obey(words: list[str]) -> int:
    # The programs live for weeks, and more than half a megabyte of each would be what reads the words of all commands.
    from worker.commands import obey

    return obey(words)
