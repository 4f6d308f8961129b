"""The test bed's one error."""


class TestbedError(Exception):
    """Something can't be done; the text is one sentence with what, which value, and where to fix it."""

    __test__ = False  # it isn't a test, whatever pytest reads in its name
