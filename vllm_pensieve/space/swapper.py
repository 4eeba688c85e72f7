"""Keeps the host tier in step with the blocks of the GPU, and collects the copies of the step being built."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

from vllm_pensieve.retention.eviction_order import EvictionOrder
from vllm_pensieve.space.host_tier import HostTier
from vllm_pensieve.space.swap_plan import SwapPlan


class Evicted(NamedTuple):
    """An unused cached block that is overwritten in the step being built.

    position: tokens before it. last: whether no other block of the GPU holds the same.
    """

    block_id: int
    key: Hashable
    position: int
    last_use_s: float
    last: bool


class Swapper:
    """Follows the blocks of the GPU pool, by the keys of what they hold.

    A block is clean while the host tier has a copy of it, else dirty. Unused dirty blocks have an eviction order of
    their own: its first are copied ahead of time, so that a block that must leave is clean by then. (An unused block
    whose copy gave way does not come back into that order; it is stored when it is evicted.)

    stored_blocks, loaded_blocks: copies planned so far. evicted_to_host, evicted_to_nowhere: blocks that left GPU
    memory, by whether a copy stayed.
    """

    def __init__(
        self,
        host: HostTier,
        dirty: EvictionOrder,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.host = host
        self.stored_blocks = 0
        self.loaded_blocks = 0
        self.evicted_to_host = 0
        self.evicted_to_nowhere = 0
        self._clock = clock
        self._dirty = dirty
        self._dirty_key: dict[int, tuple[Hashable, int]] = {}  # block -> key, position
        self._stores: dict[
            int, int
        ] = {}  # slot -> block; a copy may give way in the step that plans it
        self._loads: dict[int, int] = {}  # block -> slot

    # -- what happens to blocks of the GPU pool

    def cached(self, key: Hashable) -> None:
        """A block in use now holds what this key names."""
        slot = self.host.find(key)
        if slot is not None:
            self.host.block_in_use(slot)

    def idle(
        self,
        block_ids: Sequence[int],
        keys: Sequence[Hashable],
        positions: Sequence[int],
        now_s: float,
    ) -> None:
        """Cached blocks fell out of use, the deepest of their sequence first. positions: tokens before each."""
        dirty_ids: list[int] = []
        dirty_positions: list[int] = []
        for block_id, key, position in zip(block_ids, keys, positions, strict=True):
            slot = self.host.find(key)
            if slot is not None:
                self.host.block_idle(slot)
            else:
                self._dirty_key[block_id] = (key, position)
                dirty_ids.append(block_id)
                dirty_positions.append(position)
        if dirty_ids:
            self._dirty.insert(dirty_ids, dirty_positions, now_s)

    def in_use(self, block_id: int, key: Hashable) -> None:
        """An unused cached block is used again."""
        if not self._no_longer_dirty(block_id):
            self.cached(key)

    def evicted(self, blocks: Sequence[Evicted]) -> None:
        """These blocks leave GPU memory: what has no copy yet is copied first."""
        now_s = self._clock()
        for block_id, key, position, last_use_s, last in blocks:
            self._no_longer_dirty(block_id)
            self._cancel_load(block_id)
            if not last:
                continue
            slot = self.host.find(key)
            if slot is None:
                slot = self.host.store(key, position, now_s)
                if slot is None:
                    self.evicted_to_nowhere += 1
                    continue
                self._stores[slot] = block_id
            self.evicted_to_host += 1
            self.host.block_gone(slot, last_use_s)

    def content_lost(self, block_id: int, key: Hashable, last: bool) -> None:
        """The block no longer counts as holding what the key names; a copy in host memory still does."""
        self._no_longer_dirty(block_id)
        self._cancel_load(block_id)
        slot = self.host.find(key)
        if last and slot is not None:
            self.host.block_gone(slot, self._clock())

    def clear(self) -> None:
        """Nothing is cached any more, here or there."""
        for block_id in list(self._dirty_key):
            self._no_longer_dirty(block_id)
        self.host.clear()

    def _no_longer_dirty(self, block_id: int) -> bool:
        if self._dirty_key.pop(block_id, None) is None:
            return False
        self._dirty.remove(block_id)
        self._dirty.forget(block_id)
        return True

    # -- loads

    def load(self, slot: int, block_id: int) -> None:
        """Copy a held slot into a newly allocated block in the step being built."""
        assert block_id not in self._loads, block_id
        self._loads[block_id] = slot

    def _cancel_load(self, block_id: int) -> None:
        slot = self._loads.pop(block_id, None)
        if slot is not None:
            self.host.release([slot])

    # -- the step is built

    @property
    def dirty_blocks(self) -> int:
        """Unused blocks without a copy."""
        return len(self._dirty)

    def take_plan(self, ahead: int) -> SwapPlan:
        """The copies of the step. ahead: how many unused dirty blocks to copy ahead of time, at most."""
        ahead_of_time = self._store_ahead(ahead)
        plan = SwapPlan(
            tuple((block_id, slot) for slot, block_id in self._stores.items()),
            tuple((slot, block_id) for block_id, slot in self._loads.items()),
            tuple(ahead_of_time),
        )
        self.host.release(self._loads.values())
        self._stores, self._loads = {}, {}
        self.stored_blocks += len(plan.stores) + len(plan.ahead)
        self.loaded_blocks += len(plan.loads)
        return plan

    def _store_ahead(self, count: int) -> list[tuple[int, int]]:
        copies: list[tuple[int, int]] = []
        now_s = self._clock()
        while len(copies) < count and len(self._dirty) and self.host.room > 0:
            block_id = self._dirty.evict(1, now_s)[0]
            key, position = self._dirty_key.pop(block_id)
            if self.host.find(key) is None:  # another block may have held the same
                slot = self.host.store(key, position, now_s)
                assert slot is not None
                self._stores.pop(slot, None)
                copies.append((block_id, slot))
        return copies

    def check_integrity(self) -> None:
        """AssertionError if the indexes contradict each other. For tests."""
        self.host.check_integrity()
        self._dirty.check_integrity()
        dirty = set(self._dirty.peek(len(self._dirty), float("inf")))
        assert dirty == set(self._dirty_key)
