"""`python -m demo`: what `make demo` and its companions run."""

import argparse
import sys

from demo.inbox import show_inbox
from demo.page import show_page
from demo.run import NAME, SUITES, run_demo
from testbed.errors import TestbedError
from testbed.instance import Instance


def main() -> int:
    """Runs one command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="provision a bare VPS and send a campaign through it")
    run.add_argument("--system", choices=SUITES, default="debian13", help="the VPS's Debian")
    run.add_argument("--kill", action="store_true", help="kill -9 one worker in the middle")
    run.add_argument("--keep", action="store_true", help="leave a second campaign behind, which is sent slowly")
    commands.add_parser("page", help="show the fleet on a page")
    commands.add_parser("inbox", help="show the mails that were accepted last")
    commands.add_parser("shell", help="open a shell on the VPS")
    commands.add_parser("down", help="remove everything that the demo started")
    options = parser.parse_args()
    try:
        match options.command:
            case "run":
                return run_demo(options.system, kill=options.kill, keep=options.keep)
            case "inbox":
                return show_inbox()
            case "page":
                return show_page()
            case "shell":
                return Instance(NAME).shell("mail1", [])
            case _:
                Instance(NAME).down()
                return 0
    except TestbedError as error:
        print(f"demo: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("demo: interrupted; make demo goes on, make demo-down cleans up.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
