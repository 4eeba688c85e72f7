"""The error that means: what was asked for cannot be done as asked."""


class UsageError(Exception):
    """Bad input.

    The message says what was asked for, what there is, and what to do; the command line exits with
    status 2.
    """
