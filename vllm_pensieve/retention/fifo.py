"""First in, first out: by the time a block first fell out of use; using it again does not help it."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from typing_extensions import override

from vllm_pensieve.retention.eviction_order import EvictionOrder


class FifoOrder(EvictionOrder):
    """O(log n) for every operation on one block."""

    name = "fifo"

    def __init__(self) -> None:
        self._arrival: dict[int, int] = {}  # of every block whose content is cached, here or in use
        self._here: set[int] = set()
        self._heap: list[
            tuple[int, int]
        ] = []  # (arrival, key); entries of removed keys are dropped when met
        self._arrivals = 0

    @override
    def insert(self, keys: Sequence[int], positions: Sequence[int], last_use_s: float) -> None:
        self.remember(keys)
        for key in keys:
            assert key not in self._here, key
            self._here.add(key)
            heapq.heappush(self._heap, (self._arrival[key], key))

    @override
    def remember(self, keys: Sequence[int]) -> None:
        for key in keys:
            if key not in self._arrival:
                self._arrival[key] = self._arrivals
                self._arrivals += 1

    @override
    def remove(self, key: int) -> None:
        self._here.remove(key)
        if len(self._heap) > 2 * len(self._here) + 64:
            self._heap = sorted((self._arrival[key], key) for key in self._here)

    @override
    def evict(self, count: int, now_s: float) -> list[int]:
        self._require(count)
        evicted: list[int] = []
        while len(evicted) < count:
            arrival, key = heapq.heappop(self._heap)
            if key in self._here and self._arrival[key] == arrival:
                self._here.remove(key)
                del self._arrival[key]
                evicted.append(key)
        return evicted

    @override
    def peek(self, count: int, now_s: float) -> list[int]:
        return heapq.nsmallest(count, self._here, key=self._arrival.__getitem__)

    @override
    def forget(self, key: int) -> None:
        assert key not in self._here, key
        self._arrival.pop(key, None)

    @override
    def forget_all(self) -> None:
        assert not self._here
        self._arrival.clear()

    @override
    def __len__(self) -> int:
        return len(self._here)

    @override
    def __contains__(self, key: int) -> bool:
        return key in self._here

    @override
    def check_integrity(self) -> None:
        assert self._here <= self._arrival.keys()
        assert {(self._arrival[key], key) for key in self._here} <= set(self._heap)
