"""Where mails go in a try, instead of to their recipients."""

from dataclasses import dataclass
from pathlib import Path

from worker.mail.addresses import Address


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Where all mails go instead of their recipients: one of these."""

    redirect_to: Address | None = None
    directory: Path | None = None
    #: Host and port of a mail catcher.
    catcher: tuple[str, int] = ("", 0)

    def __str__(self) -> str:
        if self.redirect_to is not None:
            return f"all mails go to {self.redirect_to.email}, and not to their recipients"
        where = str(self.directory) if self.directory is not None else ":".join(map(str, self.catcher))
        return f"all mails are caught in {where}, and nobody gets one"
