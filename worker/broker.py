"""Dramatiq's Redis broker, set up for mails. With actors.py the only module that knows Dramatiq."""

import logging
import time
from typing import Any

import redis
from dramatiq import Middleware, set_encoder
from dramatiq.broker import MessageProxy
from dramatiq.brokers.redis import RedisBroker, _RedisConsumer
from dramatiq.common import current_millis
from dramatiq.encoder import JSONEncoder
from dramatiq.errors import ConnectionClosed, DecodeError
from dramatiq.middleware import AsyncIO, CurrentMessage

from worker import keys
from worker.redis_client import explain, script

#: A process that was silent this long is taken for dead; what it held is worked on again.
HEARTBEAT_TIMEOUT_MS = 30_000
#: Out of a million: with Dramatiq's default of 1,000 a dead process's mails wait for luck.
MAINTENANCE_ALWAYS = 1_000_000

ENQUEUE_AGAIN_SECONDS = 1.0
_REQUEUE_AT_ONCE = 1000

logger = logging.getLogger(__name__)


class DeadLetter(Exception):
    """Raised by an actor: the message can never be worked on, and goes to the dead letters with this reason."""


class MailBroker(RedisBroker):
    """A RedisBroker that outlives rubbish in the queue, stalled sockets and a Redis that comes and goes."""

    def __init__(self, client: "redis.Redis") -> None:
        set_encoder(_CheckingEncoder())
        super().__init__(
            client=client,
            namespace=keys.QUEUE_NAMESPACE,
            middleware=[AsyncIO(), CurrentMessage(), _DeadLetters()],
            heartbeat_timeout=HEARTBEAT_TIMEOUT_MS,
            maintenance_chance=MAINTENANCE_ALWAYS,
        )
        self.held: dict[str, set[str]] = {}
        self._bury = client.register_script(script("bury"))

    @property
    def consumer_class(self) -> type["MailConsumer"]:
        return MailConsumer

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> "MailConsumer":
        """Called at the start and again after each lost connection: what got stranded then is queued again."""
        try:
            self._requeue_stranded(queue_name)
        except redis.RedisError as error:
            raise ConnectionClosed(explain(error)) from None
        return MailConsumer(self, queue_name, prefetch, timeout)

    def do_enqueue(self, queue_name: str, redis_message_id: str, data: bytes) -> None:
        """Doesn't return before Redis has the message: its caller acknowledges the message that this one replaces."""
        enqueue = self._dispatch("enqueue")
        while True:
            try:
                enqueue(queue_name, redis_message_id, data)
                return
            except redis.RedisError as error:
                logger.error("%s Holding on to a message.", explain(error))
                time.sleep(ENQUEUE_AGAIN_SECONDS)

    def bury(self, queue_name: str, data: bytes, reason: str) -> None:
        """Moves what isn't a message to the dead letters."""
        queue = f"{self.namespace}:{queue_name}"
        dead = f"{self.namespace}:{queue_name.removesuffix('.DQ')}.XQ"
        self._bury(
            keys=[self._acks(queue_name), f"{queue}.msgs", dead, f"{dead}.msgs"],
            args=[data, current_millis(), reason, keys.DEAD_LETTER_REASON_PREFIX, keys.DEAD_LETTER_SECONDS],
        )

    def _requeue_stranded(self, queue_name: str) -> None:
        # Fetched, but the answer was lost with the connection. Dramatiq would leave such messages to this process's
        # death. It also forgets all delayed messages that it held, so that for `.DQ` nothing is in hand.
        held = self.held.setdefault(queue_name, set())
        members: Any = self.client.smembers(self._acks(queue_name))
        fetched = {member.decode() for member in members}
        stranded = sorted(fetched - held)
        for start in range(0, len(stranded), _REQUEUE_AT_ONCE):
            self.do_requeue(queue_name, *stranded[start : start + _REQUEUE_AT_ONCE])

    def _acks(self, queue_name: str) -> str:
        return f"{self.namespace}:__acks__.{self.broker_id}.{queue_name}"


class MailConsumer(_RedisConsumer):
    """A consumer that treats each failure of Redis as a lost connection, which Dramatiq then restores."""

    def __next__(self) -> "MessageProxy | None":
        try:
            message: MessageProxy | None = super().__next__()
            if message is not None and not self.queue_name.endswith(".DQ"):
                self.broker.held[self.queue_name].add(message.options["redis_message_id"])
            return message
        except DecodeError as error:
            reason = f"not a message: {error.__cause__}"
            logger.error("A queued message is %s. It went to the dead letters.", reason)
            self._or_connection_closed(self.broker.bury, self.queue_name, error.data, reason)
            return None
        except redis.RedisError as error:
            raise ConnectionClosed(explain(error)) from None

    def ack(self, message: "MessageProxy") -> None:
        self._settle(super().ack, message)

    def nack(self, message: "MessageProxy") -> None:
        self._settle(super().nack, message)

    def requeue(self, messages: Any) -> None:
        self._or_connection_closed(super().requeue, messages)

    def _settle(self, settle: Any, message: "MessageProxy") -> None:
        self._or_connection_closed(settle, message)
        self.broker.held[self.queue_name].discard(message.options["redis_message_id"])

    def _or_connection_closed(self, call: Any, *arguments: Any) -> None:
        try:
            call(*arguments)
        except redis.RedisError as error:
            raise ConnectionClosed(explain(error)) from None


class _DeadLetters(Middleware):
    """Any exception sends its message to the dead letters; without it Dramatiq would drop the message."""

    @property
    def actor_options(self) -> set[str]:
        """`throws`: exceptions that Dramatiq doesn't report with a traceback."""
        return {"throws"}

    def after_process_message(
        self, broker: Any, message: Any, *, result: Any = None, exception: BaseException | None = None
    ) -> None:
        if exception is not None:
            message.options["reason"] = str(exception) if isinstance(exception, DeadLetter) else repr(exception)
            message.fail()

    def before_nack(self, broker: Any, message: Any) -> None:
        key = keys.dead_letter_reason(message.options["redis_message_id"])
        try:
            broker.client.set(key, message.options.get("reason", "unknown"), ex=keys.DEAD_LETTER_SECONDS)
        except redis.RedisError as error:
            logger.error("%s The reason of a dead letter wasn't kept.", explain(error))


class _CheckingEncoder(JSONEncoder):
    """Refuses JSON that Dramatiq would take for a message and then trip over."""

    def decode(self, data: bytes) -> Any:
        fields = super().decode(data)
        if not isinstance(fields, dict):
            raise ValueError("its JSON isn't an object")
        options = fields.get("options")
        if not isinstance(options, dict) or not isinstance(options.get("redis_message_id"), str):
            raise ValueError("it has no options.redis_message_id")
        expected = {"queue_name": str, "actor_name": str, "message_id": str, "args": list, "kwargs": dict}
        for name, kind in expected.items():
            if not isinstance(fields.get(name), kind):
                raise ValueError(f"its {name} isn't a {kind.__name__}")
        if fields["actor_name"] != keys.ACTOR:
            raise ValueError(f"its actor_name is {fields['actor_name']!r}, but only {keys.ACTOR} is known")
        return fields
