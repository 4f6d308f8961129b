"""The programs' file: which processes it wants, what changed in it, and how it looks on a drained host."""

import configparser

from mail_worker_release.supervisor import RECORDER, WORKERS


def _sections(text: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    parser.read_string(text)
    return parser


def changed_groups(old: str, new: str) -> set[str]:
    """The programs whose processes have to be restarted: all but those of which only the number changed."""
    before, after = _sections(old), _sections(new)
    return {
        name
        for name in (RECORDER, WORKERS)
        if _options(before, f"program:{name}") != _options(after, f"program:{name}")
    }


def _options(parser: configparser.RawConfigParser, section: str) -> dict[str, str]:
    options = dict(parser.items(section)) if parser.has_section(section) else {}
    options.pop("numprocs", None)
    return options


def for_supervisor(text: str, *, drained: bool) -> str:
    """What supervisord gets: on a drained host no worker starts by itself, at a boot neither."""
    if not drained:
        return text
    head, section, tail = text.partition(f"[program:{WORKERS}]")
    return head + section + tail.replace("autostart=true", "autostart=false", 1)
