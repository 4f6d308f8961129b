"""`mail-worker template`: texts that a campaign's jobs have in common, from files into Redis."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from worker.base.redis_client import connect
from worker.base.settings import Settings
from worker.errors import InvalidFile, InvalidJob, OperatorMistake
from worker.mail.content import read_text
from worker.mail.fields import line
from worker.mail.templates import Template
from worker.queue.templates import add_template, all_templates, finder, remove_template


def template(settings: Settings, options: Namespace) -> int:
    """`mail-worker template add NAME FILE [--subject TEXT] [--text FILE] | list | show NAME | remove NAME`"""
    client = connect(settings.redis_url)
    if options.action == "list":
        for name, found in all_templates(client):
            print(_summary(found) if isinstance(found, Template) else f"{name}  WRONG: {found}")
        return 0
    if not options.name:
        raise OperatorMistake(f"Which one? mail-worker template {options.action} NAME; template list shows them.")
    try:
        match options.action:
            case "add":
                print(_summary(_add(client, options)))
            case "show":
                found = finder(client)(options.name)
                print(
                    json.dumps({"subject": found.subject, "html": found.html, "text": found.text}, ensure_ascii=False)
                )
            case _:
                if not remove_template(client, options.name):
                    raise OperatorMistake(f"There's no template {options.name}: template list shows them.")
                print(f"template {options.name} is removed; jobs that wait for it are refused from now on")
    except InvalidJob as error:
        raise OperatorMistake(f"{str(error)[:1].upper()}{str(error)[1:]}.") from None
    return 0


def _add(client: Any, options: Namespace) -> Template:
    if options.file is None:
        raise OperatorMistake(f"From which file? mail-worker template add {options.name} FILE")
    value = read_file(options.file)
    return add_template(
        client,
        options.name,
        html=read_text(value.get("html"), "html"),
        subject=options.subject or line(value.get("subject") or "", "subject"),
        text=read_text_file(options.text) if options.text is not None else read_text(value.get("text"), "text"),
    )


def _summary(found: Template) -> str:
    needs = f"needs {', '.join(found.variables)}" if found.variables else "the same for all"
    subject = f", subject {found.subject!r}" if found.subject else ""
    return f"{found.name}  {len(found.html) + len(found.text):,} characters{subject}; {needs}"


def read_file(path: Path) -> dict[str, Any]:
    """A file's template.

    Raises:
        InvalidFile: it can't be read.
    """
    text = read_text_file(path)
    if path.suffix.lower() != ".json":
        return {"html": text}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidFile(f"{path} isn't JSON: {error}.") from None
    if not isinstance(value, dict):
        raise InvalidFile(f"{path} must be an object with subject, html and text.")
    return value


def read_text_file(path: Path) -> str:
    """A file's text.

    Raises:
        InvalidFile: it can't be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InvalidFile(f"{path} can't be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise InvalidFile(f"{path} isn't UTF-8 text: save it as such.") from None
