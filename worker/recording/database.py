"""The app's tables in Supabase. The only module that knows supabase; worker processes never import it."""

import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import quote_plus as _quote

import httpx
from postgrest.exceptions import APIError
from postgrest.types import CountMethod, ReturnMethod
from supabase import Client, ClientOptions, create_client

from worker.base.settings import Settings
from worker.errors import DatabaseRejected, DatabaseTooSlow, DatabaseUnavailable

REQUEST_TIMEOUT_SECONDS = 20.0
#: Supabase's own cap on the rows of one answer.
PAGE_ROWS = 1000
#: Many servers take a request line of 8 kB at most (nginx's large_client_header_buffers); this leaves room for the rest
#: of it, and for 180 UUIDs.
MAX_ID_BYTES = 7200

# https://www.postgresql.org/docs/current/errcodes-appendix.html: data exceptions and constraint violations lie with the
# values of a row; all else (rights, tables, time-outs, resources) is for the operator or for later.
_ROW_ERROR_CLASSES = ("22", "23")


@dataclass(frozen=True, slots=True)
class Marked:
    """What an update found: `rows` of the `asked` ones exist."""

    asked: int
    rows: int


@dataclass(frozen=True, slots=True)
class Recipient:
    """A row of the database."""

    subscriber_id: str
    sent: bool


class Database(Protocol):
    """What the recorder needs.

    Every method raises `DatabaseUnavailable` when the same request may succeed later, and `DatabaseRejected` when it
    never will.
    """

    def mark_sent(self, campaign_id: str, subscriber_ids: Sequence[str], at_ms: int) -> Marked: ...
    def mark_failed(self, campaign_id: str, subscriber_ids: Sequence[str], reason: str) -> None: ...
    def count_unsent(self, campaign_id: str) -> int: ...
    def unsent(self, campaign_id: str, after: str | None) -> list[str]: ...
    def complete_campaign(self, campaign_id: str) -> bool: ...
    def is_sent(self, campaign_id: str) -> bool: ...


class SupabaseDatabase:
    """The app's `campaigns` and `campaign_subscribers`, through PostgREST."""

    def __init__(self, settings: Settings, *, timeout_seconds: float = REQUEST_TIMEOUT_SECONDS) -> None:
        self._settings = settings
        # The system's CAs, which the base role extends, instead of httpx's own bundle.
        self._http = httpx.Client(verify=ssl.create_default_context(), timeout=timeout_seconds)
        self._client: Client = create_client(
            settings.supabase_url,
            settings.supabase_key,
            options=ClientOptions(
                httpx_client=self._http, postgrest_client_retry=False, auto_refresh_token=False, persist_session=False
            ),
        )

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def mark_sent(self, campaign_id: str, subscriber_ids: Sequence[str], at_ms: int) -> Marked:
        """Sets `sent` and `sent_at` of these recipients, by as many requests as the URL's length asks for."""
        names = self._settings
        values: dict[str, object] = {
            names.recipient_sent_column: True,
            names.recipient_sent_at_column: datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(),
        }
        if names.recipient_error_column:
            values[names.recipient_error_column] = None  # It failed before, and was tried again by hand.
        rows = 0
        for ids in _by_length(subscriber_ids):
            query = (
                self._client.table(names.recipients_table)
                .update(values, count=CountMethod.exact, returning=ReturnMethod.minimal)
                .eq(names.recipient_campaign_column, campaign_id)
                .in_(names.recipient_subscriber_column, ids)
            )
            rows += self._execute(query, names.recipients_table).count or 0
        return Marked(len(subscriber_ids), rows)

    def count_unsent(self, campaign_id: str) -> int:
        """How many recipients of the campaign aren't marked as sent."""
        names = self._settings
        query = (
            self._client.table(names.recipients_table)
            # Not by HEAD, whose answer has no body that could say what is wrong.
            .select(names.recipient_subscriber_column, count=CountMethod.exact)
            .eq(names.recipient_campaign_column, campaign_id)
            .not_.is_(names.recipient_sent_column, "true")
            .limit(1)
        )
        return self._execute(query, names.recipients_table).count or 0

    def unsent(self, campaign_id: str, after: str | None) -> list[str]:
        """The next page of unsent recipients' subscriber ids, in order, beginning behind `after`."""
        names = self._settings
        query = (
            self._client.table(names.recipients_table)
            .select(names.recipient_subscriber_column)
            .eq(names.recipient_campaign_column, campaign_id)
            .not_.is_(names.recipient_sent_column, "true")
            .order(names.recipient_subscriber_column)
            .limit(PAGE_ROWS)
        )
        if after is not None:
            query = query.gt(names.recipient_subscriber_column, after)
        rows: Any = self._execute(query, names.recipients_table).data
        return [str(row[names.recipient_subscriber_column]) for row in rows]

    def recipients(self, campaign_id: str) -> Iterator[Recipient]:
        """All recipients of the campaign, in order of their subscriber ids."""
        names = self._settings
        after: str | None = None
        while True:
            query = (
                self._client.table(names.recipients_table)
                .select(f"{names.recipient_subscriber_column},{names.recipient_sent_column}")
                .eq(names.recipient_campaign_column, campaign_id)
                .order(names.recipient_subscriber_column)
                .limit(PAGE_ROWS)
            )
            if after is not None:
                query = query.gt(names.recipient_subscriber_column, after)
            rows: Any = self._execute(query, names.recipients_table).data
            for row in rows:
                after = str(row[names.recipient_subscriber_column])
                yield Recipient(after, row[names.recipient_sent_column] is True)
            if not rows:
                return

    def mark_failed(self, campaign_id: str, subscriber_ids: Sequence[str], reason: str) -> None:
        """Writes why these recipients got no mail, if there's a column for it."""
        names = self._settings
        if not names.recipient_error_column:
            return
        for ids in _by_length(subscriber_ids):
            query = (
                self._client.table(names.recipients_table)
                .update({names.recipient_error_column: reason}, returning=ReturnMethod.minimal)
                .eq(names.recipient_campaign_column, campaign_id)
                .in_(names.recipient_subscriber_column, ids)
            )
            self._execute(query, names.recipients_table)

    def complete_campaign(self, campaign_id: str) -> bool:
        """Sets the campaign's status to `sent`; True for the one caller whose update changed it."""
        names = self._settings
        query = (
            self._client.table(names.campaigns_table)
            .update({names.campaign_status_column: "sent"}, count=CountMethod.exact, returning=ReturnMethod.minimal)
            .eq(names.campaign_id_column, campaign_id)
            .neq(names.campaign_status_column, "sent")
        )
        return bool(self._execute(query, names.campaigns_table).count)

    def is_sent(self, campaign_id: str) -> bool:
        """Whether the campaign's status is `sent`, or the campaign is gone."""
        names = self._settings
        query = (
            self._client.table(names.campaigns_table)
            .select(names.campaign_id_column)
            .eq(names.campaign_id_column, campaign_id)
            .neq(names.campaign_status_column, "sent")
            .limit(1)
        )
        return not self._execute(query, names.campaigns_table).data

    def check(self) -> str:
        """Reads both tables without changing a row; returns a phrase for people."""
        names = self._settings
        recipients = ",".join(
            (
                names.recipient_campaign_column,
                names.recipient_subscriber_column,
                names.recipient_sent_column,
                names.recipient_sent_at_column,
                *filter(None, (names.recipient_error_column,)),
            )
        )
        campaigns = f"{names.campaign_id_column},{names.campaign_status_column}"
        for table, columns in ((names.campaigns_table, campaigns), (names.recipients_table, recipients)):
            self._execute(self._client.table(table).select(columns).limit(1), table)
        return f"{names.supabase_url}, tables {names.campaigns_table} and {names.recipients_table}"

    def _execute(self, query: Any, table: str) -> Any:
        try:
            return query.execute()
        except APIError as error:
            raise _explained(error, self._settings.supabase_url, table) from None
        except httpx.HTTPError as error:
            problem = " ".join(str(error).split()) or type(error).__name__
            raise DatabaseUnavailable(_unreachable(self._settings.supabase_url, problem)) from None


def _by_length(ids: Sequence[str]) -> list[list[str]]:
    chunks: list[list[str]] = []
    size = MAX_ID_BYTES
    for subscriber_id in ids:
        # As it stands in the URL, with a comma behind it; what isn't a plain word gets two quotes.
        length = len(_quote(subscriber_id)) + 3 + (0 if subscriber_id.replace("-", "").isalnum() else 6)
        if size + length > MAX_ID_BYTES:
            chunks.append([])
            size = 0
        chunks[-1].append(subscriber_id)
        size += length
    return chunks


def _unreachable(url: str, problem: str) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in problem:
        return f"Supabase's certificate at {url} isn't trusted: add its CA to base_ca_certificates."
    return f"Supabase can't be reached at {url} ({problem}): check SUPABASE_URL, and that the project isn't paused."


def _explained(error: APIError, url: str, table: str) -> DatabaseRejected | DatabaseUnavailable:
    code, message = error.code or "", " ".join((error.message or "").split())[:200]
    if code.startswith(_ROW_ERROR_CLASSES) and len(code) == 5:
        return DatabaseRejected(f"Supabase refuses a value for {table}: {message} ({code}).")
    if "api key" in message.lower() or code in ("401", "403", "PGRST301", "PGRST302", "PGRST303"):
        return DatabaseUnavailable(
            f"Supabase refuses the key ({message}): check SUPABASE_SECRET_KEY (or SUPABASE_SERVICE_ROLE_KEY)."
        )
    if code in ("PGRST205", "42P01", "404"):
        return DatabaseUnavailable(
            f"Supabase has no table {table} ({message}): set SUPABASE_CAMPAIGNS_TABLE and SUPABASE_RECIPIENTS_TABLE."
        )
    if code in ("PGRST204", "42703"):
        return DatabaseUnavailable(
            f"Supabase's table {table} lacks a column ({message}): set the SUPABASE_…_COLUMN that names it."
        )
    if code == "57014":
        return DatabaseTooSlow(
            f"Supabase gives up on {table} ({message}): make sure that the campaign's column has an index."
        )
    if code == "42501":
        return DatabaseUnavailable(
            f"The key may not use the table {table} ({message}): it must be the secret key, not the publishable one."
        )
    return DatabaseUnavailable(f"Supabase at {url} answers {code or 'an error'} for {table}: {message}.")
