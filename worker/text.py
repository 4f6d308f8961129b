"""A readable text part for a mail that comes with HTML only."""

import re

from selectolax.lexbor import LexborHTMLParser, LexborNode

_INVISIBLE = frozenset(("head", "script", "style", "title", "template", "noscript"))
_BLOCKS = frozenset(
    "address article aside blockquote div dl dt dd fieldset figure footer form header main nav ol p pre section "
    "table tr ul h1 h2 h3 h4 h5 h6".split()
)
_PARAGRAPHS = frozenset("p h1 h2 h3 h4 h5 h6 blockquote ul ol table pre".split())
_SPACES = re.compile(r"[ \t\r\n\f\u00a0]+")
_SPACES_AT_LINE_END = re.compile(r" *\n *")
_MANY_LINES = re.compile(r"\n{3,}")


def text_from_html(html: str) -> str:
    """Words, links and list points of `html` as plain text; links as `words (https://…)`."""
    root = LexborHTMLParser(html).root
    if root is None:
        return ""
    parts: list[str] = []
    _walk(root, parts)
    text = _SPACES_AT_LINE_END.sub("\n", "".join(parts))
    return _MANY_LINES.sub("\n\n", text).strip() + "\n"


def _walk(root: LexborNode, parts: list[str]) -> None:
    # A stack instead of recursion: mail HTML nests deeply, and hostile HTML without end.
    stack: list[LexborNode | str] = [root]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            parts.append(item)
            continue
        tag = item.tag
        if tag == "-text":
            parts.append(_SPACES.sub(" ", item.text_content or ""))
            continue
        if tag in _INVISIBLE:
            continue
        before, after = _around(item, tag or "")
        parts.append(before)
        stack.append(after)
        stack.extend(_children_reversed(item))


def _around(node: LexborNode, tag: str) -> tuple[str, str]:
    if tag == "br":
        return "\n", ""
    if tag == "hr":
        return "\n----\n", ""
    if tag == "li":
        return "\n- ", ""
    if tag in ("td", "th"):
        return "", " "
    if tag == "img":
        return node.attributes.get("alt") or "", ""
    if tag == "a":
        url = (node.attributes.get("href") or "").strip()
        return "", f" ({url})" if url.startswith(("http://", "https://", "mailto:")) else ""
    if tag in _BLOCKS:
        edge = "\n\n" if tag in _PARAGRAPHS else "\n"
        return edge, edge
    return "", ""


def _children_reversed(node: LexborNode) -> list[LexborNode]:
    children = list(node.iter(include_text=True))
    children.reverse()
    return children
