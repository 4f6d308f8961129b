"""Is there an SMTP server, in the kind of TLS that the worker speaks on that port (RFC 8314)? Nobody logs in."""

from __future__ import annotations

import time
from typing import NamedTuple

from .network import Addresses, ProbeError, Trust, Wire, dial, speaks_tls

IMPLICIT_TLS_PORT = 465
#: A silent server is asked after this time whether it waits for TLS.
GREETING_SECONDS = 3.0


class SmtpAnswer(NamedTuple):
    """`kind` is `ok` or a ProbeError's, or `no starttls`."""

    kind: str
    words: str = ""
    ipv6_dropped: bool = False


def probe_smtp(host: str, addresses: Addresses, port: int, trust: Trust, seconds: float) -> SmtpAnswer:
    """Connects, says EHLO and, but on port 465, STARTTLS; each step within `seconds`, all within twice as much."""
    try:
        wire = dial(addresses, port, seconds, seconds)
    except ProbeError as error:
        return SmtpAnswer(error.kind, error.words)
    try:
        if port == IMPLICIT_TLS_PORT:
            wire.start_tls(trust, host)
            _greeting(wire)
            _ehlo(wire)
        else:
            _greeting(wire)
            if "STARTTLS" not in _ehlo(wire):
                return SmtpAnswer("no starttls")
            wire.send(b"STARTTLS\r\n")
            _expect(wire, 220)
            wire.start_tls(trust, host)
            _ehlo(wire)
        return SmtpAnswer("ok", "", wire.ipv6_dropped)
    except ProbeError as error:
        if error.kind == "silent" and port != IMPLICIT_TLS_PORT and speaks_tls(host, addresses, port, seconds / 2):
            return SmtpAnswer("wrong tls")
        return SmtpAnswer(error.kind, error.words)
    finally:
        wire.close()


def _greeting(wire: Wire) -> None:
    _expect(wire, 220, time.monotonic() + GREETING_SECONDS)


def _ehlo(wire: Wire) -> list[str]:
    wire.send(b"EHLO preflight.invalid\r\n")
    return [line.partition(" ")[0].upper() for line in _expect(wire, 250)[1:]]


def _expect(wire: Wire, code: int, until: float | None = None) -> list[str]:
    lines: list[str] = []
    while True:
        text = wire.line(until).decode("utf-8", "replace")
        if not text[:3].isdigit():
            raise ProbeError("odd", text)
        lines.append(text[4:])
        if text[3:4] != "-":
            break
    if int(text[:3]) != code:
        raise ProbeError("odd", text)
    return lines
