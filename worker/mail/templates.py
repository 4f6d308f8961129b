"""Templates: a mail's text once for a whole campaign, with places for each recipient's words. No logic: that's the
app's."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from worker.errors import InvalidJob, InvalidTemplate
from worker.mail.content import Content, one_line, read_text, word
from worker.mail.fields import escape_html, kind, line

MAX_NAME_CHARACTERS = 100
_NAME = re.compile(r"[\w.@/-]+")
# Three braces would be HTML that nobody escapes.
_PLACEHOLDER = re.compile(r"(?<!\{)\{\{\s*([A-Za-z_][\w.]*)\s*\}\}(?!\})")
_LINK_BEGINS = re.compile(r"""href\s*=\s*["']?\s*\{\{""", re.IGNORECASE)
_BRACES = re.compile(r"\{\{.{0,40}", re.DOTALL)


@dataclass(frozen=True)
class Template:
    """A template as `read_template` has checked it. Subject and text may be empty."""

    name: str
    subject: str
    html: str
    text: str

    @property
    def variables(self) -> tuple[str, ...]:
        """What a job must have for it, in the order of the mail."""
        texts = (self.subject, self.html, self.text)
        return tuple(dict.fromkeys(name for text in texts for name in _PLACEHOLDER.findall(text)))

    def fill(self, data: Mapping[str, object], used: set[str], *, makes_text: bool) -> Content:
        """The mail for one recipient.

        Args:
            data: the words by their names; `a.b` is b in the object a.
            used: gets the names of those that stand in the mail.
            makes_text: whether a text part is made where the template has none.

        Raises:
            InvalidJob: one is missing.
        """
        subject, html, text = self._pieces
        if makes_text and not self.text and self._made_text is not None:
            text = self._made_text

        def filled(pieces: list[str], how: Callable[[str], str]) -> str:
            words = list(pieces)
            for number in range(1, len(words), 2):
                used.add(words[number].partition(".")[0])
                words[number] = how(self._word(data, words[number]))
            return "".join(words)

        return Content(filled(subject, one_line).strip(), filled(html, escape_html), filled(text, str))

    def _word(self, data: Mapping[str, object], path: str) -> str:
        found = word(data, path)
        if found is None:
            raise InvalidJob(f"the template {self.name} needs {path}, but the job has no {path} in its vars")
        return found

    @cached_property
    def _pieces(self) -> tuple[list[str], list[str], list[str]]:
        return _PLACEHOLDER.split(self.subject), _PLACEHOLDER.split(self.html), _PLACEHOLDER.split(self.text)

    @cached_property
    def _made_text(self) -> list[str] | None:
        """None where it must be made of each mail: a link that begins with a place shows itself then alone, and so
        does a place that the HTML hides."""
        if not self.html:
            return [""]
        from worker.mail.text import text_from_html  # the HTML parser is for those who build mails

        made = _PLACEHOLDER.split(text_from_html(self.html))
        hidden = set(made[1::2]) - set(self._pieces[1][1::2])
        return None if hidden or _LINK_BEGINS.search(self.html) else made


FindTemplate = Callable[[str], Template]


def no_template(name: str) -> Template:
    """Finds none.

    Raises:
        InvalidTemplate: always.
    """
    raise InvalidTemplate(f"there's no template {name}: add it with mail-worker template add {name} FILE")


def read_template(name: str, value: object) -> Template:
    """Checks a template as it stands in Redis: `{subject, html, text}` in JSON, of which html or text must be there.

    Raises:
        InvalidJob: it isn't one; says what is wrong with it.
    """
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME_CHARACTERS:
        raise InvalidJob(
            f"a template's name has letters, numbers, dots, dashes and underscores, {MAX_NAME_CHARACTERS} at the most"
        )
    if isinstance(value, str | bytes):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise InvalidJob(f"the template {name} isn't JSON") from None
    if not isinstance(value, dict):
        raise InvalidJob(f"the template {name} is {kind(value)}, but must be an object with subject and html")
    template = Template(
        name,
        line(value.get("subject") or "", "subject"),
        read_text(value.get("html"), "html"),
        read_text(value.get("text"), "text"),
    )
    if not template.html and not template.text:
        raise InvalidJob(f"the template {name} has neither html nor text")
    for text in (template.subject, template.html, template.text):
        if found := _BRACES.search(_PLACEHOLDER.sub("", text)):
            raise InvalidJob(
                f"the template {name} holds {found[0].splitlines()[0]!r}, but only single names like {{{{name}}}} or"
                " {{user.city}} are filled in: what is more, the app must do"
            )
    return template
