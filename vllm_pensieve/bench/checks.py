"""Numbers of the user that are out of range."""

from __future__ import annotations

from vllm_pensieve.workloads.errors import UsageError


def check_count(option: str, value: int | None, least: int, most: int) -> None:
    """Raise UsageError unless `value` is from `least` to `most`, or None."""
    if value is not None and not least <= value <= most:
        raise UsageError(f"{option} {value}: give a whole number from {least} to {most:,}")


def check_amount(option: str, value: float | None, most: float, above_zero: bool = False) -> None:
    """Raise UsageError unless `value` is from 0 (or above it) to `most`, or None."""
    if value is None or (0 <= value <= most and not (above_zero and value == 0)):
        return
    least = "above 0, at most" if above_zero else "from 0 to"
    raise UsageError(f"{option} {value:g}: give a number {least} {most:,.0f}")
