"""How a block lies in the KV cache tensors: one row of bytes a layer, addressed by the registered strides."""

from __future__ import annotations

from collections.abc import Mapping

import torch


class UnaddressableLayoutError(RuntimeError):
    """The KV cache lies in memory in a way that whole blocks cannot be copied from."""


def block_rows(kv_caches: Mapping[str, torch.Tensor], num_blocks: int) -> dict[str, torch.Tensor]:
    """For each layer a view [num_blocks, bytes of one block] of type uint8 on its KV cache.

    kv_caches: as vLLM registers them, by layer name; the first dimension counts blocks, or the smaller blocks of the
        attention kernel, several of which make up one of vLLM's.

    Raises:
        UnaddressableLayoutError: a layer's blocks are not contiguous in memory, or are not whole blocks of vLLM's.
    """
    return {name: _rows(name, cache, num_blocks) for name, cache in kv_caches.items()}


def _rows(name: str, cache: torch.Tensor, num_blocks: int) -> torch.Tensor:
    if not isinstance(cache, torch.Tensor) or cache.dim() < 2:
        raise UnaddressableLayoutError(
            f"the KV cache of layer {name!r} is not one tensor of blocks"
        )
    kernel_blocks_a_block, rest = divmod(cache.shape[0], num_blocks)
    if rest or not kernel_blocks_a_block:
        raise UnaddressableLayoutError(
            f"layer {name!r} has {cache.shape[0]} kernel blocks, no multiple of {num_blocks} blocks"
        )
    kernel_block_bytes = cache[0].numel() * cache.element_size()
    stride_bytes = cache.stride(0) * cache.element_size()
    is_whole = stride_bytes == kernel_block_bytes or (
        stride_bytes > kernel_block_bytes and kernel_blocks_a_block == 1
    )
    if not is_whole or not _is_dense(cache[0]):
        raise UnaddressableLayoutError(
            f"a block of layer {name!r} is not contiguous in memory: shape {tuple(cache.shape)}, "
            f"strides {cache.stride()}, {kernel_blocks_a_block} kernel blocks a block"
        )
    raw = torch.empty(0, dtype=torch.uint8, device=cache.device).set_(cache.untyped_storage())
    return raw.as_strided(
        (num_blocks, kernel_blocks_a_block * kernel_block_bytes),
        (kernel_blocks_a_block * stride_bytes, 1),
        cache.storage_offset() * cache.element_size(),
    )


def _is_dense(block: torch.Tensor) -> bool:
    """Whether the elements of one block fill one stretch of memory, in whatever order of dimensions."""
    expected = 1
    dimensions = zip(block.shape, block.stride(), strict=True)
    for size, stride in sorted(dimensions, key=lambda dimension: dimension[1]):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True
