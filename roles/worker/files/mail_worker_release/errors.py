"""What goes wrong in a way that somebody foresaw."""


class ReleaseError(Exception):
    """One sentence for people: what, which value, where to mend it."""


class GateFailed(ReleaseError):
    """The release didn't prove itself; the sentence says why, `log` is what it wrote last."""

    def __init__(self, sentence: str, log: list[str]) -> None:
        super().__init__(sentence)
        self.log = log
