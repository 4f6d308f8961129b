"""Templates in Redis, where the app and `mail-worker template` put them: one hash, name → `{subject, html, text}`."""

import json
import time
from collections.abc import Iterator
from typing import Any

import redis
import redis.asyncio

from worker.base import keys
from worker.errors import InvalidJob, InvalidTemplate
from worker.mail.templates import FindTemplate, Template, no_template, read_template

#: So long a process goes by what it has read; and so long by there being none.
KNOWN_SECONDS = 30.0
UNKNOWN_SECONDS = 5.0
#: A worker keeps the last few.
MOST_KEPT = 16


class Templates:
    """A worker's. `load` asks Redis now and then, `find` doesn't."""

    def __init__(self, client: "redis.asyncio.Redis") -> None:
        self._client = client
        self._kept: dict[str, tuple[bytes | None, Template | InvalidJob, float]] = {}

    async def load(self, name: str) -> None:
        """Brings a template up to date, if that's due.

        Raises:
            redis.RedisError: Redis is away.
        """
        kept = self._kept.get(name)
        now = time.monotonic()
        if kept is not None and now < kept[2]:
            return
        data: Any = await self._client.hget(keys.TEMPLATES, name)
        found = kept[1] if kept is not None and kept[0] == data else _read(name, data)
        self._kept.pop(name, None)
        self._kept[name] = (data, found, now + (KNOWN_SECONDS if isinstance(found, Template) else UNKNOWN_SECONDS))
        if len(self._kept) > MOST_KEPT:
            del self._kept[next(iter(self._kept))]

    def find(self, name: str) -> Template:
        """One that was loaded.

        Raises:
            InvalidJob: there's none, or it's wrong.
        """
        kept = self._kept.get(name)
        found = no_template(name) if kept is None else kept[1]
        if isinstance(found, InvalidJob):
            raise found
        return found


def finder(client: "redis.Redis") -> FindTemplate:
    """Finds templates for a command, each read once.

    The function raises InvalidJob where there's none, and redis.RedisError.
    """
    kept: dict[str, Template | InvalidJob] = {}

    def find(name: str) -> Template:
        if name not in kept:
            data: Any = client.hget(keys.TEMPLATES, name)
            kept[name] = _read(name, data)
        found = kept[name]
        if isinstance(found, InvalidJob):
            raise found
        return found

    return find


def add_template(client: "redis.Redis", name: str, *, html: str = "", subject: str = "", text: str = "") -> Template:
    """Puts a template there for all workers, who know it within half a minute. One of that name is replaced.

    Raises:
        InvalidJob: it can't be one.
        redis.RedisError: Redis is away.
    """
    value = {"subject": subject, "html": html, "text": text}
    template = read_template(name, value)
    client.hset(keys.TEMPLATES, name, json.dumps({key: part for key, part in value.items() if part}))
    return template


def remove_template(client: "redis.Redis", name: str) -> bool:
    """Whether there was one."""
    return bool(client.hdel(keys.TEMPLATES, name))


def all_templates(client: "redis.Redis") -> Iterator[tuple[str, Template | InvalidJob]]:
    """Each name, with its template or what is wrong with it."""
    found: Any = client.hgetall(keys.TEMPLATES)
    for name, data in sorted(found.items()):
        text = name.decode(errors="replace")
        yield text, _read(text, data)


def _read(name: str, data: bytes | None) -> Template | InvalidJob:
    try:
        return no_template(name) if data is None else read_template(name, data)
    except InvalidJob as error:
        return InvalidTemplate(str(error))
