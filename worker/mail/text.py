"""A readable text part for a mail that comes with HTML only."""

import re

from selectolax.lexbor import LexborHTMLParser, LexborNode

#: A line break that is meant, unlike those in the HTML's source. Jobs hold no control characters.
_BREAK = "\x01"
_INVISIBLE = ["head", "script", "style", "title", "template", "noscript"]
_EDGES = {
    **dict.fromkeys(
        "address article aside div dl dt dd fieldset figure footer form header main nav section tr".split(), _BREAK
    ),
    **dict.fromkeys("p h1 h2 h3 h4 h5 h6 blockquote ul ol table pre".split(), 2 * _BREAK),
}
#: Each tag takes 700 bytes and some microseconds: a million of them ended a process on a small host.
MAX_TAGS = 20_000
#: Of these a parser makes a copy in each paragraph that follows, until they are closed: 25 kB became a gigabyte.
_FORMATTING = re.compile(r"<(/?)(?:a|b|big|code|em|font|i|nobr|s|small|strike|strong|tt|u)(?=[\s/>])", re.IGNORECASE)
MAX_OPEN = 100
_TAG = re.compile(r"<[^<>]*>")
_OTHERS = frozenset(("li", "td", "th", "br", "hr", "img", "a"))


def is_heavy(html: str) -> bool:
    """Whether a parser would take seconds, or hundreds of megabytes."""
    if html.count("<") > MAX_TAGS:
        return True
    slashes = _FORMATTING.findall(html)
    return len(slashes) > MAX_OPEN and slashes.count("") - slashes.count("/") > MAX_OPEN


def text_from_html(html: str) -> str:
    """Words, links and list points of `html` as plain text; links as `words (https://…)`."""
    if is_heavy(html):
        from html import unescape  # its list of entities is large, and such a body rare

        return " ".join(unescape(_TAG.sub(" ", html)).split()) + "\n"
    tree = LexborHTMLParser(html.replace(_BREAK, ""))
    tree.strip_tags(_INVISIBLE)
    if tree.root is None:
        return "\n"
    # The text is put together in C: doing it here, node by node, once took half of a worker's time.
    for node in list(tree.root.traverse()):
        tag = node.tag or ""
        edge = _EDGES.get(tag)
        if edge is not None:
            node.insert_before(edge)
            node.insert_after(edge)
        elif tag in _OTHERS:
            _mark(node, tag)
    lines: list[str] = []
    for line in tree.root.text().split(_BREAK):
        words = " ".join(line.split())
        if words or (lines and lines[-1]):  # No blank lines at the beginning, and no two of them.
            lines.append(words)
    return "\n".join(lines).rstrip() + "\n"


def _mark(node: LexborNode, tag: str) -> None:
    if tag == "a":
        url = (node.attributes.get("href") or "").strip()
        if url.startswith(("http://", "https://", "mailto:")):
            node.insert_after(f" ({url})")
    elif tag == "br":
        node.insert_before(_BREAK)
    elif tag == "li":
        node.insert_before(f"{_BREAK}- ")
    elif tag == "img":
        node.insert_before(node.attributes.get("alt") or "")
    elif tag == "hr":
        node.insert_before(f"{_BREAK}----{_BREAK}")
    else:
        node.insert_after(" ")
