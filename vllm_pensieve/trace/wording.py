"""How counts and bad records are said, wherever traces are shown."""

from __future__ import annotations

from collections.abc import Sequence

LOUD_SHARE = 0.01
"""Of a file's records: when more are left out, the numbers may mean something else."""


def counted(count: int, noun: str) -> str:
    """`1 request`, `2 requests`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def skipped_loudly(skipped: Sequence[str], records: int) -> bool:
    """Whether too many of a file's records were left out to be overlooked."""
    return len(skipped) > LOUD_SHARE * records


def about_skipped(skipped: Sequence[str], records: int, shown: int = 1) -> str:
    """What to say of records that were left out, the first ones by their numbers and reasons; empty for none."""
    if not skipped:
        return ""
    told = "; ".join(skipped[:shown])
    if not skipped_loudly(skipped, records):
        return f"{counted(len(skipped), 'bad line')} skipped: {told}"
    return (
        f"WARNING: {len(skipped):,} of {records:,} lines ({len(skipped) / max(1, records):.0%}) were left out, and "
        f"all numbers are for the rest: {told} (--strict stops at the first)"
    )
