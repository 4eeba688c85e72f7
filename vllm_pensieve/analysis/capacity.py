"""Cache capacities as users write them, and what they are in bytes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from vllm_pensieve.workloads.errors import UsageError

DEFAULT_PERCENT = (1, 5, 10)
LARGEST = 2**40
CURVE_POINTS = 16
CURVE_LOWEST = 0.005
"""Of the unique blocks: where a capacity curve begins. It ends where everything fits."""
SMALL_CAPACITIES = (64, 128, 256, 512)
"""Blocks: those of the prefix-sharing study."""
DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def parse_capacities(text: str, unique_blocks: int) -> list[int]:
    """Blocks of each capacity in `5%,10%,4096`, ascending; percentages are of the trace's unique blocks, rounded down.

    Raises:
        UsageError: not a list of positive numbers, or one is less than a block.
    """
    return sorted({_parse_capacity(part.strip(), unique_blocks) for part in text.split(",")})


def default_capacities(unique_blocks: int) -> list[int]:
    """Blocks of 1, 5 and 10 % of the unique ones, at least one each."""
    return sorted({max(1, unique_blocks * percent // 100) for percent in DEFAULT_PERCENT})


def _parse_capacity(text: str, unique_blocks: int) -> int:
    try:
        number = float(text.removesuffix("%"))
        blocks = math.floor(unique_blocks * number / 100 if text.endswith("%") else number)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"capacity {text!r} is neither a number of blocks nor a percentage (such as 5%,10%,4096)"
        ) from error
    if not text.endswith("%") and number != blocks:
        raise UsageError(f"capacity {text} is not a whole number of blocks")
    if blocks < 1:
        raise UsageError(
            f"capacity {text} is less than one block (the trace has {unique_blocks:,} unique ones); ask for 1 or more"
        )
    if blocks > LARGEST:
        raise UsageError(f"capacity {text} is more than {LARGEST:,} blocks; ask for less")
    return blocks


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


def kv_bytes_per_token(config_path: Path) -> int:
    """KV bytes of one token, from a model's config.json, in the data type it names.

    Keys and values of all layers; with multi-head latent attention one latent vector and one rotary key a layer.

    Raises:
        UsageError: the file cannot be read or lacks the sizes.
    """
    try:
        config: dict[str, Any] = json.loads(config_path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{config_path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{config_path}: is not a model's config.json: {error}") from error
    text = config.get("text_config", config)
    dtype = str(text.get("torch_dtype") or text.get("dtype") or config.get("torch_dtype"))
    try:
        element_bytes = DTYPE_BYTES[dtype.removeprefix("torch.")]
        layers = int(text["num_hidden_layers"])
        if "kv_lora_rank" in text:
            per_layer = int(text["kv_lora_rank"]) + int(text["qk_rope_head_dim"])
        else:
            heads = int(text["num_attention_heads"])
            head_dim = int(text.get("head_dim") or text["hidden_size"] // heads)
            per_layer = 2 * int(text.get("num_key_value_heads") or heads) * head_dim
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{config_path}: cannot tell KV bytes per token ({error!r} is missing or strange); "
            "give --bytes-per-token instead"
        ) from error
    return layers * per_layer * element_bytes
