"""Least recently used first; of blocks that fell out of use together the deepest first, as vLLM does."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice

from typing_extensions import override

from vllm_pensieve.retention.eviction_order import EvictionOrder


class LruOrder(EvictionOrder):
    """O(1) for every operation on one block."""

    name = "lru"

    def __init__(self) -> None:
        self._keys: OrderedDict[int, None] = OrderedDict()

    @override
    def insert(self, keys: Sequence[int], positions: Sequence[int], last_use_s: float) -> None:
        for key in keys:
            assert key not in self._keys, key
            self._keys[key] = None

    @override
    def remove(self, key: int) -> None:
        del self._keys[key]

    @override
    def evict(self, count: int, now_s: float) -> list[int]:
        self._require(count)
        return [self._keys.popitem(last=False)[0] for _ in range(count)]

    @override
    def peek(self, count: int, now_s: float) -> list[int]:
        return list(islice(self._keys, count))

    @override
    def __len__(self) -> int:
        return len(self._keys)

    @override
    def __contains__(self, key: int) -> bool:
        return key in self._keys

    @override
    def check_integrity(self) -> None:
        pass
