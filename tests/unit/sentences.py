"""Every sentence of this project that tells a user what is wrong, read out of its source. What is filled in later, and
can't be known here, is `…` in it."""

import ast
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, nodes

HOLE = "…"
#: Of one f-string with choices in it, so many readings.
READINGS = 64
#: A sentence has so many words; what is raised, logged or printed as an error may be shorter.
WORDS, WORDS_OF_ERRORS = 3, 2

#: Calls whose words are an error, by the function's or method's name.
ERROR_CALLS = frozenset("warning error exception critical exit SystemExit fail_json failure Trouble".split())
#: Calls whose words aren't: what is well, what is going on, and what no user sees.
OTHER_CALLS = frozenset("info debug ok add_argument add_parser ArgumentParser compile cast getLogger encode".split())
_PERCENT = re.compile(r"%[-+.\d]*[sdfr]\b")
#: A module's documentation for Ansible.
ANSIBLE_DOCS = frozenset(("DOCUMENTATION", "EXAMPLES", "RETURN"))


@dataclass(frozen=True)
class Sentence:
    """`path` is within the checkout. What isn't an error is there too: rows may be about it, but none must."""

    path: str
    line: int
    text: str
    is_error: bool


def squeezed(text: str) -> str:
    """On one line, with neighbouring holes as one."""
    return re.sub(rf"{HOLE}(\s*{HOLE})+", HOLE, " ".join(text.split()))


def is_sentence(text: str, words: int) -> bool:
    """Whether so many words stand side by side in it, holes among them, but two of its own."""
    for run in re.findall(rf"(?<![\w-])[A-Za-z{HOLE}][\w'-]*(?: [A-Za-z{HOLE}][\w'-]*)+", text):
        side_by_side = run.split()
        if len(side_by_side) >= words and sum(HOLE not in word for word in side_by_side) >= 2:
            return True
    return False


# Python


def python_sentences(source: str, path: str, *, errors_alone: bool) -> Iterator[Sentence]:
    """Of a module.

    Args:
        errors_alone: what is raised, logged as an error, or printed as one, is one. Else all is but docstrings, help,
            results and logs.
    """
    reader = _Python(path, is_error=not errors_alone)
    reader.visit(ast.parse(source))
    yield from reader.found


class _Python(ast.NodeVisitor):
    def __init__(self, path: str, *, is_error: bool) -> None:
        self.found: list[Sentence] = []
        self._path = path
        self._is_error = is_error
        self._words = WORDS

    def visit(self, node: ast.AST) -> None:
        if _is_docstring(node) or _is_documentation(node):
            return
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.AnnAssign | ast.arg):
            _forget_annotations(node)
        if isinstance(node, ast.Raise | ast.Call) and (is_error := _is_error(node)) is not None:
            before = self._is_error, self._words
            self._is_error, self._words = is_error, WORDS_OF_ERRORS if is_error else WORDS
            self.generic_visit(node)
            self._is_error, self._words = before
        elif isinstance(node, ast.expr) and _is_text(node):
            self._take(node)
            for hole in _holes(node):
                self.generic_visit(hole)
        else:
            self.generic_visit(node)

    def _take(self, node: ast.expr) -> None:
        for text in _readings(node):
            # A log's own holes; a sentence has no such words.
            text = squeezed(_PERCENT.sub(HOLE, text))
            if is_sentence(text, self._words):
                self.found.append(Sentence(self._path, node.lineno, text, self._is_error))


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_documentation(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in ANSIBLE_DOCS


def _forget_annotations(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.AnnAssign | ast.arg) -> None:
    if isinstance(node, ast.AnnAssign):
        node.annotation = ast.Constant(None)
    elif isinstance(node, ast.arg):
        node.annotation = None
    else:
        node.returns = None


def _name(call: ast.Call) -> str:
    function = call.func
    return (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )


def _is_error(node: ast.Raise | ast.Call) -> bool | None:
    """None of a call that is neither: what is around it tells."""
    if isinstance(node, ast.Raise):
        return True
    name = _name(node)
    if name == "print":
        return any(keyword.arg == "file" and "stderr" in ast.unparse(keyword.value) for keyword in node.keywords)
    if name == "Finding":
        return ast.unparse(node.args[1]) == "False"
    return True if name in ERROR_CALLS else False if name in OTHER_CALLS else None


def _is_text(node: ast.expr) -> bool:
    """Whether it's a text whose words stand here, at least in part."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str)
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.Add | ast.Mod) and (_is_text(node.left) or _is_text(node.right))
    return isinstance(node, ast.JoinedStr)


def _readings(node: ast.expr) -> list[str]:
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=parts):
            return _joined(_readings(part) for part in parts)
        case ast.FormattedValue(value=value):
            return _readings(value)
        case ast.IfExp(body=one, orelse=other):
            return [*_readings(one), *_readings(other)]
        case ast.BoolOp(op=ast.Or(), values=values):
            return [text for value in values for text in _readings(value)]
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return _joined([_readings(left), _readings(right)])
        case ast.BinOp(op=ast.Mod(), left=left):
            return _readings(left)
        case _:
            return [HOLE]


def _joined(parts: Iterable[list[str]]) -> list[str]:
    found = [""]
    for part in parts:
        choices = part if len(found) * len(part) <= READINGS else [HOLE]
        found = [f"{before}{after}" for before, after in product(found, choices)]
    return found


def _holes(node: ast.expr) -> Iterator[ast.expr]:
    """What is filled in, in which further texts may stand."""
    match node:
        case ast.JoinedStr(values=values) | ast.BoolOp(values=values):
            for value in values:
                yield from _holes(value)
        case ast.FormattedValue(value=value):
            yield from _holes(value)
        case ast.IfExp(test=test, body=one, orelse=other):
            yield test
            yield from _holes(one)
            yield from _holes(other)
        case ast.BinOp(left=left, right=right) if _is_text(node):
            yield from _holes(left)
            yield from _holes(right)
        case ast.Constant():
            pass
        case _:
            yield node


# Ansible


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML tells no types
    """Vaults and unsafe texts are texts."""


_Loader.add_constructor("!vault", lambda loader, node: "")
_Loader.add_constructor("!unsafe", lambda loader, node: loader.construct_scalar(node))
_JINJA = Environment(autoescape=False)  # it's read, never rendered


def ansible_sentences(source: str, path: str) -> Iterator[Sentence]:
    """Of a file of tasks or plays: what `fail` and `assert` say, with the variables of the same file that stand in it,
    and what shell scripts in it print as errors."""
    messages: list[str] = []
    variables: dict[str, list[str]] = {}
    for document in yaml.load_all(source, _Loader):
        for keys, value in _scalars(document):
            if keys[-1] == "fail_msg" or (keys[-1] == "msg" and keys[-2].endswith(".fail")):
                messages.append(value)
            else:
                for key in keys:
                    variables.setdefault(key, []).append(value)
            if "echo" in value:
                yield from shell_sentences(re.sub(r"{{.*?}}", HOLE, value), path)
    seen: set[str] = set()
    while messages:
        text = messages.pop()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # patterns have escapes that texts haven't
            template = _JINJA.parse(text)
        for words in _jinja_texts(template):
            if is_sentence(words := squeezed(words), WORDS):
                yield Sentence(path, _line(source, text), words, is_error=True)
        for name in {one.name for one in template.find_all(nodes.Name)} - seen:
            seen.add(name)
            messages.extend(variables.get(name, []))


def _scalars(value: Any, keys: tuple[str, ...] = ("", "")) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _scalars(one, (*keys, str(key)))
    elif isinstance(value, list):
        for one in value:
            yield from _scalars(one, keys)
    elif isinstance(value, str):
        yield keys, value


def _line(source: str, text: str) -> int:
    start = text.strip().splitlines()[0][:20] if text.strip() else ""
    place = source.find(start)
    return source.count("\n", 0, place) + 1 if place >= 0 else 0


def _jinja_texts(template: nodes.Node) -> Iterator[str]:
    """A template's own text, that of each of its branches, and texts within its expressions."""
    text = ""
    for node in template.iter_child_nodes():
        if isinstance(node, nodes.Output):
            for part in node.nodes:
                if isinstance(part, nodes.TemplateData):
                    text += part.data
                else:
                    text += HOLE
                    yield from (one.value for one in _constants(part))
        else:
            text += HOLE
            yield from _branches(node)
    yield text


def _branches(node: nodes.Node) -> Iterator[str]:
    if isinstance(node, nodes.If):
        for body in (node.body, node.else_):
            yield from _jinja_texts(nodes.Template(body))
        for other in node.elif_:
            yield from _branches(other)
    elif isinstance(node, nodes.For):
        yield from _jinja_texts(nodes.Template(node.body))


def _constants(node: nodes.Node) -> Iterator[nodes.Const]:
    found = [node] if isinstance(node, nodes.Const) else list(node.find_all(nodes.Const))
    return (one for one in found if isinstance(one.value, str))


# Shell


def shell_sentences(source: str, path: str) -> Iterator[Sentence]:
    """What a script says by `fail` or `echo`."""
    for match in re.finditer(r"(?:^|[\s;{|&])(fail|echo) +(?=[\"'])", source):
        text, place = "", match.end()
        while place < len(source) and source[place] in "\"'":
            words, place = _quoted(source, place)
            text += f"{words} "
            place += len(re.match(r"(?:[ \t]|\\\n)*", source[place:])[0])  # type: ignore[index]  # it matches nothing, too
        if is_sentence(text := squeezed(text), WORDS):
            yield Sentence(path, source.count("\n", 0, match.start(1)) + 1, text, is_error=True)


def _quoted(source: str, place: int) -> tuple[str, int]:
    """A quoted word, and where it ends."""
    quote, text, place = source[place], "", place + 1
    while place < len(source) and source[place] != quote:
        if source[place] == "$" and quote == '"':
            text += HOLE
            place = _end_of_hole(source, place + 1)
        else:
            if source[place] == "\\" and quote == '"':
                place += 1
            text += source[place]
            place += 1
    return text, place + 1


def _end_of_hole(source: str, place: int) -> int:
    closing = {"(": ")", "{": "}"}.get(source[place])
    if closing is None:
        return place + max(1, len(re.match(r"\w*", source[place:])[0]))  # type: ignore[index]  # it matches nothing, too
    opening, depth = source[place], 0
    while True:
        depth += (source[place] == opening) - (source[place] == closing)
        place += 1
        if not depth:
            return place


# Lua and the page


def lua_sentences(source: str, path: str) -> Iterator[Sentence]:
    """What a script in Redis says, in results and reasons."""
    for number, line in enumerate(source.splitlines(), 1):
        for text in re.findall(r"'((?:[^'\\]|\\.)*)'", line.partition("--")[0]):
            if is_sentence(text := _PERCENT.sub(HOLE, text.replace("\\'", "'")), WORDS):
                yield Sentence(path, number, text, is_error=True)


def page_sentences(source: str, path: str) -> Iterator[Sentence]:
    """What the page's script says in a sentence of its own."""
    for match in re.finditer(r'"([A-Z][^"\n]* [^"\n]*[.?])"', source):
        if is_sentence(match[1], WORDS):
            yield Sentence(path, source.count("\n", 0, match.start()) + 1, match[1], is_error=True)


def sentences_of(checkout: Path, paths: Iterable[str], errors_alone: Iterable[str]) -> Iterator[Sentence]:
    """Of all these files."""
    shown = frozenset(errors_alone)
    for path in paths:
        source = (checkout / path).read_text(encoding="utf-8")
        if path.endswith(".py"):
            yield from python_sentences(source, path, errors_alone=path in shown)
        elif path.endswith(".yml"):
            yield from ansible_sentences(source, path)
        elif path.endswith(".lua"):
            yield from lua_sentences(source, path)
        elif path.endswith(".js"):
            yield from page_sentences(source, path)
        else:
            yield from shell_sentences(source, path)
