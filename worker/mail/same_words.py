"""What the replies to different recipients have in common. Pure."""

import re

MAX_CHARACTERS = 200

_HEAD = re.compile(r"\d{3}( #?[245]\.\d{1,3}\.\d{1,3}(?![\d.]))?")
# Addresses, host names, links, and whatever has a digit in it: ids, times, counts.
_OWN = re.compile(r"<[^>]*>|https?://\S+|\S+@\S+|\S*\d\S*|[\w-]+(\.[\w-]+)+")
_WORD = re.compile(r"[^\W\d_]+")


def same_words(reply: str) -> str:
    """A reply without what is only this recipient's or this try's: code, enhanced code, and words. Empty if it isn't a
    server's reply, with its code in front."""
    text = reply.lower()
    head = _HEAD.match(text)
    if head is None:
        return ""
    words = _WORD.findall(_OWN.sub(" ", text[head.end() :]))
    return " ".join([head.group(), *words])[:MAX_CHARACTERS]
