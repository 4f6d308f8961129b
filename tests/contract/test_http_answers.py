"""What an answer by HTTP means: none counts as sent that hasn't the provider's shape, and only the provider blames
recipients and senders."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from tests.contract.http_server import Answer
from tests.contract.peers import PEERS, MailgunPeer, ResendPeer, SendGridPeer
from tests.contract.test_transports import Claim, mail
from worker.errors import AccountRefused, TransportUnavailable
from worker.mail.outcomes import Failed, Outcome, SenderRefused, Sent, Slow, Uncertain
from worker.sending.transports.base import Transport
from worker.sending.transports.http import LONGEST_RETRY_AFTER_MS, MAX_REPLY_BYTES, retry_after_ms

HttpPeer = ResendPeer | SendGridPeer | MailgunPeer
PAGE = "<html><body>Please log in to the hotel's network</body></html>"


@pytest.fixture(params=["resend", "sendgrid", "mailgun"])
def peer(request: pytest.FixtureRequest) -> HttpPeer:
    made = PEERS[request.param]()
    assert isinstance(made, HttpPeer)
    return made


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, text=PAGE),
        Answer(202, text=PAGE),
        Answer(200, {"status": "ok"}),
        Answer(200, {"id": None}),
        Answer(200, []),
        Answer(200, text="[" * 100_000),
        Answer(204),
        Answer(200, text="x" * (2 * MAX_REPLY_BYTES)),
    ],
    ids=lambda answer: f"{answer.status} {answer.text[:8] or answer.body}",
)
async def test_what_has_not_the_providers_shape_is_lost(transport: Transport, peer: HttpPeer, answer: Answer) -> None:
    peer.server.answer = answer
    outcome = await transport.send(mail(), Claim())
    assert isinstance(outcome, Slow if transport.idempotent_seconds else Uncertain), outcome
    if isinstance(outcome, Slow):
        assert outcome.maybe_accepted
    peer.server.answer = peer.accepted
    assert isinstance(await transport.send(mail(), Claim()), Sent)


@pytest.mark.parametrize("status", [301, 400, 403, 404, 407, 422])
async def test_a_page_of_something_in_between_blames_nobody(transport: Transport, peer: HttpPeer, status: int) -> None:
    peer.server.answer = Answer(status, text="<p>Access denied: the `from` address, from your network</p>")
    with pytest.raises(AccountRefused):
        await transport.send(mail(), Claim())


async def test_a_page_does_not_pass_for_a_key_that_is_right(transport: Transport, peer: HttpPeer) -> None:
    peer.server.check = Answer(200, text=PAGE)
    with pytest.raises(TransportUnavailable, match="MAIL_API_URL"):
        await transport.check()


def _resend(message: str, name: str = "validation_error", status: int = 422) -> Answer:
    return Answer(status, {"statusCode": status, "name": name, "message": message})


def _sendgrid(*errors: tuple[str | None, str]) -> Answer:
    return Answer(400, {"errors": [{"field": field, "message": message} for field, message in errors]})


BLAME: list[tuple[str, Answer, type[Outcome]]] = [
    ("resend", _resend("Invalid `to` field. The address must differ from the one in `from`."), Failed),
    ("resend", _resend("Invalid `to` field. It came from a list."), Failed),
    ("resend", _resend("The address from which it comes is odd."), Failed),
    ("resend", _resend("Invalid `from` field. Use `email@example.com` or `Name <email@example.com>`."), SenderRefused),
    ("resend", _resend("Missing `from` field.", "missing_required_field"), SenderRefused),
    ("resend", _resend("Invalid from address.", "invalid_from_address"), SenderRefused),
    ("resend", _resend("Invalid `from` field.", status=400), SenderRefused),
    (
        "sendgrid",
        _sendgrid(("personalizations.0.to.0.email", "Does not contain a valid address: from is another field.")),
        Failed,
    ),
    ("sendgrid", _sendgrid(("content.0.value", "must differ from nothing")), Failed),
    ("sendgrid", _sendgrid(("from.email", "The from email does not contain a valid address.")), SenderRefused),
    ("sendgrid", _sendgrid((None, "The from address does not match.")), SenderRefused),
    ("sendgrid", _sendgrid(("subject", "is required"), ("from", "is required")), SenderRefused),
    ("mailgun", Answer(400, {"message": "'to' parameter is not a valid address, unlike 'from'"}), Failed),
    ("mailgun", Answer(400, {"message": "to parameter is not a valid address. It differs from parameter x"}), Failed),
    ("mailgun", Answer(400, {"message": "'from' parameter is not a valid address"}), SenderRefused),
    ("mailgun", Answer(400, {"message": "from parameter is missing"}), SenderRefused),
]


@pytest.mark.parametrize(("peer", "answer", "kind"), BLAME, indirect=["peer"])
async def test_the_field_that_is_named_is_to_blame(
    transport: Transport, peer: HttpPeer, answer: Answer, kind: type[Outcome]
) -> None:
    peer.server.answer = answer
    assert isinstance(await transport.send(mail(), Claim()), kind)


@pytest.mark.parametrize(
    ("value", "milliseconds"),
    [
        ("", 0),
        ("7", 7_000),
        (" 7 ", 7_000),
        ("0", 0),
        ("-5", 0),
        ("3601", LONGEST_RETRY_AFTER_MS),
        ("99999999999", LONGEST_RETRY_AFTER_MS),
        ("9" * 5_000, LONGEST_RETRY_AFTER_MS),
        ("²", 0),
        ("٣", 0),
        ("1.5", 0),
        ("soon", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_RETRY_AFTER_MS),
        ("Fri, 31 Dec 0000 23:59:59 GMT", 0),
        ("Mon, 01 Jan 2001 00:00:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 -2359", LONGEST_RETRY_AFTER_MS),
    ],
)
def test_how_long_to_wait_is_bounded(value: str, milliseconds: int) -> None:
    assert retry_after_ms({"retry-after": value}) == milliseconds


def test_a_date_to_wait_for() -> None:
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 58_000 <= retry_after_ms({"retry-after": in_a_minute}) <= 60_000
