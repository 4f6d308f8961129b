"""Who is told what is wrong, and when: the settings of alerts."""

import re
from dataclasses import dataclass, field
from datetime import datetime, time, tzinfo

_HOURS = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)(?: ([\w/+-]+))?")


@dataclass(frozen=True, slots=True)
class QuietHours:
    """A time of the day in which only what can't wait is told."""

    begin: time
    end: time
    zone: tzinfo

    @classmethod
    def parse(cls, text: str) -> "QuietHours":
        """Reads `22:00-07:00` (UTC) or `22:00-07:00 Europe/Berlin`.

        Raises:
            ValueError: it isn't one.
        """
        found = _HOURS.fullmatch(text)
        if found is None:
            raise ValueError(text)
        from zoneinfo import ZoneInfo  # A worker without quiet hours stays smaller.

        try:
            zone = ZoneInfo(found[5] or "UTC")
        except (OSError, LookupError):  # There's no such zone.
            raise ValueError(text) from None
        return cls(time(int(found[1]), int(found[2])), time(int(found[3]), int(found[4])), zone)

    def hold_at(self, now: float) -> bool:
        """Whether `now`, in seconds since 1970, is within them."""
        clock = datetime.fromtimestamp(now, self.zone).time()
        if self.begin <= self.end:
            return self.begin <= clock < self.end
        return clock >= self.begin or clock < self.end


@dataclass(frozen=True, slots=True)
class AlertSettings:
    """Where alerts go, each way empty without one, and from what on there are any."""

    #: An `https` address; Slack's get its shape, all others get JSON. Whoever has it may write there: a secret.
    webhook_url: str = field(repr=False, default="")
    #: Signs what goes there; empty without.
    webhook_secret: str = field(repr=False, default="")
    mail_to: str = ""
    mail_from: str = ""
    #: `smtps://USER:PASSWORD@HOST:PORT`, another way than the fleet's own.
    smtp_url: str = field(repr=False, default="")
    #: Asked once a minute while all is watched: who hears nothing any more raises the alarm.
    ping_url: str = field(repr=False, default="")
    quiet_hours: QuietHours | None = None
    #: Minutes without an accepted mail, while some wait, after which the fleet is stuck.
    stuck_minutes: int = 10
    failure_percent: int = 10
    disk_percent: int = 10
    #: In a month; 0 is no limit.
    redis_commands: int = 0
    #: Whether a campaign's end is told.
    campaign_done: bool = True

    @property
    def ways(self) -> tuple[str, ...]:
        """How people are told, for people; none without a setting."""
        webhook = ("the webhook",) if self.webhook_url else ()
        return (*webhook, f"mail to {self.mail_to}") if self.mail_to and self.smtp_url else webhook
