"""Every error that this package raises on purpose. `str(error)` is one sentence that is safe to print: it never
holds a secret, and it names what is wrong, which value, and where to fix it."""

from typing import Literal


class MailWorkerError(Exception):
    """The base of all of them."""


class SettingsError(MailWorkerError):
    """One or more settings are missing or wrong. `mistakes` holds a sentence for each."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class InvalidJob(MailWorkerError):
    """A job can't become a mail, however often it's tried."""


class InvalidRecipient(InvalidJob):
    """The recipient's address can't be one: no other job is to blame."""


class InvalidSender(InvalidJob):
    """The job's sender can't be read; or it names none, and neither do this host's settings."""


class InvalidTemplate(InvalidJob):
    """The template that a job needs isn't there, or is wrong: so it's with all that need it."""


class InvalidFile(MailWorkerError):
    """A file of jobs can't be read, or holds jobs that can't become mails. One sentence a line."""


class OperatorMistake(MailWorkerError):
    """A command can't do what it was asked for."""


class MailRefused(MailWorkerError):
    """A test mail wasn't accepted."""


class TransportUnavailable(MailWorkerError):
    """No mail can leave at present (no connection, no TLS, no login). The mail at hand was not touched."""


class AccountRefused(MailWorkerError):
    """The provider refuses the account. The mail at hand was not accepted.

    Args:
        kind: `login`, when nobody gets in, or `sending`, when it's the account's quota or reputation.
    """

    def __init__(self, sentence: str, kind: Literal["login", "sending"]) -> None:
        super().__init__(sentence)
        self.kind = kind


class NoConnectionYet(MailWorkerError):
    """No further connection may be opened before `wait_ms` are over; 0 if there are some, but none for this mail."""

    def __init__(self, wait_ms: int) -> None:
        super().__init__(f"no further connection for {wait_ms} ms" if wait_ms else "all connections are in use")
        self.wait_ms = wait_ms


class DatabaseUnavailable(MailWorkerError):
    """Supabase can't be reached, is overloaded or refuses the key: the same request may succeed later."""


class DatabaseTooSlow(DatabaseUnavailable):
    """Supabase gave the request up after its statement time-out: a smaller one may succeed."""


class DatabaseRejected(MailWorkerError):
    """Supabase refuses this request for what is in it: the same request will never succeed."""
