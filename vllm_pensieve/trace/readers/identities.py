"""Block ids of any kind as numbers of 64 bits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vllm_pensieve.trace.records import BlockId

LEAST = -(2**63)
GREATEST = 2**63 - 1


class Identities:
    """Gives equal ids equal numbers and different ids different ones. Most integers are their own numbers."""

    def __init__(self) -> None:
        self._numbers: dict[BlockId, int] = {}

    def numbers(self, ids: Sequence[BlockId]) -> NDArray[np.int64]:
        """[ids], in their order."""
        plain = np.array(ids)
        if plain.dtype == np.int64 and (not len(plain) or plain.min() >= 0):
            return plain
        return np.fromiter(map(self._number, ids), np.int64, len(ids))

    def _number(self, one: BlockId) -> int:
        """A negative number, unless it is an integer that can stand for itself."""
        if isinstance(one, int) and 0 <= one <= GREATEST:
            return one
        return self._numbers.setdefault(one, LEAST + len(self._numbers))
