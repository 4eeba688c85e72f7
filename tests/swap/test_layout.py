"""Rows of a KV cache: the bytes of whole blocks, wherever the strides put them; anything else is refused."""

import pytest
import torch

from vllm_pensieve.swap.layout import UnaddressableLayoutError, block_rows

BLOCKS, HEADS, TOKENS, CHANNELS = 6, 2, 4, 8
BLOCK_BYTES = HEADS * TOKENS * CHANNELS * 2


def rows_of(cache: torch.Tensor, num_blocks: int = BLOCKS) -> torch.Tensor:
    return block_rows({"layer": cache}, num_blocks)["layer"]


def numbered(*shape: int) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel(), dtype=torch.int16).reshape(shape)


def bytes_of(block: torch.Tensor) -> list[int]:
    """The bytes of a block in the order in which they lie in memory."""
    dimensions = sorted(range(block.dim()), key=lambda d: -block.stride(d))
    return block.permute(dimensions).contiguous().view(torch.uint8).flatten().tolist()


def test_each_row_holds_the_bytes_of_its_block():
    cache = numbered(BLOCKS, HEADS, TOKENS, CHANNELS)
    rows = rows_of(cache)
    assert rows.shape == (BLOCKS, BLOCK_BYTES)
    assert [row.tolist() for row in rows] == [bytes_of(block) for block in cache]


def test_rows_are_the_cache_itself():
    cache = numbered(BLOCKS, HEADS, TOKENS, CHANNELS)
    rows_of(cache)[3] = 0
    assert [bool(block.any()) for block in cache] == [True, True, True, False, True, True]


def test_layers_that_are_views_of_one_allocation_keep_apart():
    """As the CPU build and most GPU layouts place them."""
    layers = numbered(3, BLOCKS, HEADS, TOKENS, CHANNELS).unbind()
    rows = block_rows({f"layers.{i}": layer for i, layer in enumerate(layers)}, BLOCKS)
    assert list(rows) == ["layers.0", "layers.1", "layers.2"]
    for layer, of_layer in zip(layers, rows.values(), strict=True):
        assert [row.tolist() for row in of_layer] == [bytes_of(block) for block in layer]


@pytest.mark.parametrize("order", [(0, 2, 1, 3), (0, 3, 1, 2)])
def test_a_block_may_have_its_dimensions_in_any_order(order):
    cache = numbered(BLOCKS, HEADS, TOKENS, CHANNELS).permute(order)
    assert [row.tolist() for row in rows_of(cache)] == [bytes_of(block) for block in cache]


def test_blocks_may_stand_apart():
    """Layers inside a block, or padding behind it."""
    storage = numbered(BLOCKS, 3, HEADS, TOKENS, CHANNELS)
    cache = storage[:, 1]
    rows = rows_of(cache)
    assert rows.stride(0) == 3 * BLOCK_BYTES
    assert [row.tolist() for row in rows] == [bytes_of(block) for block in cache]


def test_kernel_blocks_of_one_block_are_one_row():
    cache = numbered(BLOCKS * 2, HEADS, TOKENS // 2, CHANNELS)
    rows = rows_of(cache)
    assert rows.shape == (BLOCKS, BLOCK_BYTES)
    assert rows[1].tolist() == bytes_of(cache[2]) + bytes_of(cache[3])


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        (numbered(2, BLOCKS, TOKENS, CHANNELS), "has 2 kernel blocks, no multiple of 6"),
        (numbered(BLOCKS + 1, HEADS, CHANNELS), "has 7 kernel blocks, no multiple of 6"),
        (numbered(HEADS, BLOCKS, TOKENS, CHANNELS).transpose(0, 1), "not contiguous in memory"),
        (numbered(BLOCKS * 2, 2, CHANNELS)[:, 0], "not contiguous in memory.* 2 kernel blocks"),
        (numbered(1, TOKENS, CHANNELS).expand(BLOCKS, -1, -1), "not contiguous in memory"),
        (numbered(BLOCKS), "not one tensor of blocks"),
        ([numbered(BLOCKS, CHANNELS)], "not one tensor of blocks"),
    ],
    ids=["keys-and-values-apart", "uneven", "heads-outside", "split-and-apart", "shared", "flat", "list"],
)  # fmt: skip
def test_what_is_not_whole_blocks_in_one_piece_is_refused(cache, message):
    with pytest.raises(UnaddressableLayoutError, match=message):
        rows_of(cache)
