"""The errors that mean: what was asked for cannot be done as asked; and what others' errors say, in one line."""


class UsageError(Exception):
    """Bad input.

    The message says what was asked for, what there is, and what to do; the command line exits with
    status 2.
    """


class TraceError(UsageError):
    """A trace that cannot be read, is empty, or is not what it was said to be."""


def first_lines(error: BaseException, count: int = 1) -> str:
    """The first lines of what an error says that are not blank, as one line; its type's name if it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:count]) or type(error).__name__
