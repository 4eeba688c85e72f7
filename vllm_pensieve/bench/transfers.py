"""Copies between KV cache and host memory on this machine: bandwidth, and what loading by layers hides.

Every number is a median of repeats that alternate with those it is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import torch

from vllm_pensieve.bench.swap_in import measure_swap_in
from vllm_pensieve.bench.timing import alternating_medians, seconds_each
from vllm_pensieve.bench.transfer_options import TransferOptions
from vllm_pensieve.errors import UsageError
from vllm_pensieve.kv_shape import KvShape, kv_shape
from vllm_pensieve.machine import GIB, describe_machine, describe_versions
from vllm_pensieve.swap.copiers import Copier, Pairs, make_copier
from vllm_pensieve.swap.host_memory import NotEnoughHostMemoryError, allocate_slots

SCHEMA = 1
ROOM = 2
"""The memory on each side holds this many times the blocks of the largest copy, so scattered ones have gaps."""
MOST_COPIES = 20
"""Copies that one repeat times, each of other blocks, so that small ones do not stay in the processor's cache."""


class Memory:
    """A KV cache [layers, blocks, bytes of a block] on the device, and host memory [layers, slots, bytes of a block].

    Each is one stretch of memory, allocated once for the largest block size.
    """

    def __init__(self, shape: KvShape, options: TransferOptions, device: torch.device) -> None:
        self.layers = shape.layers
        self.blocks = ROOM * max(options.blocks)
        num_bytes = self.blocks * max(options.block_tokens) * shape.bytes_per_token
        sides = [num_bytes] if device.type == "cuda" else [num_bytes, num_bytes]
        try:
            allocated = allocate_slots(1, sides, pin=device.type == "cuda")
            if device.type == "cuda":
                allocated.append(torch.zeros((1, num_bytes), dtype=torch.uint8, device=device))
        except (NotEnoughHostMemoryError, torch.OutOfMemoryError) as error:
            raise UsageError(
                f"twice {num_bytes / GIB:.2f} GiB is needed to copy {max(options.blocks)} blocks of "
                f"{max(options.block_tokens)} tokens, and is not available ({error}); lower --blocks or --block-tokens"
            ) from error
        self.flat_host, self.flat_rows = (side[0] for side in allocated)

    def rows(self, row_bytes: int) -> list[torch.Tensor]:
        """The KV cache for blocks of this size, by layer."""
        return self._by_layer(self.flat_rows, row_bytes)

    def host(self, row_bytes: int) -> list[torch.Tensor]:
        """The slots for blocks of this size, by layer."""
        return self._by_layer(self.flat_host, row_bytes)

    def _by_layer(self, flat: torch.Tensor, row_bytes: int) -> list[torch.Tensor]:
        used = flat[: self.layers * self.blocks * row_bytes]
        return list(used.view(self.layers, self.blocks, row_bytes).unbind())


def measure_transfers(
    options: TransferOptions, progress: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Measure all that is asked for, and return it as it is written to the JSON file.

    Raises UsageError if it cannot be measured here.
    """
    shape, device = kv_shape(options.model), _device(options.device)
    memory = Memory(shape, options, device)
    transfers: list[dict[str, Any]] = []
    swap_in: list[dict[str, Any]] = []
    for tokens in options.block_tokens:
        row_bytes = tokens * shape.layer_bytes_per_token
        copier = make_copier(memory.rows(row_bytes), memory.host(row_bytes))
        for pattern in options.patterns:
            for blocks in options.blocks:
                progress(f"{blocks} blocks of {tokens} tokens, {pattern}")
                pairs = _pair_lists(pattern, blocks, memory.blocks)
                speeds = _measure_copies(memory, copier, row_bytes, pairs, options.repeats)
                transfers.append(
                    {
                        "pattern": pattern,
                        "block_tokens": tokens,
                        "block_bytes": row_bytes * shape.layers,
                        "blocks": blocks,
                        **speeds,
                    }
                )
        progress(f"swap-in of {max(options.blocks)} blocks of {tokens} tokens")
        pairs = _pair_lists(options.patterns[0], max(options.blocks), memory.blocks)
        swap_in.append(
            {"pattern": options.patterns[0], "block_tokens": tokens, "blocks": max(options.blocks)}
            | measure_swap_in(copier, shape.layers, pairs[0], device, options.repeats)
        )
        copier.close()
    return {
        "schema": SCHEMA,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "device": device.type,
        "model": {"name": options.model, "layers": shape.layers}
        | {"kv_bytes_per_token": shape.bytes_per_token},
        "options": options.described(),
        "transfers": transfers,
        "swap_in": swap_in,
    }


def measure_bandwidths(
    shape: KvShape, block_tokens: int, blocks: int, device: str, repeats: int
) -> tuple[float, float]:
    """Bytes/s of storing and of loading that many scattered blocks, by the plugin's own copier.

    Raises UsageError if there is not the memory for it.
    """
    options = TransferOptions(
        blocks=(blocks,),
        block_tokens=(block_tokens,),
        repeats=repeats,
        pattern="scattered",
        device=device,
    )
    memory = Memory(shape, options, _device(device))
    row_bytes = block_tokens * shape.layer_bytes_per_token
    copier = make_copier(memory.rows(row_bytes), memory.host(row_bytes))
    pairs = _pair_lists("scattered", blocks, memory.blocks)
    speeds = _measure_copies(memory, copier, row_bytes, pairs, repeats)
    copier.close()
    return speeds["store_gb_s"] * 1e9, speeds["load_gb_s"] * 1e9


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch finds no CUDA device here; use --device cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _pair_lists(pattern: str, blocks: int, of: int) -> list[Pairs]:
    """Lists of `blocks` pairs of rows below `of`: neighbours in sequence, or drawn at random on both sides."""
    copies = min(MOST_COPIES, of // blocks)
    if pattern == "sequence":
        return [[(row, row) for row in range(i * blocks, (i + 1) * blocks)] for i in range(copies)]
    random = np.random.default_rng(0)

    def rows() -> list[int]:
        return random.permutation(of)[:blocks].tolist()

    return [list(zip(rows(), rows(), strict=True)) for _ in range(copies)]


def _measure_copies(
    memory: Memory,
    copier: Copier,
    row_bytes: int,
    pair_lists: Sequence[Pairs],
    repeats: int,
) -> dict[str, Any]:
    """Speeds of stores and loads, of one plain copy of the same bytes, and of plain copies row by row."""
    num_bytes = len(pair_lists[0]) * memory.layers * row_bytes
    host, rows = memory.flat_host, memory.flat_rows
    parts = [slice(i * num_bytes, (i + 1) * num_bytes) for i in range(len(pair_lists))]
    ways: dict[str, list[Callable[[], object]]] = {
        "store": [partial(copier.store, pairs) for pairs in pair_lists],
        "load": [partial(_load, copier, pairs) for pairs in pair_lists],
        "plain_store": [partial(_copy, rows[part], host[part]) for part in parts],
        "plain_load": [partial(_copy, host[part], rows[part]) for part in parts],
    }
    if rows.device.type == "cpu":
        sides = memory.rows(row_bytes), memory.host(row_bytes)
        ways["rows_store"] = [_copy_by_rows(*sides, pairs) for pairs in pair_lists]
        ways["rows_load"] = [_copy_by_rows(*sides[::-1], pairs) for pairs in pair_lists]
    seconds = alternating_medians(
        {name: partial(seconds_each, ways[name], rows.device) for name in ways}, repeats
    )
    speed = {f"{name}_gb_s": num_bytes / 1e9 / taken for name, taken in seconds.items()}
    shares = {
        f"{name}_share_of_plain": seconds[f"plain_{name}"] / seconds[name]
        for name in ("store", "load")
    }
    return {"bytes": num_bytes, **speed, **shares}


def _load(copier: Copier, pairs: Pairs) -> None:
    copier.load(pairs)
    copier.wait_for_load()


def _copy(source: torch.Tensor, destination: torch.Tensor) -> None:
    if source.device.type == destination.device.type == "cpu":
        np.copyto(destination.numpy(), source.numpy())  # one thread, as the copier
    else:
        destination.copy_(source, non_blocking=True)


def _copy_by_rows(
    sources: Sequence[torch.Tensor], destinations: Sequence[torch.Tensor], pairs: Pairs
) -> Callable[[], None]:
    """One call of the C library's memcpy for each row, in the order given."""
    from vllm_pensieve.swap.host_copier import copy_rows

    from_rows, to_rows = (np.ascontiguousarray(column) for column in np.array(pairs).T)

    def copy() -> None:
        for source, destination in zip(sources, destinations, strict=True):
            copy_rows(
                (source.data_ptr(), source.stride(0)),
                from_rows,
                (destination.data_ptr(), destination.stride(0)),
                to_rows,
                source.shape[1],
            )

    return copy
