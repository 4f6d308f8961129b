"""Dramatiq's Redis broker, set up for mails. With actors.py and runner.py the only module that knows Dramatiq."""

import time
from typing import Any

import redis
from dramatiq import Middleware, set_encoder
from dramatiq.brokers.redis import RedisBroker
from dramatiq.encoder import JSONEncoder
from dramatiq.middleware import CurrentMessage, Retries

from worker.base import keys
from worker.base.redis_client import encodable

#: For errors that nobody foresaw: the mail comes back a few times before it's put aside.
MAX_UNEXPECTED_ERRORS = 2
UNEXPECTED_ERROR_DELAY_MS = 60_000

ENQUEUE_AGAIN_SECONDS = 1.0


class DeadLetter(Exception):
    """Raised by an actor: the message can never be worked on, and goes to the dead letters with this reason."""


class MailBroker(RedisBroker):
    """Producers' side of the queue, and the middleware; runner.py consumes.

    Dramatiq's retries are for unexpected errors alone. What is expected of a mail, each try that a server refuses,
    doesn't end with an exception here.
    """

    def __init__(self, client: "redis.Redis") -> None:
        set_encoder(_CheckingEncoder())
        retries = Retries(max_retries=MAX_UNEXPECTED_ERRORS, min_backoff=UNEXPECTED_ERROR_DELAY_MS)
        middleware: list[Middleware] = [CurrentMessage(), retries]
        super().__init__(client=client, namespace=keys.QUEUE_NAMESPACE, middleware=middleware)

    def do_enqueue(self, queue_name: str, redis_message_id: str, data: bytes) -> None:
        """Doesn't return before Redis has the message: its caller acknowledges the message that this one replaces."""
        enqueue = self._dispatch("enqueue")
        while True:
            try:
                enqueue(queue_name, redis_message_id, data)
                return
            except redis.RedisError:
                time.sleep(ENQUEUE_AGAIN_SECONDS)


class _CheckingEncoder(JSONEncoder):
    """Refuses JSON that Dramatiq would take for a message and then trip over."""

    def decode(self, data: bytes) -> Any:
        fields = super().decode(data)
        if not isinstance(fields, dict):
            raise ValueError("its JSON isn't an object")
        if not isinstance(fields.get("options"), dict):
            raise ValueError("it has no options")
        expected = {"queue_name": str, "actor_name": str, "message_id": str, "args": list, "kwargs": dict}
        for name, kind in expected.items():
            if not isinstance(fields.get(name), kind):
                raise ValueError(f"its {name} isn't a {kind.__name__}")
        # JSON may hold half of a surrogate pair, which nothing behind this takes.
        if encodable(fields["message_id"]) != fields["message_id"]:
            raise ValueError("its message_id isn't text")
        return fields
