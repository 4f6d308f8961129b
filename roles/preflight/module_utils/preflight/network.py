"""Names, connections and TLS under one deadline, with what goes wrong sorted into a few kinds."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

#: How long an IPv6 connection may take longer than one by IPv4 until it counts as dropped.
IPV6_GRACE_SECONDS = 1.0
_ADDRESSES_PER_FAMILY = 2

Result = TypeVar("Result")


class ProbeError(Exception):
    """A service that doesn't answer as it should.

    `kind` is one of: `no name`, `no resolver`, `timeout` (the connection), `refused`, `unreachable`, `silent`
    (connected, then nothing), `closed`, `wrong tls` (TLS where none is spoken, or the other way round), `certificate`,
    `odd` (another protocol). `words` are the peer's or the system's own.
    """

    def __init__(self, kind: str, words: str = "") -> None:
        super().__init__(kind, words)
        self.kind = kind
        self.words = " ".join(words.split())[:200]


class Addresses(NamedTuple):
    """A name's addresses, IPv4 and IPv6; `problem` tells why there are none."""

    ipv4: list[str]
    ipv6: list[str]
    problem: ProbeError | None = None


class Trust(NamedTuple):
    """`complete` is False on a host without ca-certificates: then nothing secret may be sent over TLS."""

    context: ssl.SSLContext
    complete: bool


def make_trust(authorities: Iterable[str]) -> Trust:
    """The host's own authorities, and these (PEM texts) in addition.

    Raises:
        ValueError: one of them is no PEM certificate.
    """
    context = ssl.create_default_context()
    for pem in authorities:
        try:
            context.load_verify_locations(cadata=pem)
        except (ssl.SSLError, ValueError, TypeError):
            raise ValueError("one of the further certificate authorities isn't a PEM certificate") from None
    paths = ssl.get_default_verify_paths()
    # Debian's OpenSSL reads the directory; that file in it tells whether ca-certificates has filled it.
    complete = bool(paths.cafile) or Path(paths.capath or "/", "ca-certificates.crt").exists()
    if not complete:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return Trust(context, complete)


def in_parallel(calls: Mapping[str, Callable[[], Result]], seconds: float) -> dict[str, Result]:
    """Makes all calls at once; one that isn't done in time is missing from the answer. The threads end with the
    process: getaddrinfo can't be interrupted.

    Raises:
        RuntimeError: a call raised what it shouldn't; only with its kind, since its text may hold anything.
    """
    results: dict[str, Result] = {}
    faults: list[str] = []

    def run(name: str, call: Callable[[], Result]) -> None:
        try:
            results[name] = call()
        except Exception as error:
            faults.append(f"{type(error).__name__} in {name}")

    threads = [threading.Thread(target=run, args=item, daemon=True) for item in calls.items()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if faults:
        raise RuntimeError(", ".join(faults))
    return dict(results)


def resolve_all(names: Iterable[str], seconds: float) -> dict[str, Addresses]:
    """Asks the host's own resolver for all names at once."""
    wanted = sorted(set(filter(None, names)))
    found = in_parallel({name: partial(_resolve, name) for name in wanted}, seconds)
    late = Addresses([], [], ProbeError("no resolver", f"no answer within {seconds:g} s"))
    return {name: found.get(name, late) for name in wanted}


def _resolve(name: str) -> Addresses:
    try:
        answers = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        kind = "no resolver" if error.errno in (socket.EAI_AGAIN, socket.EAI_FAIL) else "no name"
        return Addresses([], [], ProbeError(kind, error.strerror or ""))
    except UnicodeError:
        return Addresses([], [], ProbeError("no name", "it isn't a host name"))
    return Addresses(
        [str(where[0]) for family, *_, where in answers if family == socket.AF_INET],
        [str(where[0]) for family, *_, where in answers if family == socket.AF_INET6],
    )


class Wire:
    """A connected socket that is read and written until a deadline. Every fault comes as a ProbeError."""

    def __init__(self, connected: socket.socket, deadline: float) -> None:
        self.socket = connected
        self.deadline = deadline
        #: IPv6 got no answer where IPv4 did.
        self.ipv6_dropped = False
        self._buffer = b""

    def start_tls(self, trust: Trust, name: str) -> None:
        """Raises `certificate`, `wrong tls`, `silent` or `closed`."""
        try:
            self.limit()
            self.socket = trust.context.wrap_socket(self.socket, server_hostname=name)
        except ssl.SSLCertVerificationError as error:
            raise ProbeError("certificate", error.verify_message) from error
        except ssl.SSLEOFError as error:
            raise ProbeError("closed") from error
        except ssl.SSLError as error:
            raise ProbeError("wrong tls", str(error.reason or "")) from error
        except OSError as error:
            raise _lost(error) from error
        except ValueError as error:  # no name that TLS could ask for
            raise ProbeError("odd", "it isn't a host name") from error

    def send(self, data: bytes) -> None:
        """Sends all of it."""
        try:
            self.limit()
            self.socket.sendall(data)
        except OSError as error:
            raise _lost(error) from error

    def line(self, until: float | None = None) -> bytes:
        """A line without its end; at the most until then."""
        while b"\n" not in self._buffer:
            self._receive(until)
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.rstrip(b"\r")

    def exactly(self, size: int) -> bytes:
        """So many bytes."""
        while len(self._buffer) < size:
            self._receive(None)
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def close(self) -> None:
        """Closes it without a word."""
        self.socket.close()

    def _receive(self, until: float | None) -> None:
        try:
            self.limit(until)
            data = self.socket.recv(65536)
        except OSError as error:
            raise _lost(error) from error
        if not data:
            raise ProbeError("closed")
        self._buffer += data
        if len(self._buffer) > 1 << 20:
            raise ProbeError("odd", "too long an answer")

    def limit(self, until: float | None = None) -> None:
        """Gives the socket's next operation the time that is left; TimeoutError if none is."""
        left = min(self.deadline, until or self.deadline) - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.socket.settimeout(left)


def dial(addresses: Addresses, port: int, seconds: float, conversation_seconds: float) -> Wire:
    """Connects to whichever address answers first, so that a broken IPv6 doesn't hide a working IPv4.

    Raises:
        ProbeError: none does.
    """
    if addresses.problem is not None:
        raise addresses.problem
    started = time.monotonic()
    waiting, refusals = _begin(addresses, port)
    connected: socket.socket | None = None
    with selectors.DefaultSelector() as selector:
        for opened in waiting:
            selector.register(opened, selectors.EVENT_WRITE)
        until = started + seconds
        while waiting and (left := until - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                opened = next(one for one in waiting if one is key.fileobj)
                waiting.remove(opened)
                selector.unregister(opened)
                code = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code:
                    refusals.append(code)
                    opened.close()
                elif connected is None:
                    connected = opened
                    until = min(until, time.monotonic() + IPV6_GRACE_SECONDS)
                else:
                    opened.close()
            if connected is not None and not any(one.family == socket.AF_INET6 for one in waiting):
                break
    dropped = any(one.family == socket.AF_INET6 for one in waiting)
    for opened in waiting:
        opened.close()
    if connected is None:
        raise _not_connected(refusals, timed_out=bool(waiting))
    wire = Wire(connected, time.monotonic() + conversation_seconds)
    wire.ipv6_dropped = dropped and connected.family == socket.AF_INET
    return wire


def _begin(addresses: Addresses, port: int) -> tuple[list[socket.socket], list[int]]:
    waiting, refusals = [], []
    for family, found in ((socket.AF_INET, addresses.ipv4), (socket.AF_INET6, addresses.ipv6)):
        for address in found[:_ADDRESSES_PER_FAMILY]:
            try:
                opened = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:  # a kernel without IPv6
                refusals.append(error.errno or errno.EAFNOSUPPORT)
                continue
            opened.setblocking(False)
            code = opened.connect_ex((address, port))
            if code in (0, errno.EINPROGRESS):
                waiting.append(opened)
            else:
                refusals.append(code)
                opened.close()
    return waiting, refusals


def speaks_tls(host: str, addresses: Addresses, port: int, seconds: float) -> bool:
    """Does it shake hands, whatever the certificate?"""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with contextlib.suppress(ProbeError):
        wire = dial(addresses, port, seconds, seconds)
        try:
            wire.start_tls(Trust(context, False), host)
            return True
        finally:
            wire.close()
    return False


def _not_connected(codes: list[int], *, timed_out: bool) -> ProbeError:
    if errno.ECONNREFUSED in codes:
        return ProbeError("refused")
    if timed_out or errno.ETIMEDOUT in codes:
        return ProbeError("timeout")
    return ProbeError("unreachable", os.strerror(codes[0]) if codes else "no address")


def _lost(error: OSError) -> ProbeError:
    return ProbeError("silent" if isinstance(error, TimeoutError) else "closed")
