"""What PostgREST's answers mean: is it an answer at all, and whose fault is an error? Pure."""

import re
from collections.abc import Mapping

from worker.errors import DatabaseRejected, DatabaseTooSlow, DatabaseUnavailable

# RFC 9110, 14.4, as PostgREST has it: `*` where there are no rows, or where nobody asked how many there are.
_CONTENT_RANGE = re.compile(r"(\d+-\d+|\*)/(?P<total>\d+|\*)")

# https://www.postgresql.org/docs/current/errcodes-appendix.html: what lies with the server, its rights, tables and
# resources, or with what else runs at the moment. All other classes lie with the values of a row, or are what a
# trigger of the app's says about them (P0001, or a code of its own; PT… are PostgREST's for a function's status).
_SERVER_ERROR_CLASSES = frozenset("08 0A 0L 0P 25 26 28 2B 2D 34 3B 3D 3F 40 42 53 54 55 57 58 72 F0 HV XX".split())
_SQLSTATE = re.compile(r"[0-9A-Z]{5}")


def misshapen(method: str, headers: Mapping[str, str], body: bytes, *, counted: bool) -> str | None:
    """Why a successful answer isn't one of PostgREST's, as a phrase, or None: what stands in between may answer 200
    with a page of its own, or drop a header.

    Args:
        counted: whether the request asked for the number of rows.
    """
    found = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
    if found is None:
        return "its answer has no Content-Range"
    if counted and found["total"] == "*":
        return "its answer doesn't say how many rows there are"
    if method == "GET" and not body.lstrip().startswith(b"["):
        return "its answer isn't a list of rows"
    return None


def explain_error(code: str, message: str, url: str, table: str) -> DatabaseRejected | DatabaseUnavailable:
    """The error that PostgREST answered with.

    Args:
        code: PostgreSQL's, PostgREST's, or else the HTTP status.
    """
    message = " ".join(message.split())[:200]
    if _SQLSTATE.fullmatch(code) and code[:2] not in _SERVER_ERROR_CLASSES:
        return DatabaseRejected(f"Supabase refuses a value for {table}: {message} ({code}).")
    if "api key" in message.lower() or code in ("401", "PGRST301", "PGRST302", "PGRST303"):
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
