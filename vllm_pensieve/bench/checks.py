"""Options that several benchmarks have: which numbers are out of range."""

from __future__ import annotations

from collections.abc import Collection

from vllm_pensieve.bench.run_options import RunOptions
from vllm_pensieve.config import ConfigError, default_max_new_tokens
from vllm_pensieve.errors import UsageError

MOST_USERS, MOST_TURNS, MOST_TOKENS = 10_000, 1_000, 10_000_000
MOST_SECONDS, MOST_GB = 86_400, 100_000


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


def check_choice(option: str, value: str, known: Collection[str]) -> None:
    """Raise UsageError unless `value` is one of those known."""
    if value not in known:
        raise UsageError(f"{option} {value!r} is unknown; choose one of: {', '.join(known)}")


def check_memory_and_runs(
    options: RunOptions, gpu_cache_gb: float | None, cpu_cache_gb: float | None
) -> None:
    """Refuse memory, repeats and seeds out of range. Raises UsageError."""
    check_amount("--gpu-cache", gpu_cache_gb, MOST_GB, above_zero=True)
    check_amount("--cpu-cache", cpu_cache_gb, MOST_GB)
    check_count("--repeat", options.repeat, 1, 1000)
    check_count("--seed", options.seed, 0, 2**31 - 1)


def reply_tokens(asked: int | None, otherwise: int) -> int:
    """Return `--max-new-tokens`, else MAX_NEW_TOKENS of the environment, else `otherwise`."""
    try:
        return asked or default_max_new_tokens(otherwise)
    except ConfigError as error:
        raise UsageError(str(error)) from error
