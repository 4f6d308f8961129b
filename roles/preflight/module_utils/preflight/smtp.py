"""Is there an SMTP server, in the kind of TLS that the worker speaks on that port (RFC 8314)? Nobody logs in."""

from __future__ import annotations

import socket
import time
from typing import NamedTuple

from .network import Addresses, ProbeError, Trust, Wire, dial, speaks_tls

IMPLICIT_TLS_PORT = 465
#: A silent server is asked after this time whether it waits for TLS. Some greet later: they look the client up first.
GREETING_SECONDS = 3.0
#: How much of `seconds` everything behind the connection may take; with 5 s nearly the worker's own 10 s.
CONVERSATION = 1.8


class SmtpAnswer(NamedTuple):
    """`kind` is `ok` or a ProbeError's, or `no starttls`."""

    kind: str
    words: str = ""
    ipv6_dropped: bool = False


def probe_smtp(host: str, addresses: Addresses, port: int, trust: Trust, seconds: float) -> SmtpAnswer:
    """Connects within `seconds`, says EHLO and, on all ports but 465, STARTTLS."""
    try:
        wire = dial(addresses, port, seconds, CONVERSATION * seconds)
    except ProbeError as error:
        return SmtpAnswer(error.kind, error.words)
    try:
        if port == IMPLICIT_TLS_PORT:
            wire.start_tls(trust, host)
            _expect(wire, 220)
            _ehlo(wire)
        else:
            if _waits_for_tls(wire, host, addresses, port, seconds):
                return SmtpAnswer("wrong tls")
            if "STARTTLS" not in _ehlo(wire):
                return SmtpAnswer("no starttls")
            wire.send(b"STARTTLS\r\n")
            _expect(wire, 220)
            wire.start_tls(trust, host)
            _ehlo(wire)
        return SmtpAnswer("ok", "", wire.ipv6_dropped)
    except ProbeError as error:
        return SmtpAnswer(error.kind, error.words)
    finally:
        wire.close()


def _waits_for_tls(wire: Wire, host: str, addresses: Addresses, port: int, seconds: float) -> bool:
    try:
        _expect(wire, 220, time.monotonic() + GREETING_SECONDS)
        return False
    except ProbeError as error:
        if error.kind != "silent":
            raise
    if speaks_tls(host, addresses, port, seconds / 2):
        return True
    _expect(wire, 220)
    return False


def _ehlo(wire: Wire) -> list[str]:
    # As the worker will: a server that dislikes the host's name should say so now.
    wire.send(f"EHLO {socket.gethostname()}\r\n".encode())
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
