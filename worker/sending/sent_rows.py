"""Asks the app's database whether others have sent a mail: its cron, or a worker that died. One request for many.

By plain HTTP, since a worker process never loads supabase; and only for jobs that others may have sent."""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import quote

from worker.base.coalesce import Coalescer
from worker.base.settings import Settings
from worker.errors import DatabaseUnavailable

if TYPE_CHECKING:
    import httpx

REQUEST_TIMEOUT_SECONDS = 20.0
#: UUIDs of this many recipients and campaigns keep a URL below 4 kB: many gateways pass no more of it in the answer's
#: header (database.py).
AT_ONCE = 40
#: Supabase's own cap on the rows of one answer.
ROWS_AT_MOST = 1000
#: https://www.postgresql.org/docs/current/errcodes-appendix.html: data exceptions.
_WRONG_VALUE = "22"


class _AskAlone(DatabaseUnavailable):
    """Each recipient of this question is to be asked for by itself."""


class SupabaseSentRows:
    """Loads its HTTP client at the first question. Raises DatabaseUnavailable while there's no answer."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: httpx.AsyncClient | None = None
        self._questions: Coalescer[tuple[str, str], bool] = Coalescer(self._ask, alone_after=_AskAlone, at_most=AT_ONCE)

    async def __call__(self, campaign_id: str, subscriber_id: str) -> bool:
        """Whether the recipient's row says `sent`."""
        return await self._questions((campaign_id, subscriber_id))

    async def close(self) -> None:
        """Closes the connections."""
        if self._client is not None:
            await self._client.aclose()

    def _http(self) -> "httpx.AsyncClient":
        if self._client is None:
            import ssl

            import httpx

            context = ssl.create_default_context()
            self._client = httpx.AsyncClient(verify=context, timeout=REQUEST_TIMEOUT_SECONDS)
        return self._client

    async def _ask(self, recipients: list[tuple[str, str]]) -> list[bool]:
        import httpx

        names = self._settings
        campaign, subscriber = names.recipient_campaign_column, names.recipient_subscriber_column
        url = (
            f"{names.supabase_url}/rest/v1/{names.recipients_table}?select={campaign},{subscriber}"
            f"&{names.recipient_sent_column}=is.true"
            f"&{campaign}=in.({_listed(campaign_id for campaign_id, _ in recipients)})"
            f"&{subscriber}=in.({_listed(subscriber_id for _, subscriber_id in recipients)})"
        )
        headers = {"apikey": names.supabase_key, "Authorization": f"Bearer {names.supabase_key}"}
        try:
            answer = await self._http().get(url, headers=headers)
            rows = answer.json()
            if isinstance(rows, dict) and str(rows.get("code", "")).startswith(_WRONG_VALUE):
                if len(recipients) == 1:
                    return [False]  # No row can have such an id.
                raise _AskAlone("Supabase refuses a value among several.")
            if answer.status_code != httpx.codes.OK or not isinstance(rows, list):
                raise DatabaseUnavailable(
                    f"Supabase at {names.supabase_url} answers {answer.status_code} for {names.recipients_table}:"
                    " check that the project isn't paused."
                )
            if len(rows) >= ROWS_AT_MOST and len(recipients) > 1:
                raise _AskAlone("Supabase's answer may be cut off.")
            sent = {(str(row[campaign]), str(row[subscriber])) for row in rows}
        except httpx.HTTPError as error:
            problem = " ".join(str(error).split()) or type(error).__name__
            raise DatabaseUnavailable(
                f"Supabase can't be reached at {names.supabase_url} ({problem}): check SUPABASE_URL, and that the"
                " project isn't paused."
            ) from None
        except (json.JSONDecodeError, KeyError, TypeError):
            raise DatabaseUnavailable(
                f"Supabase at {names.supabase_url} answers something else than rows: check SUPABASE_URL and what"
                " stands in between."
            ) from None
        return [recipient in sent for recipient in recipients]


def _listed(values: Iterable[str]) -> str:
    """Quoted as PostgREST wants it, each once."""
    quoted = (value.replace("\\", "\\\\").replace('"', '\\"') for value in dict.fromkeys(values))
    return quote(",".join(f'"{value}"' for value in quoted), safe="")
