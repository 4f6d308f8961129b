"""Mails by a provider's HTTP API. The only module that knows httpx; providers.py knows the providers."""

import asyncio
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Protocol

import httpx

from worker.base.settings import Secret
from worker.errors import AccountRefused, TransportUnavailable
from worker.mail.message import Mail
from worker.mail.outcomes import Failed, NotClaimed, Outcome, Reply, Retry, SenderRefused, Sent, Slow, Uncertain
from worker.sending.transports.base import Claim

TIMEOUT_SECONDS = 30.0
#: For all of one mail: a server may trickle its answer for ever.
MAIL_DEADLINE_SECONDS = 60.0
#: Less than any provider's, so that a request seldom meets a connection that the server is closing.
IDLE_SECONDS = 15.0
#: A provider that breaks down without saying until when is asked again after this time.
OUTAGE_MS = 5_000
MAX_REPLY_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Request:
    """One request; exactly one of `json` and `form` for a POST, none of them for a GET."""

    path: str
    json: Mapping[str, object] | None = None
    form: Mapping[str, str] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Response:
    """What a provider answered; `words` is its own explanation on one line."""

    status: int
    words: str
    headers: Mapping[str, str]


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
        request = self._provider.request(mail)
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
            response = await self._say(self._provider.check())
        except httpx.HTTPError as error:
            raise self._unavailable(_problem(error)) from error
        if response.status // 100 != 2 and not self._provider.accepts_check(response):
            if response.status // 100 == 5:
                raise self._unavailable(f"it answers {response.status} {response.words}")
            raise self._refused(response)
        return f"{self._provider.name} at {self._provider.url}, the key is accepted"

    async def close(self) -> None:
        """See `Transport.close`."""
        await self._client.aclose()

    async def _say(self, request: Request) -> Response:
        method = "GET" if request.json is None and request.form is None else "POST"
        answer = await self._client.request(
            method, request.path, json=request.json, data=request.form, headers=dict(request.headers)
        )
        try:
            words = self._provider.explain(answer.json())
        except ValueError:
            words = answer.text
        return Response(answer.status_code, " ".join(words.split())[:MAX_REPLY_CHARACTERS], answer.headers)

    def _outcome(self, response: Response) -> Outcome:
        words = f"{response.status} {response.words}"
        if response.status // 100 == 2 or self._provider.was_accepted_before(response):
            return Sent(words)
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
    """Milliseconds that a Retry-After header asks for (RFC 9110, 10.2.3), 0 without one."""
    value = headers.get("retry-after", "")
    if value.strip().isdigit():
        return int(value) * 1000
    try:
        return max(int((parsedate_to_datetime(value).timestamp() - time.time()) * 1000), 0)
    except ValueError:
        return 0


def _problem(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
