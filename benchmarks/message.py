"""How long it takes to build a 10 kB mail, against the standard library's generator in the same run; and what of it the
text part takes.

.venv/bin/python -m benchmarks.message
"""

import time
from collections.abc import Callable
from email import policy
from email.message import EmailMessage

from worker.mail import alike
from worker.mail.addresses import Address
from worker.mail.jobs import Job
from worker.mail.message import build_mail
from worker.mail.text import text_from_html
from worker.mail.unsubscribing import ONE_CLICK

ROUNDS = 5
MAILS = 100

_HTML = "<h1>Hello Zoë</h1>\n" + "<p>Grüße: this paragraph is only here for its weight, like the next.</p>\n" * 140
_JOB = Job(
    to=(Address("Zoë Ångström", "zoe@example.org"),),
    sender=Address("News", "news@example.com"),
    subject="Frühling bei uns",
    html=_HTML,
    headers=(("List-Unsubscribe", "<https://app.example/u/1>"), ONE_CLICK),
    campaign_id="campaign",
    subscriber_id="subscriber",
)


def by_hand() -> bytes:
    """What the worker does for a campaign whose bodies are alike."""
    return build_mail(_JOB, "identity").data


def of_its_own() -> bytes:
    """The same for mails whose bodies have nothing in common."""
    alike._bodies_of.cache_clear()
    return by_hand()


def textless() -> bytes:
    """The same with MAIL_TEXT_PART=none."""
    return build_mail(_JOB, "identity", makes_text=False).data


def by_library() -> bytes:
    """The same mail by email.message."""
    message = EmailMessage(policy=policy.SMTP)
    message["From"], message["To"] = "News <news@example.com>", "Zoë Ångström <zoe@example.org>"
    message["Subject"] = _JOB.subject
    message["List-Unsubscribe"] = _JOB.headers[0][1]
    message.set_content(text_from_html(_JOB.html))
    message.add_alternative(_JOB.html, subtype="html")
    return message.as_bytes()


def milliseconds(build: Callable[[], bytes]) -> float:
    """The best round's time for one mail."""
    best = float("inf")
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        for _ in range(MAILS):
            build()
        best = min(best, (time.perf_counter() - begin) / MAILS)
    return best * 1000


def main() -> None:
    """Prints them and their ratios."""
    ours, peer = milliseconds(by_hand), milliseconds(by_library)
    print(
        f"worker.mail.message {ours:.2f} ms, email.message {peer:.2f} ms a mail of {len(by_hand()):,} bytes:", end=" "
    )
    print(f"{peer / ours:.1f} times as fast")
    own, without = milliseconds(of_its_own), milliseconds(textless)
    print(
        f"a body of its own {own:.2f} ms: its text {own - ours:.2f}, the part {ours - without:.2f}; HTML alone"
        f" {without:.2f} ms a mail of {len(textless()):,} bytes"
    )


if __name__ == "__main__":
    main()
