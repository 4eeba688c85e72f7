"""Checksums of what lies in host memory: a bit that flips there must not become an answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from zlib import crc32

import torch


class SlotChecksums:
    """CRC-32 of every slot over all layers, as it was when the slot was stored.

    host: for each layer the slots, uint8 [slots, bytes of a block].
    """

    def __init__(self, host: Sequence[torch.Tensor]) -> None:
        self._host = [layer.numpy() for layer in host]
        self._recorded: dict[int, int] = {}

    def record(self, slots: Iterable[int]) -> None:
        """These slots hold what they should."""
        for slot in slots:
            self._recorded[slot] = self._of(slot)

    def mismatched(self, slots: Iterable[int]) -> set[int]:
        """Those of the slots that hold something else than was recorded, or were never recorded."""
        return {slot for slot in slots if self._recorded.get(slot) != self._of(slot)}

    def _of(self, slot: int) -> int:
        checksum = 0
        for layer in self._host:
            checksum = crc32(layer[slot], checksum)
        return checksum
