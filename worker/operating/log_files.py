"""`mail-worker logs`: what this host's processes have logged, those of all of them in order of their time."""

import heapq
import json
import re
import time
from argparse import Namespace
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TextIO

from worker.errors import OperatorMistake
from worker.mail.words import shown_lines

LOOK_SECONDS = 0.5
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_NUMBER = re.compile(r"\.[0-9]{1,9}")
_AGO = re.compile(r"(\d{1,6})([smhd])")
#: As logs.py writes text.
_TEXT_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")

Line = tuple[str, str, str]
"""Its time, ISO 8601 in UTC; the process; the line as it is."""


def logs(options: Namespace, directory: Path) -> int:
    """`mail-worker logs [-n LINES] [-s SINCE] [-g GREP] [-f] [--json]`"""
    if not directory.is_dir():
        raise OperatorMistake(f"{directory} isn't there: this command is for a host that sends.")
    if options.lines < 0:
        raise OperatorMistake(f"--lines {options.lines} is less than none: write how many lines of the past you want.")
    since = _since(options.since)
    try:
        wanted = re.compile(options.grep)
    except re.error as error:
        raise OperatorMistake(f"--grep {options.grep!r} isn't a pattern: {error}.") from None
    lines = (line for line in _read_all(directory) if line[0] >= since and wanted.search(line[2]))
    for line in deque(lines, maxlen=options.lines):
        print(_shown(line, as_json=options.json), flush=True)
    if options.follow:
        for line in _follow(directory):
            if wanted.search(line[2]):
                print(_shown(line, as_json=options.json), flush=True)
    return 0


def _since(text: str) -> str:
    if not text:
        return ""
    if found := _AGO.fullmatch(text):
        at = datetime.now(UTC) - timedelta(**{_UNITS[found[2]]: int(found[1])})
    else:
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            raise OperatorMistake(
                f"--since {text!r} isn't a time: write 30m, 2h, 1d or 2026-01-31T12:00 (UTC)."
            ) from None
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%S")


def _read_all(directory: Path) -> Iterator[Line]:
    processes = {path.name.removesuffix(".log") for path in directory.glob("*.log")}
    return heapq.merge(*(_read(directory, name) for name in sorted(processes)), key=lambda line: line[0])


def _read(directory: Path, process: str) -> Iterator[Line]:
    """A process's lines, those of its oldest rotated file first."""
    # As supervisord numbers them. What somebody has compressed or copied beside them is left alone.
    numbered = [path for path in directory.glob(f"{process}.log.*") if _NUMBER.fullmatch(path.suffix)]
    rotated = sorted(numbered, key=lambda path: int(path.suffix[1:]), reverse=True)
    at = ""
    for path in [*rotated, directory / f"{process}.log"]:
        try:
            stream = path.open(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            continue  # It was rotated away just now.
        with stream:
            for text in stream:
                at = _time(text) or at
                yield at, process, text.rstrip("\n")


def _follow(directory: Path) -> Iterator[Line]:
    streams: dict[Path, tuple[int, TextIO]] = {}
    first = True
    while True:
        for path in sorted(directory.glob("*.log")):
            try:
                inode = path.stat().st_ino
                stream = None
                if path not in streams or streams[path][0] != inode:
                    stream = path.open(encoding="utf-8", errors="replace")
            except FileNotFoundError:
                continue  # It's being rotated: the next look finds it.
            if stream is not None:
                if first:
                    stream.seek(0, 2)
                elif path in streams:
                    yield from _new(path, streams[path][1])  # What came before it was rotated.
                streams[path] = (inode, stream)
            yield from _new(path, streams[path][1])
        first = False
        time.sleep(LOOK_SECONDS)


def _new(path: Path, stream: TextIO) -> Iterator[Line]:
    while text := stream.readline():
        yield _time(text), path.name.removesuffix(".log"), text.rstrip("\n")


def _time(text: str) -> str:
    if text.startswith('{"time": "'):
        return text[10:29]
    found = _TEXT_TIME.match(text)
    return found[0].replace(" ", "T") if found else ""


def _shown(line: Line, *, as_json: bool) -> str:
    at, process, text = line
    if as_json:
        return text
    try:
        found = json.loads(text)
    except ValueError:
        return f"{process}  {shown_lines(text)}"
    if not isinstance(found, dict) or "message" not in found:
        return f"{process}  {shown_lines(text)}"
    about = "".join(f"  {name} {found[name]}" for name in ("campaign", "subscriber", "attempt") if found.get(name))
    return shown_lines(f"{process}  {at}  {found.get('level', '')!s:<7}  {found['message']}{about}")
