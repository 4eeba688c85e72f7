"""What every copier promises: whole blocks move between the KV cache and slots of host memory, in order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

Pairs = Sequence[tuple[int, int]]
"""(source, destination): block and slot for a store, slot and block for a load."""
Indexes = npt.NDArray[np.int64]

COPYING_DEVICES = ("cpu", "cuda")


class CopyError(RuntimeError):
    """Blocks could not be copied; what the copy was to write is not good."""


class Copier(ABC):
    """Moves whole blocks of all layers, in the order in which it is asked to.

    "What follows" is what the caller launches after a call returns, on the device's current stream; on a CPU, what it
    runs. The destinations of one call differ from one another. A copy that fails raises `CopyError`: from the call that
    asks for it, or, if it failed in the background, from the first call that waits for it. Either way the copier can be
    used again: the error is reported once.
    """

    def __init__(self, rows: Sequence[torch.Tensor], host: Sequence[torch.Tensor]) -> None:
        """In layer order: `rows` are views [blocks, bytes of a block] on the KV cache, `host` is memory [slots, bytes
        of a block], both of type uint8.
        """
        if not rows or len(rows) != len(host):
            raise ValueError(f"{len(rows)} layers of KV cache and {len(host)} of host memory")
        for layer, (blocks, slots) in enumerate(zip(rows, host, strict=True)):
            for tensor in (blocks, slots):
                if tensor.dtype != torch.uint8 or tensor.dim() != 2 or tensor.stride(1) != 1:
                    raise ValueError(f"layer {layer} is not made of contiguous rows of bytes")
            if blocks.shape[1] != slots.shape[1]:
                raise ValueError(
                    f"layer {layer} has blocks of {blocks.shape[1]} bytes and slots of {slots.shape[1]}"
                )
        self._rows = list(rows)
        self._host = list(host)
        self._num_blocks = min(len(layer) for layer in rows)
        self._num_slots = min(len(layer) for layer in host)

    @abstractmethod
    def store(self, pairs: Pairs) -> None:
        """Copy blocks to slots: done before what follows changes the blocks."""

    @abstractmethod
    def load(self, pairs: Pairs) -> None:
        """Begin to copy slots to blocks, the first layer first."""

    @abstractmethod
    def wait_for_layer(self, layer: int) -> None:
        """Have what follows wait for the layer's part of the last `load`; without a load, for nothing."""

    @abstractmethod
    def wait_for_load(self) -> None:
        """Have what follows wait for the whole last `load`: before a full CUDA graph, which skips the layers' waits."""

    @abstractmethod
    def store_ahead(self, pairs: Pairs) -> None:
        """Begin to copy blocks to slots when the loads before it are done, alongside what follows.

        What follows may read the blocks; before it changes them, or reads the slots, there must be a `fence`.
        """

    @abstractmethod
    def load_ahead(self, pairs: Pairs) -> None:
        """Begin to copy slots to blocks when the copies before it are done, alongside what follows.

        Nothing may read or change the blocks before there has been a `fence`.
        """

    @abstractmethod
    def fence(self) -> None:
        """Have what follows wait for every copy begun so far."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait, on the host, until every copy begun so far is done: before the host reads or writes slots itself."""

    @abstractmethod
    def close(self) -> None:
        """Wait for every copy, then give back what copying needs."""

    def _store_indexes(self, pairs: Pairs) -> tuple[Indexes, Indexes]:
        """The blocks and the slots of a store. Raises CopyError for one that does not exist."""
        blocks, slots = _columns(pairs)
        self._check("store", blocks, slots)
        return blocks, slots

    def _load_indexes(self, pairs: Pairs) -> tuple[Indexes, Indexes]:
        """The slots and the blocks of a load. Raises CopyError for one that does not exist."""
        slots, blocks = _columns(pairs)
        self._check("load", blocks, slots)
        return slots, blocks

    def _check(self, direction: str, blocks: Indexes, slots: Indexes) -> None:
        for what, indexes, count in (
            ("block", blocks, self._num_blocks),
            ("slot", slots, self._num_slots),
        ):
            bad = indexes[(indexes < 0) | (indexes >= count)]
            if len(bad):
                raise copy_error(
                    direction,
                    len(indexes),
                    IndexError(f"there is no {what} {bad[0]}, only {count}"),
                )


def copy_error(direction: str, num_blocks: int, error: Exception) -> CopyError:
    """The error that says which copy failed and why. direction: "store" or "load"."""
    return CopyError(f"the {direction} of {num_blocks} blocks failed: {error}")


def make_copier(rows: Sequence[torch.Tensor], host: Sequence[torch.Tensor]) -> Copier:
    """The copier for the device on which `rows` are; see `Copier` for the shapes.

    Raises ValueError if there is none for it.
    """
    device = rows[0].device.type
    if device == "cpu":
        from vllm_pensieve.swap.host_copier import HostMemoryCopier

        return HostMemoryCopier(rows, host)
    if device == "cuda":
        from vllm_pensieve.swap.cuda_copier import CudaCopier

        return CudaCopier(rows, host)
    raise ValueError(
        f"the KV cache is on {device!r}; blocks can be copied from {' and '.join(COPYING_DEVICES)} only"
    )


def _columns(pairs: Pairs) -> tuple[Indexes, Indexes]:
    table = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return np.ascontiguousarray(table[:, 0]), np.ascontiguousarray(table[:, 1])
