"""Lines for a terminal: as wide as it is, between words. What goes into a pipe or a file stays one line each."""

import shutil
import sys
import textwrap
from collections.abc import Iterable


def print_lines(lines: Iterable[str], indent: int = 11) -> None:
    """Prints them; the further lines of a long one begin after `indent` blanks."""
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for line in lines:
        print("\n".join(folded(line, columns, indent)) if columns else line)
    # What is wrong goes to standard error, and comes after.
    sys.stdout.flush()


def folded(line: str, columns: int, indent: int) -> list[str]:
    """One line in lines of `columns` characters; a longer word stays whole, so that it can be copied."""
    return textwrap.wrap(
        line, columns, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    ) or [""]
