"""Attachments that a job names by their address on the web: fetched when the mail is due, from hosts that the settings
allow, and from nowhere else."""

import asyncio
import time
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from worker.errors import InvalidJob
from worker.mail.attachments import MAX_ATTACHED_BYTES, Attachment, check_size
from worker.mail.jobs import Job

if TYPE_CHECKING:
    import httpx

TIMEOUT_SECONDS = 15.0
#: What doesn't come is asked for again after these.
AGAIN_SECONDS = (1.0, 5.0)
#: A campaign's mails have the same files: the last ones are kept for so long, so many bytes at the most.
KEPT_SECONDS = 300.0
KEPT_BYTES = 8_000_000
#: How an answer may be packed (RFC 9110, 8.4.1), and whether it is then. These are asked for.
_ENCODINGS = {"": False, "identity": False, "gzip": True, "x-gzip": True, "deflate": True}
# zlib's: either, as the first bytes tell.
_GZIP_OR_ZLIB = 47


class AttachmentFiles:
    """A process's."""

    def __init__(self, again_seconds: tuple[float, ...] = AGAIN_SECONDS) -> None:
        self._again_seconds = again_seconds
        self._client: httpx.AsyncClient | None = None
        self._kept: dict[str, tuple[bytes, float]] = {}
        self._fetching: dict[str, asyncio.Lock] = {}

    async def fill(self, job: Job) -> Job:
        """The job with all its files.

        Raises:
            InvalidJob: one can't be had, or all together are too big.
        """
        if not any(file.url for file in job.attachments):
            return job
        files = [await self._file(file) if file.url else file for file in job.attachments]
        check_size(tuple(files))
        return replace(job, attachments=tuple(files))

    async def close(self) -> None:
        """Ends all connections."""
        if self._client is not None:
            await self._client.aclose()

    async def _file(self, file: Attachment) -> Attachment:
        lock = self._fetching.setdefault(file.url, asyncio.Lock())
        try:
            async with lock:
                return replace(file, content=await self._content(file.url), url="")
        finally:
            if not lock.locked():
                self._fetching.pop(file.url, None)

    async def _content(self, url: str) -> bytes:
        kept = self._kept.get(url)
        if kept is not None and time.monotonic() < kept[1]:
            return kept[0]
        content = await self._fetch(url)
        self._kept[url] = (content, time.monotonic() + KEPT_SECONDS)
        while sum(len(one) for one, _ in self._kept.values()) > KEPT_BYTES:
            del self._kept[next(iter(self._kept))]
        return content

    async def _fetch(self, url: str) -> bytes:
        import httpx  # most processes never need it

        if self._client is None:
            # An address elsewhere, to which a redirection leads, isn't allowed.
            self._client = httpx.AsyncClient(
                timeout=TIMEOUT_SECONDS, follow_redirects=False, headers={"Accept-Encoding": "gzip, deflate"}
            )
        problem = ""
        for wait_seconds in (0.0, *self._again_seconds):
            await asyncio.sleep(wait_seconds)
            try:
                async with asyncio.timeout(TIMEOUT_SECONDS), self._client.stream("GET", url) as answer:
                    encoding = answer.headers.get("content-encoding", "").strip().lower()
                    if answer.status_code == 200 and encoding in _ENCODINGS:
                        return await _body(answer, packed=_ENCODINGS[encoding], url=url)
                    problem = f"it answers {answer.status_code}"
                    if answer.status_code == 200:
                        problem = f"it answers in the encoding {encoding[:60]!r}, which wasn't asked for"
                    if answer.status_code < 500 and answer.status_code != 429:
                        break
            except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, TimeoutError, zlib.error) as error:
                problem = " ".join(str(error).split())[:100] or type(error).__name__
        # In the same words for each file there: by them a campaign's fault is told from one recipient's.
        raise InvalidJob(f"an attachment can't be fetched from {_host(url)}: {problem}")


async def _body(answer: "httpx.Response", *, packed: bool, url: str) -> bytes:
    data = bytearray()
    # httpx unpacks whatever has come as a whole, and some hundred bytes may hold a gigabyte.
    unpacker = zlib.decompressobj(_GZIP_OR_ZLIB) if packed else None
    async for chunk in answer.aiter_raw():
        data += chunk if unpacker is None else unpacker.decompress(chunk, MAX_ATTACHED_BYTES + 1 - len(data))
        if len(data) > MAX_ATTACHED_BYTES:
            raise InvalidJob(f"an attachment at {_host(url)} has more than {MAX_ATTACHED_BYTES:,} bytes")
    return bytes(data)


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""
