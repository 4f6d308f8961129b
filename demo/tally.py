"""What really happened, as the SMTP server and the database tell it; the worker's own counters aren't asked."""

from dataclasses import dataclass

import psycopg

from demo.campaign import Campaign
from testbed.services import Services


@dataclass(frozen=True, slots=True)
class Tally:
    """Mails and recipients of one campaign. `failed` are recipients that the server refused for good."""

    queued: int
    accepted: int
    unique: int
    rows_sent: int
    failed: int
    status: str

    def __str__(self) -> str:
        return (
            f"queued {self.queued}, accepted {self.accepted}, unique {self.unique}, rows sent {self.rows_sent},"
            f" failed {self.failed}, campaign {self.status}"
        )

    @property
    def accounted_for(self) -> bool:
        """Whether each recipient was sent to or has failed, and the database knows."""
        return self.unique + self.failed == self.queued and self.rows_sent == self.unique and self.status == "sent"


def tally(services: Services, campaign: Campaign) -> Tally:
    """Counts once."""
    mark = f".{campaign.tag}@"
    accepted = [line["rcpt"] for line in services.accepted() if mark in line["rcpt"]]
    refused = {line["rcpt"] for line in services.refused() if mark in line["rcpt"] and line["reply"].startswith("5")}
    with psycopg.connect(services.database_url) as connection:
        row = connection.execute(
            "SELECT status, (SELECT count(*) FROM campaign_subscribers WHERE campaign_id = id AND sent)"
            " FROM campaigns WHERE id = %s",
            (campaign.id,),
        ).fetchone()
    status, rows_sent = row if row else ("missing", 0)
    return Tally(len(campaign.subscriber_ids), len(accepted), len(set(accepted)), rows_sent, len(refused), status)
