"""The errors that mean: what was asked for cannot be done as asked."""


class UsageError(Exception):
    """Bad input.

    The message says what was asked for, what there is, and what to do; the command line exits with
    status 2.
    """


class TraceError(UsageError):
    """A trace that cannot be read, is empty, or is not what it was said to be."""
