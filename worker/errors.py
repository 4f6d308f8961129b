"""Every error that this package raises on purpose. `str(error)` is one sentence that is safe to print: it never
holds a secret, and it names what is wrong, which value, and where to fix it."""


class MailWorkerError(Exception):
    """The base of all of them."""


class SettingsError(MailWorkerError):
    """One or more settings are missing or wrong. `mistakes` holds a sentence for each."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class InvalidJob(MailWorkerError):
    """A job can't become a mail, however often it's tried."""


class InvalidFile(MailWorkerError):
    """A file of jobs can't be read, or holds jobs that can't become mails. One sentence a line."""


class MailRefused(MailWorkerError):
    """A test mail wasn't accepted."""


class TransportUnavailable(MailWorkerError):
    """No mail can leave at present (no connection, no TLS, no login). The mail at hand was not touched."""


class DatabaseUnavailable(MailWorkerError):
    """Supabase can't be reached, is overloaded or refuses the key: the same request may succeed later."""


class DatabaseRejected(MailWorkerError):
    """Supabase refuses this request for what is in it: the same request will never succeed."""
