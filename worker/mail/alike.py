"""The text parts of bodies that are alike: a campaign's differ by a name, a link's token, or not at all.

Making a text part takes a third of a mail's time. So a campaign's first bodies tell where they differ, their text is
made once with places left for what differs, and the next body that is equal but for these gets it filled in. The text
is the same as without: a body that a place could change otherwise is read by the HTML parser."""

import re
from collections.abc import Callable
from functools import lru_cache

from selectolax.lexbor import LexborHTMLParser

from worker.mail.text import is_heavy, text_from_html

#: Longer bodies are read one by one.
MAX_KEPT_CHARACTERS = 100_000
#: Bodies with more places than this differ by more than words.
MAX_PLACES = 64
_CAMPAIGNS_KEPT = 8
_LONGEST_PATIENCE = 1024

# A place ends where markup could begin, so that no value joins what stands beside it.
_SEPARATORS = re.compile(r"([<>&\"'`=/?\s]+)")
# Private characters, which stand for no word of anybody's.
_PLACE = "\ue000{}\ue001"
_IN_PLACE = re.compile(r"\ue000(\d+)\ue001")
# Values with which the parser does what it does with any other word there.
_IN_TEXT = re.compile(r"[^<>&\x00-\x1f\x7f-\x9f]+")
_IN_ATTRIBUTE = re.compile(r"[^<>&\"'`=\s\x00-\x1f\x7f-\x9f]+")
# The parser looks at what these say.
_ATTRIBUTES_THAT_MATTER = frozenset(("type", "encoding"))


def text_of_campaign(html: str, campaign_id: str | None) -> str:
    """The same as `text_from_html`, in a fraction of its time for a body like another one of the campaign."""
    if len(html) > MAX_KEPT_CHARACTERS:
        return text_from_html(html)
    return _bodies_of(campaign_id).text(html)


@lru_cache(maxsize=_CAMPAIGNS_KEPT)
def _bodies_of(_campaign_id: str | None) -> "AlikeBodies":
    return AlikeBodies()


class AlikeBodies:
    """What one campaign's bodies have in common."""

    def __init__(self) -> None:
        self._body = ""
        self._places: set[int] = set()
        self._pattern: _Pattern | None = None
        # Since it was last looked where they differ, and from how many misses on it's looked again.
        self._hits = self._misses = 0
        self._patience = 1

    def text(self, html: str) -> str:
        """The text part of a body."""
        if self._pattern is not None and (text := self._pattern.text(html)) is not None:
            self._hits += 1
            return text
        text = text_from_html(html)
        self._misses += 1
        if self._misses >= self._patience:
            self._learn(html, text)
        return text

    def _learn(self, html: str, text: str) -> None:
        served, self._hits, self._misses = self._hits > 0, 0, 0
        # Bodies that have nothing in common cost no more than their reading.
        self._patience = 1 if served else min(self._patience * 2, _LONGEST_PATIENCE)
        known, words = _SEPARATORS.split(self._body), _SEPARATORS.split(html)
        if len(known) == len(words) and known[1::2] == words[1::2]:
            self._places.update(number for number in range(0, len(words), 2) if known[number] != words[number])
        elif served:
            return  # One odd name isn't the end of what fits the others.
        else:
            self._body, self._places = html, set()
        if len(self._places) > MAX_PLACES:
            self._body, self._places = html, set()
        pattern = _pattern(words, sorted(self._places))
        self._pattern = pattern if pattern is not None and pattern.text(html) == text else None


class _Pattern:
    """Bodies that are equal but for their places, and their text."""

    def __init__(self, literals: list[str], fits: list[Callable[[str], bool]], text: str) -> None:
        self._literals = literals
        self._fits = fits
        # Words and numbers of places, in turns.
        self._text = _IN_PLACE.split(text)

    def text(self, html: str) -> str | None:
        """A body's text, or None if it isn't such a body."""
        values = self._values(html)
        if values is None:
            return None
        text = list(self._text)
        text[1::2] = (values[int(number)] for number in self._text[1::2])
        return "".join(text)

    def _values(self, html: str) -> list[str] | None:
        first, last = self._literals[0], self._literals[-1]
        if not self._fits:
            return [] if html == first else None
        if not html.startswith(first) or not html.endswith(last):
            return None
        values, start, end = [], len(first), len(html) - len(last)
        for literal, fits in zip((*self._literals[1:-1], None), self._fits, strict=True):
            stop = end if literal is None else html.find(literal, start, end)
            value = html[start:stop] if stop >= start else ""
            if not fits(value):
                return None
            values.append(value)
            start = stop + len(literal or "")
        return values


def _pattern(words: list[str], places: list[int]) -> _Pattern | None:
    """Of a body in words and separators; None where a value could change more than itself."""
    literals: list[str] = []
    start = 0
    for place in places:
        before = "".join(words[start:place])
        if before == " " and literals:
            # First name and last name, which the next one may not have.
            start = place + 1
            continue
        if before.endswith(("<", "&")) or not before.strip():
            return None
        literals.append(before)
        start = place + 1
    literals.append("".join(words[start:]))
    if any("\ue000" in literal or "\ue001" in literal for literal in literals):
        return None
    html = literals[0] + "".join(_PLACE.format(number) + literal for number, literal in enumerate(literals[1:]))
    # What ends a comment in a script, or a section of XML, may be any words.
    if is_heavy(html) or "<![CDATA[" in html or ("<!--" in html and "<script" in html.lower()):
        return None
    fits = _fits(html)
    return _Pattern(literals, fits, text_from_html(html)) if len(fits) == len(literals) - 1 else None


def _fits(html: str) -> list[Callable[[str], bool]]:
    """By place, whether a value may stand there; fewer than places if one of them is anywhere but in words or in an
    attribute's value."""
    found: list[tuple[int, Callable[[str], bool]]] = []
    root = LexborHTMLParser(html).root
    for node in root.traverse(include_text=True) if root is not None else ():
        if node.tag == "-text":
            found.extend((int(number), _fits_text) for number in _IN_PLACE.findall(node.text_content or ""))
            continue
        for name, value in node.attributes.items():
            # A URL is told by its beginning.
            if value and name not in _ATTRIBUTES_THAT_MATTER and not value.strip().startswith("\ue000"):
                found.extend((int(number), _fits_attribute) for number in _IN_PLACE.findall(value))
    found.sort(key=lambda one: one[0])
    return [fits for number, (place, fits) in enumerate(found) if number == place]


def _fits_text(value: str) -> bool:
    return _IN_TEXT.fullmatch(value) is not None and " ".join(value.split()) == value


def _fits_attribute(value: str) -> bool:
    return _IN_ATTRIBUTE.fullmatch(value) is not None
