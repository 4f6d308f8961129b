"""An SMTP server that drops, stalls, refuses and hangs up at random, also after accepting a mail, and keeps the truth.

`accepted.jsonl` gets a line {time, rcpt, message_id} for each accepted mail, before any reply; `refused.jsonl` {time,
rcpt, reply} for each recipient that it refuses for good.
"""

import argparse
import asyncio
import json
import random
import re
import ssl
import time
from pathlib import Path
from typing import TextIO

_MESSAGE_ID = re.compile(rb"^Message-ID:\s*(\S+)", re.IGNORECASE | re.MULTILINE)
_EHLO = b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 AUTH PLAIN\r\n"
#: Shorter than RFC 5321's ten minutes, for which a worker waits and the run would too.
STALL_SECONDS = 30.0
#: It takes so many mails on a connection, and refuses the next one's sender.
MAILS_PER_CONNECTION = (10, 60)
_HANG_UP = ", then hang up"
#: What happens to a mail, and how often; the rest is accepted with a reply. What is a reply answers RCPT.
CHANCES = {
    "accept, then drop": 0.01,
    "accept, then stall": 0.001,
    "drop after the content": 0.01,
    "drop before the content": 0.01,
    "450 4.2.0 greylisted": 0.02,
    "421 4.7.0 slow down": 0.002,
    "550 5.1.1 no such mailbox": 0.01,
    # As Exim's `drop`.
    f"550 5.1.1 no such mailbox{_HANG_UP}": 0.005,
    f"421 4.3.2 shutting down{_HANG_UP}": 0.002,
}


class ChaoticSink:
    """All connections share its file and its dice."""

    def __init__(self, accepted: TextIO, refused: TextIO, seed: int) -> None:
        self._accepted = accepted
        self._refused = refused
        self._random = random.Random(seed)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            writer.write(b"220 sink\r\n")
            await self._converse(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fate, rcpt = "", ""
        left = self._random.randint(*MAILS_PER_CONNECTION)
        while line := await reader.readline():
            verb = line[:4].upper()
            if verb == b"EHLO":
                writer.write(_EHLO)
            elif verb == b"AUTH":
                writer.write(b"235 2.7.0 ok\r\n")
            elif verb == b"QUIT":
                writer.write(b"221 bye\r\n")
                return
            elif verb == b"MAIL":
                if left == 0:
                    writer.write(b"421 4.7.0 too many mails on this connection\r\n")
                    return
                left -= 1
                writer.write(b"250 2.1.0 ok\r\n")
            elif verb == b"RCPT":
                rcpt, fate = line[8:].decode().strip().strip("<>"), self._throw()
                if fate == "drop before the content":
                    return
                if not fate[:3].isdigit():
                    writer.write(b"250 2.1.5 ok\r\n")
                    continue
                reply = fate.removesuffix(_HANG_UP)
                if reply[0] == "5":
                    _write(self._refused, rcpt=rcpt, reply=reply)
                writer.write(f"{reply}\r\n".encode())
                rcpt = ""
                if fate != reply:
                    return
            elif verb == b"DATA":
                if not rcpt:
                    writer.write(b"554 5.5.1 no valid recipients\r\n")
                    continue
                writer.write(b"354 go\r\n")
                content = await reader.readuntil(b"\r\n.\r\n")
                if fate == "drop after the content":
                    return
                self._keep(rcpt, content)
                if fate == "accept, then drop":
                    return
                if fate == "accept, then stall":
                    await asyncio.sleep(STALL_SECONDS)
                    return
                writer.write(b"250 2.0.0 taken\r\n")
            else:
                writer.write(b"250 2.0.0 ok\r\n")

    def _throw(self) -> str:
        dice = self._random.random()
        for fate, chance in CHANCES.items():
            dice -= chance
            if dice < 0:
                return fate
        return ""

    def _keep(self, rcpt: str, content: bytes) -> None:
        found = _MESSAGE_ID.search(content)
        _write(self._accepted, rcpt=rcpt, message_id=found.group(1).decode() if found else "")


def _write(stream: TextIO, **words: str) -> None:
    stream.write(json.dumps({"time": time.time(), **words}) + "\n")
    stream.flush()


async def main(options: argparse.Namespace) -> None:
    """Serves until it's ended."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(options.certificate)
    with (
        Path(options.accepted).open("a", encoding="utf-8") as accepted,  # noqa: ASYNC230  # once, at the start
        Path(options.refused).open("a", encoding="utf-8") as refused,  # noqa: ASYNC230
    ):
        sink = ChaoticSink(accepted, refused, options.seed)
        server = await asyncio.start_server(sink.serve, "127.0.0.1", options.port, ssl=tls, limit=1_000_000)
        print("ready", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--accepted", required=True)
    parser.add_argument("--refused", required=True)
    parser.add_argument("--seed", type=int, default=1)
    asyncio.run(main(parser.parse_args()))
