"""Cache capacities as users write them, and what they are in bytes."""

from __future__ import annotations

import math

import numpy as np

from vllm_pensieve.errors import UsageError

DEFAULT_PERCENT = (1, 5, 10)
LARGEST = 2**40
CURVE_POINTS = 16
CURVE_LOWEST = 0.005
"""Of the unique blocks: where a capacity curve begins. It ends where everything fits."""
UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
"""Bytes of each unit, in capital letters."""
SMALL_CAPACITIES = (64, 128, 256, 512)
"""Blocks: those of the prefix-sharing study."""


def parse_capacities(
    text: str, unique_blocks: int, bytes_per_block: float | None = None
) -> list[int]:
    """Blocks of each capacity in `5%,10%,4096,10GiB`, ascending; percentages are of the trace's unique blocks.

    Both percentages and sizes in bytes are rounded down to whole blocks, percentages to one block at least.
    bytes_per_block: KV memory of a block.

    Raises:
        UsageError: not a list of positive numbers, one is less than a block, or a size in bytes for blocks without one.
    """
    parts = (part.strip() for part in text.split(","))
    return sorted({_parse_capacity(part, unique_blocks, bytes_per_block) for part in parts})


def default_capacities(unique_blocks: int) -> list[int]:
    """Blocks of 1, 5 and 10 % of the unique ones, at least one each."""
    return sorted({max(1, unique_blocks * percent // 100) for percent in DEFAULT_PERCENT})


def _parse_capacity(text: str, unique_blocks: int, bytes_per_block: float | None) -> int:
    unit = next((unit for unit in UNITS if text.upper().endswith(unit)), None)
    blocks_of_all, all_units = _scale(text, unit, unique_blocks, bytes_per_block)
    number_text = text[: -len(unit)] if unit else text.removesuffix("%")
    try:
        number = float(number_text)
        blocks = math.floor(number * blocks_of_all / all_units)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"capacity {text!r} is neither a number of blocks, nor a percentage, nor a size "
            "(such as 5%,10%,4096,10GiB)"
        ) from error
    if text.endswith("%") and number > 0:
        blocks = max(blocks, 1)  # as by default: a short trace is not refused
    elif not unit and number != blocks:
        raise UsageError(f"capacity {text} is not a whole number of blocks")
    if blocks < 1:
        raise UsageError(
            f"capacity {text} is less than one block (the trace has {unique_blocks:,} unique ones); ask for 1 or more"
        )
    if blocks > LARGEST:
        raise UsageError(f"capacity {text} is more than {LARGEST:,} blocks; ask for less")
    return blocks


def _scale(
    text: str, unit: str | None, unique_blocks: int, bytes_per_block: float | None
) -> tuple[float, float]:
    """That many blocks in the capacity's unit."""
    if unit is None:
        return (unique_blocks, 100) if text.endswith("%") else (1, 1)
    if bytes_per_block is None:
        raise UsageError(
            f"capacity {text}: how large a block is depends on the model; give --model or --bytes-per-token"
        )
    return UNITS[unit], bytes_per_block


def curve_capacities(unique_blocks: int) -> list[int]:
    """Capacities of a curve, evenly spaced on a logarithmic axis, up to all unique blocks."""
    lowest = max(1.0, CURVE_LOWEST * unique_blocks)
    return sorted(set(np.geomspace(lowest, unique_blocks, CURVE_POINTS).astype(int).tolist()))


def doubling_capacities(unique_blocks: int) -> list[int]:
    """Twice as many each, from 64 blocks to 512 at least, and until everything fits."""
    capacities = list(SMALL_CAPACITIES)
    while capacities[-1] < unique_blocks:
        capacities.append(2 * capacities[-1])
    return capacities
