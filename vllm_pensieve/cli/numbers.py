"""Numbers as several views show them."""

from __future__ import annotations


def seconds(value: float | None) -> str:
    """Return a time to read: in milliseconds below a second, `-` for none."""
    if value is None:
        return "-"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"
