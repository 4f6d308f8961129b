"""Words that others wrote, such as a server's reply, fit to be shown in a terminal."""

import re

#: Control characters (a terminal obeys what comes behind an escape), and those that turn the reading's direction.
_OBEYED = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_OBEYED_IN_LINES = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def shown_line(text: str) -> str:
    """Takes all white space for blanks, and leaves nothing in it that a terminal obeys."""
    line = " ".join(text.split())
    # Each reply of a mail server is asked; to see that there's nothing to replace takes a regular expression longer.
    return line if line.isprintable() else _OBEYED.sub("\N{REPLACEMENT CHARACTER}", line)


def shown_lines(text: str) -> str:
    """The same of text in several lines, which stay."""
    return _OBEYED_IN_LINES.sub("\N{REPLACEMENT CHARACTER}", text)
