"""An SMTP server that takes mails as fast as it can, or after a while, and counts them: the same one for all peers.

A recipient `hangs-up-…@` is refused, and the connection ended; the connection after the next one is never greeted once
it was told `stall`. TLS from the first byte or none, AUTH PLAIN and LOGIN
with any password, PIPELINING. It answers lines on stdin in JSON.
"""

import argparse
import asyncio
import json
import resource
import ssl
import sys
import time

import uvloop

_EHLO = b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-AUTH PLAIN LOGIN\r\n250 SIZE 50000000\r\n"


class Counter:
    """What all connections have taken."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.arrived: dict[str, float] = {}
        self.connections = 0
        #: The number of a connection that is never greeted.
        self.stalls = 0


class Sink(asyncio.Protocol):
    """One connection."""

    def __init__(self, counter: Counter, delay_seconds: float) -> None:
        self._counter = counter
        self._delay_seconds = delay_seconds
        self._buffer = bytearray()
        self._in_data = False
        self._auth_lines = 0
        self._rcpt = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._counter.connections += 1
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        if self._counter.connections != self._counter.stalls:
            self._transport.write(b"220 sink\r\n")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            if self._in_data:
                end = self._buffer.find(b"\r\n.\r\n")
                if end < 0:
                    return
                del self._buffer[: end + 5]
                self._in_data = False
                self._take()
                continue
            end = self._buffer.find(b"\n")
            if end < 0:
                return
            line = bytes(self._buffer[:end]).strip()
            del self._buffer[: end + 1]
            self._command(line)

    def _command(self, line: bytes) -> None:
        if self._auth_lines:
            self._auth_lines -= 1
            self._transport.write(b"334 UGFzc3dvcmQ6\r\n" if self._auth_lines else b"235 2.7.0 ok\r\n")
            return
        verb = line[:4].upper()
        if verb == b"EHLO":
            self._transport.write(_EHLO)
        elif verb == b"AUTH":
            words = line.split()
            if len(words) > 2:
                self._transport.write(b"235 2.7.0 ok\r\n")
            else:
                self._auth_lines = 2 if words[1].upper() == b"LOGIN" else 1
                self._transport.write(b"334 \r\n")
        elif verb == b"DATA":
            self._in_data = True
            self._transport.write(b"354 go\r\n")
        elif verb == b"QUIT":
            self._transport.write(b"221 bye\r\n")
            self._transport.close()
        else:
            if verb == b"RCPT":
                self._rcpt = line[8:].decode(errors="replace").strip("<> ")
                if self._rcpt.startswith("hangs-up-"):
                    self._transport.write(b"550 5.1.1 no such mailbox\r\n")
                    self._transport.close()
                    return
            self._transport.write(b"250 2.0.0 ok\r\n")

    def _take(self) -> None:
        if self._delay_seconds:
            asyncio.get_running_loop().call_later(self._delay_seconds, self._accept, self._rcpt)
        else:
            self._accept(self._rcpt)

    def _accept(self, rcpt: str) -> None:
        now = time.time()
        self._counter.times.append(now)
        self._counter.arrived[rcpt] = now
        if not self._transport.is_closing():
            self._transport.write(b"250 2.0.0 taken\r\n")


async def serve(options: argparse.Namespace) -> None:
    """Serves until stdin ends. `report` is its command; `arrived` lists recipients with times."""
    counter = Counter()
    tls = None
    if options.certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(options.certificate)
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: Sink(counter, options.delay_ms / 1000), "127.0.0.1", options.port, ssl=tls)
    print("ready", flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := (await reader.readline()).strip():
        if line == b"arrived":
            print(json.dumps(counter.arrived), flush=True)
        elif line == b"stall":
            # Not the next one: until one has worked, a process tries no second one.
            counter.stalls = counter.connections + 2
            print(json.dumps({}), flush=True)
        else:
            usage = resource.getrusage(resource.RUSAGE_SELF)
            times = counter.times
            report = {
                "mails": len(times),
                # Not by Message-ID: not every peer keeps it when it sends a mail again.
                "unique": len(counter.arrived),
                "first": times[0] if times else 0,
                "last": times[-1] if times else 0,
                "connections": counter.connections,
                "cpu_seconds": usage.ru_utime + usage.ru_stime,
            }
            print(json.dumps(report), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--certificate", help="without it there's no TLS")
    parser.add_argument("--delay-ms", type=int, default=0)
    uvloop.run(serve(parser.parse_args()))
