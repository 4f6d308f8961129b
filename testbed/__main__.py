"""`python -m testbed`: starts, enters and removes instances of the test bed."""

import argparse
import sys

from testbed.errors import TestbedError
from testbed.images import SYSTEMS
from testbed.instance import Instance, instances


def main() -> int:
    """Runs one command; returns the exit code."""
    options = _parser().parse_args()
    try:
        return _run(options)
    except TestbedError as error:
        print(f"testbed: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"testbed: interrupted; python -m testbed down {options.name} cleans up.", file=sys.stderr)
    return 1


def _run(options: argparse.Namespace) -> int:
    if options.command == "list":
        print("\n".join(instances()))
        return 0
    instance = Instance(options.name)
    match options.command:
        case "up":
            instance.up(
                vps=options.vps,
                suite=options.suite,
                services=options.services,
                mail_delay_ms=options.mail_delay_ms,
                say=print,
            )
        case "down":
            instance.down()
        case "restart":
            instance.restart(options.host)
        case "shell":
            return instance.shell(options.host, options.words)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m testbed", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start what's missing of an instance")
    up.add_argument("name")
    up.add_argument("--vps", type=int, choices=range(10), default=1, metavar="N", help="bare VPSes, mail1 … mailN")
    up.add_argument("--suite", choices=SYSTEMS, default="trixie", help="the VPSes' Debian, or an image made of it")
    up.add_argument("--services", action="store_true", help="Redis, Supabase's data API, SMTP")
    up.add_argument("--mail-delay-ms", type=int, default=0, metavar="MS", help="the SMTP server's time for one mail")
    down = commands.add_parser("down", help="remove an instance with all its data")
    down.add_argument("name")
    restart = commands.add_parser("restart", help="restart one of its hosts")
    restart.add_argument("name")
    restart.add_argument("host")
    shell = commands.add_parser("shell", help="open a shell, or run a command, on one of its hosts")
    shell.add_argument("name")
    shell.add_argument("host", nargs="?", default="mail1")
    shell.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")
    commands.add_parser("list", help="name the instances of this checkout")
    return parser


if __name__ == "__main__":
    sys.exit(main())
