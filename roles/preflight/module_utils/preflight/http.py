"""Requests over HTTPS: does a provider's API answer at all, and does Supabase take the key and have the tables?"""

from __future__ import annotations

import base64
import http.client
import json
import time
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from .network import Addresses, ProbeError, Trust, Wire, dial

#: An answer's header repeats the request's URL (Content-Location), and many gateways pass 4 kB of it at most.
LOOKUP_ROWS = 40
_PORTS = {"https": 443, "http": 80}


class Url(NamedTuple):
    """An address without a path."""

    tls: bool
    host: str
    port: int


class HttpAnswer(NamedTuple):
    """`kind` is `ok`, whatever the status, or a ProbeError's. `code` and `message` are PostgREST's."""

    kind: str
    words: str = ""
    status: int = 0
    code: str = ""
    message: str = ""
    ipv6_dropped: bool = False


def parse_url(url: str) -> Url | None:
    """None when it isn't an address of a web server."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return None
    if not port or not parts.hostname or parts.scheme not in _PORTS:
        return None
    return Url(parts.scheme == "https", parts.hostname, port)


def probe_http(
    url: Url, addresses: Addresses, trust: Trust, seconds: float, path: str = "/", key: str = ""
) -> HttpAnswer:
    """One GET. `key` goes out as Supabase wants it, but never to a server whose certificate couldn't be checked."""
    try:
        wire = dial(addresses, url.port, seconds, seconds)
    except ProbeError as error:
        return HttpAnswer(error.kind, error.words)
    try:
        if url.tls:
            wire.start_tls(trust, url.host)
            if key and not trust.complete:
                return HttpAnswer("ok", ipv6_dropped=wire.ipv6_dropped)
        headers = {"apikey": key, "Authorization": f"Bearer {key}"} if key else {}
        return _get(wire, url, path, headers)
    except ProbeError as error:
        return HttpAnswer(error.kind, error.words)
    finally:
        wire.close()


def table_path(table: str, columns: list[str]) -> str:
    """Asks PostgREST for these columns of no row."""
    return f"/rest/v1/{quote(table, safe='')}?select={quote(','.join(columns), safe=',')}&limit=0"


def probe_lookup(
    url: Url, addresses: Addresses, trust: Trust, seconds: float, table: str, columns: list[str], key: str
) -> float | None:
    """How many ms it takes to find some recipients of a campaign, as the recorder does for each of its updates, beyond
    what any request takes. None where that can't be known: without rows, above all.

    Args:
        columns: those of the campaign and the subscriber.
    """
    try:
        wire = dial(addresses, url.port, seconds, seconds)
    except ProbeError:
        return None
    try:
        if url.tls:
            wire.start_tls(trust, url.host)
            if not trust.complete:
                return None
        connection = http.client.HTTPConnection(url.host, url.port)
        connection.sock = wire.socket
        wire.limit()
        campaign, subscriber = columns
        base = f"/rest/v1/{quote(table, safe='')}?select={quote(f'{campaign},{subscriber}', safe=',')}"
        rows = _rows(connection, f"{base}&limit={LOOKUP_ROWS}", key)
        chosen = [str(row[subscriber]) for row in rows if row[campaign] == rows[0][campaign]]
        listed = quote(",".join(f'"{value}"' for value in chosen), safe="")
        began = time.monotonic()
        _rows(connection, f"{base}&limit=0", key)
        between = time.monotonic()
        _rows(
            connection, f"{base}&{campaign}=eq.{quote(str(rows[0][campaign]), safe='')}&{subscriber}=in.({listed})", key
        )
        return max((time.monotonic() - between) - (between - began), 0.0) * 1000
    except (ProbeError, OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
        return None
    finally:
        wire.close()


def _rows(connection: http.client.HTTPConnection, path: str, key: str) -> list[dict[str, object]]:
    headers = {"Accept": "application/json", "apikey": key, "Authorization": f"Bearer {key}"}
    connection.request("GET", path, headers=headers)
    rows = json.loads(connection.getresponse().read(1_000_000))
    if not isinstance(rows, list):
        raise ValueError("not rows")
    return rows


def jwt_role(key: str) -> str:
    """The role in a Supabase key of old, a JWT (RFC 7519); empty if it isn't one."""
    parts = key.split(".")
    if len(parts) != 3:
        return ""
    try:
        payload = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return ""
    return str(payload.get("role", "")) if isinstance(payload, dict) else ""


def _get(wire: Wire, url: Url, path: str, headers: dict[str, str]) -> HttpAnswer:
    connection = http.client.HTTPConnection(url.host, url.port)
    connection.sock = wire.socket
    try:
        wire.limit()
        connection.request("GET", path, headers={"Accept": "application/json", **headers})
        response = connection.getresponse()
        body = response.read(100_000)
    except TimeoutError as error:
        raise ProbeError("silent") from error
    except (http.client.RemoteDisconnected, ConnectionError) as error:
        raise ProbeError("closed") from error
    except (http.client.HTTPException, ValueError, OSError) as error:
        # Not its text: a header that can't be sent stands in there, and the key is one. Nor as its cause.
        raise ProbeError("odd", type(error).__name__) from None
    code, message = _explanation(body)
    return HttpAnswer("ok", "", response.status, code, message, wire.ipv6_dropped)


def _explanation(body: bytes) -> tuple[str, str]:
    try:
        answer = json.loads(body)
    except ValueError:
        return "", ""
    if not isinstance(answer, dict):
        return "", ""
    return str(answer.get("code") or ""), " ".join(str(answer.get("message") or "").split())[:200]
