"""Mails by a provider's HTTP API. The only module that knows httpx; providers.py knows the providers."""

import asyncio
import json
import re
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Protocol

import httpx

from worker.base.settings import Secret
from worker.errors import AccountRefused, TransportUnavailable
from worker.mail.message import Mail
from worker.mail.outcomes import Failed, NotClaimed, Outcome, Reply, Retry, SenderRefused, Sent, Slow, Uncertain
from worker.mail.words import shown_line
from worker.sending.transports.base import Claim

TIMEOUT_SECONDS = 30.0
#: For all of one mail: a server may trickle its answer for ever.
MAIL_DEADLINE_SECONDS = 60.0
#: Less than any provider's, so that a request seldom meets a connection that the server is closing.
IDLE_SECONDS = 15.0
#: A provider that breaks down without saying until when is asked again after this time.
OUTAGE_MS = 5_000
MAX_REPLY_CHARACTERS = 300
#: The providers' answers are a few hundred bytes. What is longer is something else's.
MAX_REPLY_BYTES = 1_000_000
#: Whatever a Retry-After asks for: an account doesn't rest for longer without being tried.
LONGEST_RETRY_AFTER_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Request:
    """One request; exactly one of `json` and `form` for a POST, none of them for a GET."""

    path: str
    json: Mapping[str, object] | None = None
    form: Mapping[str, str | list[str]] | None = None
    #: Of a form: field, and name, content and media type.
    files: Sequence[tuple[str, tuple[str, bytes, str]]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Response:
    """What was answered; `words` is the provider's own explanation on one line.

    Args:
        body: of JSON; None if it's something else, so that it may be from something in between: a proxy, a portal.
        empty: there's nothing in it.
    """

    status: int
    words: str
    headers: Mapping[str, str]
    body: object
    empty: bool


class Provider(Protocol):
    """What makes one provider different from another."""

    name: str
    url: str
    #: The setting that holds the key, for sentences.
    key_setting: str
    idempotent_seconds: int

    def authorization(self) -> tuple[str, Secret]:
        """The Authorization header's scheme and its secret part."""

    def request(self, mail: Mail) -> Request:
        """Sends one mail."""

    def check(self) -> Request:
        """Tells whether the key is right, without sending."""

    def accepts_check(self, response: Response) -> bool:
        """Whether the answer to `check` means that the key may send."""

    def explain(self, body: object) -> str:
        """The provider's own explanation in a JSON body, or an empty string."""

    def accepted(self, response: Response) -> bool:
        """Whether a 2xx has the shape by which the provider says that it has the mail."""

    def was_accepted_before(self, response: Response) -> bool:
        """Whether a refusal says that the mail's idempotency key did its work."""

    def classify(self, response: Response) -> Reply:
        """What a refusal means. 5xx never come here."""


class HttpTransport:
    """Requests over kept-open connections, as many as there are mails being sent at once."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        scheme, secret = provider.authorization()
        self._client = httpx.AsyncClient(
            base_url=provider.url,
            headers={"Authorization": f"{scheme} {secret}", "User-Agent": "mail-worker"},
            verify=ssl.create_default_context(),
            timeout=TIMEOUT_SECONDS,
            limits=httpx.Limits(max_connections=None, keepalive_expiry=IDLE_SECONDS),
        )

    @property
    def idempotent_seconds(self) -> int:
        """See `Transport.idempotent_seconds`."""
        return self._provider.idempotent_seconds

    async def send(self, mail: Mail, claim: Claim) -> Outcome:
        """See `Transport.send`."""
        request = self._build(self._provider.request(mail))
        if not await claim():
            return NotClaimed()
        try:
            async with asyncio.timeout(MAIL_DEADLINE_SECONDS):
                response = await self._say(request)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise self._unavailable(_problem(error)) from error
        except (httpx.HTTPError, TimeoutError) as error:
            return self._lost(f"the connection was lost before {self._provider.name} replied: {_problem(error)}")
        return self._outcome(response)

    async def check(self) -> str:
        """See `Transport.check`."""
        try:
            async with asyncio.timeout(MAIL_DEADLINE_SECONDS):
                response = await self._say(self._build(self._provider.check()))
        except (httpx.HTTPError, TimeoutError) as error:
            raise self._unavailable(_problem(error)) from error
        if response.status // 100 == 2 and not isinstance(response.body, dict):
            raise self._unavailable(f"what answers with {response.status} isn't its API: {response.words[:80]!r}")
        if response.status // 100 != 2 and not self._provider.accepts_check(response):
            if response.status // 100 == 5:
                raise self._unavailable(f"it answers {response.status} {response.words}")
            raise self._refused(response)
        return f"{self._provider.name} at {self._provider.url}, the key is accepted"

    async def close(self) -> None:
        """See `Transport.close`."""
        await self._client.aclose()

    def _build(self, request: Request) -> httpx.Request:
        method = "GET" if request.json is None and request.form is None else "POST"
        return self._client.build_request(
            method,
            request.path,
            json=request.json,
            data=request.form,
            files=request.files or None,
            headers=dict(request.headers),
        )

    async def _say(self, request: httpx.Request) -> Response:
        answer = await self._client.send(request, stream=True)
        try:
            data = bytearray()
            async for chunk in answer.aiter_bytes():
                data += chunk
                if len(data) > MAX_REPLY_BYTES:
                    break
        finally:
            await answer.aclose()
        try:
            body = json.loads(data)
            words = self._provider.explain(body)
        except (ValueError, RecursionError):
            body, words = None, data[: 4 * MAX_REPLY_CHARACTERS].decode(errors="replace")
        words = shown_line(words)[:MAX_REPLY_CHARACTERS]
        return Response(answer.status_code, words, answer.headers, body, empty=not data.strip())

    def _outcome(self, response: Response) -> Outcome:
        words = f"{response.status} {response.words}"
        if self._provider.was_accepted_before(response):
            return Sent(words)
        if response.status // 100 == 2:
            if self._provider.accepted(response):
                return Sent(words)
            return self._lost(f"what answered {words} isn't {self._provider.name}'s API")
        after_ms = retry_after_ms(response.headers)
        if response.status in (502, 504):
            # A gateway's answer: nobody says whether the mail was taken behind it.
            return self._lost(f"{self._provider.name} answered {words}")
        if response.status // 100 == 5:
            return Slow(words, after_ms or OUTAGE_MS)
        match self._provider.classify(response):
            case Reply.PACE:
                return Slow(words, after_ms)
            case Reply.LOGIN | Reply.BLOCKED:
                raise self._refused(response)
            case Reply.SENDER:
                return SenderRefused(words)
            case Reply.SOFT:
                return Retry(words)
            case Reply.HARD | Reply.CONTENT:
                return Failed(words)

    def _lost(self, reason: str) -> Outcome:
        # With an idempotency key the provider drops the second copy by itself.
        return Slow(reason, OUTAGE_MS, maybe_accepted=True) if self._provider.idempotent_seconds else Uncertain(reason)

    def _refused(self, response: Response) -> AccountRefused:
        return AccountRefused(
            f"{self._provider.name} refuses the account ({response.status} {response.words}): check"
            f" {self._provider.key_setting}, the account's quota and its domains.",
            "sending",
        )

    def _unavailable(self, problem: str) -> TransportUnavailable:
        return TransportUnavailable(
            f"{self._provider.name} can't be reached at {self._provider.url} ({problem}): check that this host may"
            " make HTTPS connections, and MAIL_API_URL if it's set."
        )


def retry_after_ms(headers: Mapping[str, str]) -> int:
    """Milliseconds that a Retry-After header asks for (RFC 9110, 10.2.3), an hour at the most; 0 without one."""
    value = headers.get("retry-after", "").strip()
    try:
        if re.fullmatch("[0-9]+", value):
            milliseconds = int(value[:10]) * 1000
        else:
            milliseconds = int((parsedate_to_datetime(value).timestamp() - time.time()) * 1000)
    except (ValueError, OverflowError):
        return 0
    return min(max(milliseconds, 0), LONGEST_RETRY_AFTER_MS)


def _problem(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
