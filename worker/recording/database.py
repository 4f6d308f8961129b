"""The app's tables in Supabase. The only module that knows supabase; worker processes never import it."""

import ssl
import time
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
from worker.errors import DatabaseTooSlow, DatabaseUnavailable
from worker.recording.answers import explain_error, misshapen

REQUEST_TIMEOUT_SECONDS = 20.0
#: Supabase's own cap on the rows of one answer.
PAGE_ROWS = 1000
#: An answer's header repeats the request's URL (Content-Location), and many gateways pass 4 kB of it at most.
LOOKUP_ROWS = 40
#: Many servers take a request line of 8 kB at most (nginx's large_client_header_buffers); this leaves room for the rest
#: of it, and for 180 UUIDs.
MAX_ID_BYTES = 7200


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
    def count_recipients(self, campaign_id: str) -> int: ...
    def count_unsent(self, campaign_id: str) -> int: ...
    def unsent(self, campaign_id: str, after: str | None) -> list[str]: ...
    def complete_campaign(self, campaign_id: str) -> bool: ...
    def status(self, campaign_id: str) -> str | None: ...
    def check(self) -> str: ...


class SupabaseDatabase:
    """The app's `campaigns` and `campaign_subscribers`, through PostgREST."""

    def __init__(self, settings: Settings, *, timeout_seconds: float = REQUEST_TIMEOUT_SECONDS) -> None:
        self._settings = settings
        # The system's CAs, which the base role extends, instead of httpx's own bundle.
        self._timeout_seconds = timeout_seconds
        self._http = httpx.Client(
            verify=ssl.create_default_context(),
            timeout=timeout_seconds,
            event_hooks={"response": [self._expect_an_answer]},
        )
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

    def count_recipients(self, campaign_id: str) -> int:
        """How many recipients the campaign has."""
        return self._execute(self._counted(campaign_id).limit(1), self._settings.recipients_table).count or 0

    def count_unsent(self, campaign_id: str) -> int:
        """How many recipients of the campaign aren't marked as sent."""
        names = self._settings
        query = self._counted(campaign_id).not_.is_(names.recipient_sent_column, "true").limit(1)
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
        rows = self._rows(query, names.recipients_table, names.recipient_subscriber_column)
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
            rows = self._rows(
                query, names.recipients_table, names.recipient_subscriber_column, names.recipient_sent_column
            )
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

    def recipient(self, campaign_id: str, subscriber_id: str) -> dict[str, Any] | None:
        """One recipient's row, None without one."""
        names = self._settings
        columns = (names.recipient_sent_column, names.recipient_sent_at_column, names.recipient_error_column)
        query = (
            self._client.table(names.recipients_table)
            .select(",".join(filter(None, columns)))
            .eq(names.recipient_campaign_column, campaign_id)
            .eq(names.recipient_subscriber_column, subscriber_id)
            .limit(1)
        )
        rows = self._rows(query, names.recipients_table, names.recipient_sent_column)
        return rows[0] if rows else None

    def campaigns_with(self, subscriber_id: str, campaign_ids: Sequence[str]) -> list[str]:
        """Those of these campaigns that have a subscriber as a recipient."""
        names = self._settings
        found: list[str] = []
        for ids in _by_length(campaign_ids):
            query = (
                self._client.table(names.recipients_table)
                .select(names.recipient_campaign_column)
                .in_(names.recipient_campaign_column, ids)
                .eq(names.recipient_subscriber_column, subscriber_id)
                .limit(PAGE_ROWS)
            )
            rows = self._rows(query, names.recipients_table, names.recipient_campaign_column)
            found += [str(row[names.recipient_campaign_column]) for row in rows]
        return found

    def subscribers(self, addresses: Sequence[str]) -> list[str]:
        """The ids of the subscribers that have one of these addresses."""
        names = self._settings
        query = (
            self._client.table(names.subscribers_table)
            .select(names.subscriber_id_column)
            .in_(names.subscriber_address_column, list(addresses))
            .limit(PAGE_ROWS)
        )
        rows = self._rows(query, names.subscribers_table, names.subscriber_id_column)
        return [str(row[names.subscriber_id_column]) for row in rows]

    def complete_campaign(self, campaign_id: str) -> bool:
        """Sets the campaign's status to `sent`; True for the one caller whose update changed it."""
        names = self._settings
        query = (
            self._client.table(names.campaigns_table)
            .update({names.campaign_status_column: "sent"}, count=CountMethod.exact, returning=ReturnMethod.minimal)
            .eq(names.campaign_id_column, campaign_id)
            # An app may leave it empty, which is neither equal nor unequal to anything.
            .or_(f"{names.campaign_status_column}.is.null,{names.campaign_status_column}.neq.sent")
        )
        return bool(self._execute(query, names.campaigns_table).count)

    def status(self, campaign_id: str) -> str | None:
        """The campaign's status, empty if it has none; None if there's no such campaign, or the key may not see it."""
        names = self._settings
        query = (
            self._client.table(names.campaigns_table)
            .select(names.campaign_status_column)
            .eq(names.campaign_id_column, campaign_id)
            .limit(1)
        )
        rows = self._rows(query, names.campaigns_table, names.campaign_status_column)
        return None if not rows else str(rows[0][names.campaign_status_column] or "")

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

    def lookup_ms(self) -> float | None:
        """How many ms it takes to find some recipients of a campaign, as each update does, beyond what any request
        takes; None without rows."""
        names = self._settings
        campaign, subscriber = names.recipient_campaign_column, names.recipient_subscriber_column
        table = self._client.table(names.recipients_table)
        rows = self._rows(
            table.select(f"{campaign},{subscriber}").limit(LOOKUP_ROWS), names.recipients_table, campaign, subscriber
        )
        if not rows:
            return None
        chosen = [str(row[subscriber]) for row in rows if row[campaign] == rows[0][campaign]]
        began = time.monotonic()
        self._execute(self._client.table(names.recipients_table).select(campaign).limit(0), names.recipients_table)
        between = time.monotonic()
        query = (
            self._client.table(names.recipients_table)
            .select(campaign)
            .eq(campaign, rows[0][campaign])
            .in_(subscriber, chosen)
        )
        self._execute(query, names.recipients_table)
        return max((time.monotonic() - between) - (between - began), 0.0) * 1000

    def _counted(self, campaign_id: str) -> Any:
        names = self._settings
        return (
            self._client.table(names.recipients_table)
            # Not by HEAD, whose answer has no body that could say what is wrong.
            .select(names.recipient_subscriber_column, count=CountMethod.exact)
            .eq(names.recipient_campaign_column, campaign_id)
        )

    def _rows(self, query: Any, table: str, *columns: str) -> list[dict[str, Any]]:
        rows: Any = self._execute(query, table).data
        if not isinstance(rows, list) or not all(isinstance(row, dict) and row.keys() >= {*columns} for row in rows):
            raise DatabaseUnavailable(
                f"Supabase at {self._settings.supabase_url} can't be understood (its answer for {table} isn't a list of"
                " rows): check SUPABASE_URL and what stands in between."
            )
        return rows

    def _expect_an_answer(self, response: httpx.Response) -> None:
        if not response.is_success:
            return
        counted = "count=exact" in response.request.headers.get("prefer", "")
        if problem := misshapen(response.request.method, response.headers, response.read(), counted=counted):
            raise DatabaseUnavailable(
                f"Supabase at {self._settings.supabase_url} can't be understood ({problem}): something else answers in"
                " its place, so check SUPABASE_URL and what stands in between."
            )

    def _execute(self, query: Any, table: str) -> Any:
        try:
            return query.execute()
        except APIError as error:
            raise explain_error(error.code or "", error.message or "", self._settings.supabase_url, table) from None
        except (httpx.ReadTimeout, httpx.WriteTimeout):
            raise DatabaseTooSlow(
                f"Supabase doesn't answer a request for {table} within {self._timeout_seconds:.0f} s: make sure that"
                " the campaign's column has an index."
            ) from None
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
