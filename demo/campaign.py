"""A campaign as a web app would make it: rows in its database, and one job for each recipient."""

import json
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psycopg

RECIPIENTS = 1000
HTML_BYTES = 10_000
REFUSED_EVERY = 100
BUSY_EVERY = 125
NAMELESS_EVERY = 20

_NAMES = (
    "Zoë Ångström",
    "José Núñez",
    "Łukasz Żak",
    "Θάλεια Παππά",
    "Дмитрий Ким",
    "明日香 高橋",
    "Ann O'Neil",
    'Bob "B" Ray',
)
_SUBJECTS = (
    "Frühling bei uns 🌷",
    "Ваш билет",
    "新しいお知らせ",
    "Plain and simple",
    "Señales de otoño, y un título muy largo " * 3,
)
_PARAGRAPH = "<p>Grüße aus der Demo: this paragraph, like the next ones, is only here for its weight.</p>\n"


@dataclass(frozen=True, slots=True)
class Campaign:
    """One campaign. `tag` is in each recipient's address, and tells it from earlier ones; with `busy` some mailboxes
    are busy at first, so that the campaign takes at least as long as the first retry's delay."""

    id: str
    tag: str
    subscriber_ids: tuple[str, ...]
    busy: bool

    @classmethod
    def invent(cls, recipients: int, *, busy: bool = True) -> "Campaign":
        campaign_id = str(uuid4())
        return cls(campaign_id, campaign_id[:8], tuple(str(uuid4()) for _ in range(recipients)), busy)

    def insert(self, database_url: str, *, status: str = "sending") -> None:
        """Writes the campaign and its recipients, unsent."""
        with psycopg.connect(database_url) as connection, connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO campaigns (id, name, status) VALUES (%s, %s, %s)", (self.id, f"Demo {self.tag}", status)
            )
            with cursor.copy("COPY campaign_subscribers (campaign_id, subscriber_id) FROM STDIN") as copy:
                for subscriber_id in self.subscriber_ids:
                    copy.write_row((self.id, subscriber_id))
            cursor.execute(
                "INSERT INTO subscribers (id, email)"
                " SELECT * FROM unnest(%s::uuid[], %s::text[]) ON CONFLICT DO NOTHING",
                (list(self.subscriber_ids), [self.address(number) for number in range(len(self.subscriber_ids))]),
            )

    def set_sending(self, database_url: str) -> None:
        """What the web app does once all is queued, whatever the status has become by then."""
        with psycopg.connect(database_url) as connection:
            connection.execute("UPDATE campaigns SET status = 'sending' WHERE id = %s", (self.id,))

    def write_app_jobs(self, path: Path) -> None:
        """Writes one BullMQ job's data a line, in the web app's shape: one subject and one body for all."""
        with path.open("w", encoding="utf-8") as stream:
            for job in self.app_jobs():
                stream.write(json.dumps(job, ensure_ascii=False) + "\n")

    def app_jobs(self) -> list[dict[str, object]]:
        """The jobs' data, in the web app's shape."""
        return [self._app_job(number, subscriber_id) for number, subscriber_id in enumerate(self.subscriber_ids)]

    def write_jobs(self, path: Path) -> None:
        """Writes one job a line, in the shape of files and of Dramatiq's queue."""
        with path.open("w", encoding="utf-8") as stream:
            for number, subscriber_id in enumerate(self.subscriber_ids):
                stream.write(json.dumps(self._job(number, subscriber_id), ensure_ascii=False) + "\n")

    def address(self, number: int) -> str:
        busy = self.busy and number % BUSY_EVERY == 60
        kind = "refused" if number % REFUSED_EVERY == 50 else "busy" if busy else "reader"
        return f"{kind}-{number}.{self.tag}@bücher.example"

    def _app_job(self, number: int, subscriber_id: str) -> dict[str, object]:
        return {
            "campaignId": self.id,
            "subscriberId": subscriber_id,
            "email": self.address(number),
            "subject": _SUBJECTS[0],
            "html": "<h1>Hello {{name}}</h1>\n" + _PARAGRAPH * (HTML_BYTES // len(_PARAGRAPH)),
            # Not every subscriber has told a name.
            "subscriberName": "" if number % NAMELESS_EVERY == 0 else _NAMES[number % len(_NAMES)],
        }

    def _job(self, number: int, subscriber_id: str) -> dict[str, object]:
        name = _NAMES[number % len(_NAMES)]
        unsubscribe_url = f"https://app.example/unsubscribe?s={subscriber_id}"
        html = f"<h1>Hello {name}</h1>\n<p><a href='{unsubscribe_url}'>Unsubscribe</a></p>\n"
        return {
            "to": {"name": name, "address": self.address(number)},
            "from": "The demo <news@testbed.example>",
            "subject": f"{_SUBJECTS[number % len(_SUBJECTS)].strip()} ({number})",
            "html": html + _PARAGRAPH * (HTML_BYTES // len(_PARAGRAPH)),
            "campaignId": self.id,
            "subscriberId": subscriber_id,
            "unsubscribeUrl": unsubscribe_url,
        }
