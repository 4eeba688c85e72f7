"""What vLLM's own options, as given after `--`, say that a benchmark must know."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from vllm_pensieve.errors import UsageError

VLLM_DTYPES: dict[str | None, str] = {"half": "float16", "float": "float32"}
"""Names that vLLM has for number formats besides their own."""


def value_of(options: Sequence[str], *names: str) -> str | None:
    """Return the last value given to an option of vLLM; None without one, or for vLLM's `auto`."""
    value = None
    for option, following in zip_longest(options, options[1:], fillvalue=""):
        name, sign, rest = option.partition("=")
        if name in names:
            value = rest if sign else following
    return VLLM_DTYPES.get(value, value) if value != "auto" else None


def workers(options: Sequence[str]) -> int:
    """Return the workers that each hold a part of the KV. Raises UsageError for no whole number above 0."""
    said = value_of(options, "--tensor-parallel-size", "-tp") or "1"
    if not said.isdecimal() or int(said) < 1:
        raise UsageError(f"-- --tensor-parallel-size {said}: give a whole number above 0")
    return int(said)
