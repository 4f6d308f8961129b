"""Access tokens for SMTP's XOAUTH2, which Google and Microsoft ask for instead of a password (RFC 6749, 6)."""

import asyncio
import ssl
import time

import httpx

from worker.base.settings import Secret, Settings
from worker.errors import AccountRefused, TransportUnavailable

TIMEOUT_SECONDS = 8.0
#: A token is replaced before it ends, so that no login meets an old one.
EARLY_SECONDS = 120.0
_WITHOUT_EXPIRY_SECONDS = 600.0
_LONGEST_SECONDS = 86_400.0


class AccessTokens:
    """Gets a token with the refresh token, and keeps it for as long as it's good."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.oauth_token_url
        self._form = {
            "grant_type": "refresh_token",
            "client_id": settings.oauth_client_id,
            "refresh_token": str(settings.oauth_refresh_token),
        }
        if settings.oauth_client_secret:
            self._form["client_secret"] = str(settings.oauth_client_secret)
        self._token = Secret("")
        self._good_until = 0.0
        self._lock = asyncio.Lock()

    async def get(self) -> Secret:
        """A token that is good for now.

        Raises:
            AccountRefused, TransportUnavailable: with what to do about it.
        """
        async with self._lock:
            if time.monotonic() >= self._good_until:
                await self._renew()
            return self._token

    async def _renew(self) -> None:
        try:
            async with httpx.AsyncClient(verify=ssl.create_default_context(), timeout=TIMEOUT_SECONDS) as client:
                answer = await client.post(self._url, data=self._form)
            body = answer.json()
        except httpx.HTTPError as error:
            problem = " ".join(str(error).split()) or type(error).__name__
            raise TransportUnavailable(
                f"No access token can be had from {self._url} ({problem}): check SMTP_OAUTH_TOKEN_URL."
            ) from error
        except (ValueError, RecursionError):
            raise TransportUnavailable(
                f"No access token can be had from {self._url} (its answer isn't JSON): check SMTP_OAUTH_TOKEN_URL."
            ) from None
        token = body.get("access_token") if isinstance(body, dict) else None
        if answer.status_code >= 500 or answer.status_code == 429:
            raise TransportUnavailable(
                f"No access token can be had from {self._url} (it answers {answer.status_code}): it's tried again."
            )
        if not isinstance(token, str):
            words = str(body.get("error_description") or body.get("error") or "") if isinstance(body, dict) else ""
            raise AccountRefused(
                f"{self._url} gives no access token ({answer.status_code} {' '.join(words.split())[:200]}): check"
                " SMTP_OAUTH_CLIENT_ID, SMTP_OAUTH_CLIENT_SECRET and SMTP_OAUTH_REFRESH_TOKEN.",
                "login",
            )
        if isinstance(body.get("refresh_token"), str):
            # Some providers give a new one each time. It lasts as long as the process: the setting is the user's.
            self._form["refresh_token"] = body["refresh_token"]
        expires_in = body.get("expires_in")
        seconds = min(expires_in, _LONGEST_SECONDS) if isinstance(expires_in, int | float) else _WITHOUT_EXPIRY_SECONDS
        self._token = Secret(token)
        self._good_until = time.monotonic() + max(seconds - EARLY_SECONDS, 0.0)
