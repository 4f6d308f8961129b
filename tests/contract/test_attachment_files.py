"""Files that a job names by their address, from a server that speaks HTTP and misbehaves."""

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tests.contract.http_server import Answer, HttpServer
from worker.errors import InvalidJob
from worker.mail.attachments import MAX_ATTACHED_BYTES, Attachment
from worker.mail.jobs import Job, parse_job
from worker.sending.attachment_files import AttachmentFiles

PDF = Answer(text="%PDF-1.4")


@pytest.fixture
async def server(tls: ssl.SSLContext) -> AsyncIterator[HttpServer]:
    server = HttpServer(PDF, PDF)
    await server.start(tls)
    yield server
    await server.stop()


@pytest.fixture
async def files() -> AsyncIterator[AttachmentFiles]:
    files = AttachmentFiles(again_seconds=(0.01, 0.01))
    yield files
    await files.close()


def job(server: HttpServer, *paths: str) -> Job:
    found = parse_job({"to": "ann@example.org", "from": "news@example.com", "text": "Hello"})
    base = f"https://127.0.0.1:{server.port}"
    attachments = tuple(Attachment(path, "application/pdf", b"", url=f"{base}/{path}") for path in paths)
    return replace(found, attachments=attachments)


def packed(content: bytes, encoding: str) -> Answer:
    return Answer(content=gzip.compress(content), headers={"content-encoding": encoding})


async def test_a_campaigns_mails_share_a_file(server: HttpServer, files: AttachmentFiles) -> None:
    filled = await asyncio.gather(*(files.fill(job(server, "a.pdf", "b.pdf")) for _ in range(20)))
    assert {file.content for one in filled for file in one.attachments} == {b"%PDF-1.4"}
    assert {file.url for one in filled for file in one.attachments} == {""}
    assert sorted(request.path for request in server.requests) == ["/a.pdf", "/b.pdf"]


async def test_what_fails_for_now_is_asked_for_again(server: HttpServer, files: AttachmentFiles) -> None:
    server.check = Answer(503)
    filling = asyncio.create_task(files.fill(job(server, "a.pdf")))
    for _ in range(1000):
        if server.requests:
            break
        await asyncio.sleep(0.001)
    server.check = PDF
    assert (await filling).attachments[0].content == b"%PDF-1.4"


@pytest.mark.parametrize(
    ("answer", "requests", "words"),
    [
        (Answer(404), 1, "it answers 404"),
        (Answer(302, headers={"location": "https://127.0.0.1/other"}), 1, "it answers 302"),
        (Answer(503), 3, "it answers 503"),
        (Answer(instead="close"), 3, "an attachment can't be fetched"),
        (Answer(text="x" * (MAX_ATTACHED_BYTES + 1)), 1, "has more than 7,000,000 bytes"),
        (packed(bytes(MAX_ATTACHED_BYTES + 1), "gzip"), 1, "has more than 7,000,000 bytes"),
        (packed(gzip.compress(bytes(100)), "gzip, gzip"), 1, "it answers in the encoding 'gzip, gzip'"),
        (Answer(text="rubbish", headers={"content-encoding": "gzip"}), 3, "an attachment can't be fetched"),
    ],
    ids=lambda value: str(value)[:80],
)
async def test_what_cant_be_had_is_a_sentence(
    server: HttpServer, files: AttachmentFiles, answer: Answer, requests: int, words: str
) -> None:
    server.check = answer
    with pytest.raises(InvalidJob, match=words) as caught:
        await files.fill(job(server, "a.pdf?signature=secret"))
    assert "secret" not in str(caught.value)
    assert len(server.requests) == requests


@pytest.mark.parametrize("size", [100, MAX_ATTACHED_BYTES])
async def test_an_answer_may_be_packed(server: HttpServer, files: AttachmentFiles, size: int) -> None:
    server.check = packed(b"x" * size, "gzip")
    filled = await files.fill(job(server, "a.pdf"))
    assert filled.attachments[0].content == b"x" * size


async def test_all_files_of_a_mail_have_one_limit(server: HttpServer, files: AttachmentFiles) -> None:
    server.check = Answer(text="x" * (MAX_ATTACHED_BYTES // 2 + 1))
    with pytest.raises(InvalidJob, match="attachments have"):
        await files.fill(job(server, "a.pdf", "b.pdf"))
