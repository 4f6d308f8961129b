"""Words that others wrote, such as a server's reply, fit to be shown in a terminal."""

#: Control characters (a terminal obeys what comes behind an escape), and those that turn the reading's direction. A
#: regular expression of them would take 170 kB in each process.
_OBEYED = dict.fromkeys(
    [*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\N{REPLACEMENT CHARACTER}"
)
_OBEYED_IN_LINES = {code: shown for code, shown in _OBEYED.items() if chr(code) not in "\t\n"}


def shown_line(text: str) -> str:
    """Takes all white space for blanks, and leaves nothing in it that a terminal obeys."""
    line = " ".join(text.split())
    # Each reply of a mail server is asked, and nearly all are plain.
    return line if line.isprintable() else line.translate(_OBEYED)


def shown_lines(text: str) -> str:
    """The same of text in several lines, which stay."""
    return text.translate(_OBEYED_IN_LINES)
