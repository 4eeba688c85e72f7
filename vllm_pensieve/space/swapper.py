"""Keeps the host tier in step with the blocks of the GPU, and collects the copies of the step being built."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence, Set

from typing_extensions import override

from vllm_pensieve.retention.eviction_order import EvictionOrder
from vllm_pensieve.space.block_watcher import BlockWatcher, Evicted
from vllm_pensieve.space.host_tier import HostTier
from vllm_pensieve.space.swap_plan import SwapPlan


class Swapper(BlockWatcher):
    """Follows the blocks of the GPU pool, by the keys of what they hold.

    A block is clean while the host tier has a copy of it, else dirty. Unused dirty blocks have an eviction order of
    their own, in which they stand as in the pool's: its first are copied ahead of time, so that a block that must leave
    is clean by then. (An unused block whose copy gave way does not come back into that order; it is stored when it is
    evicted.)

    A block that leaves is stored before it is written. Where it is given to a request that writes it only in a later
    step, the store is deferred until then, or made ahead of time; who reads its slot before has it made at once.

    stored_blocks, loaded_blocks: copies planned so far. evicted_blocks: blocks that left GPU memory;
    evicted_to_nowhere: those of them of which no copy stayed.
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
        self.evicted_blocks = 0
        self.evicted_to_nowhere = 0
        self._clock = clock
        self._dirty = dirty
        self._dirty_key: dict[int, tuple[Hashable, int]] = {}  # block -> key, position
        # Slot -> block: a copy may give way to another in the step that plans it.
        self._stores: dict[int, int] = {}
        self._ahead: dict[int, int] = {}
        self._deferred: dict[int, int] = {}
        self._deferred_block: dict[int, int] = {}  # block -> slot: the same, from the other side
        self._loads: dict[int, int] = {}  # block -> slot
        self._prefetches: dict[int, int] = {}  # block -> slot

    # -- what happens to blocks of the GPU pool

    @override
    def cached(self, request_id: str, block_id: int, key: Hashable, position: int) -> None:
        self._is_busy(key)

    def _is_busy(self, key: Hashable) -> None:
        slot = self.host.find(key)
        if slot is not None:
            self.host.block_in_use(slot)

    @override
    def idle(
        self,
        block_ids: Sequence[int],
        keys: Sequence[Hashable],
        positions: Sequence[int],
        now_s: float,
    ) -> None:
        dirty_ids: list[int] = []
        dirty_positions: list[int] = []
        self._dirty.remember(block_ids)
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

    @override
    def in_use(self, block_id: int, key: Hashable) -> None:
        if not self._no_longer_dirty(block_id):
            self._is_busy(key)

    @override
    def overwritten(self, block_id: int) -> None:
        # A step admits requests after it has preempted others, so what it loads is in use until it is built.
        assert block_id not in self._loads and block_id not in self._prefetches, block_id
        self._no_longer_dirty(block_id)
        self._dirty.forget(block_id)

    @override
    def evicted(self, blocks: Sequence[Evicted]) -> None:
        """What has no copy yet is copied before it is overwritten."""
        now_s = self._clock()
        host = self.host
        for block_id, key, position, last_use_s in blocks:
            slot = host.find(key)
            if slot is not None:
                host.block_gone(slot, last_use_s)
                continue
            slot = host.store(key, position, now_s, last_use_s)
            if slot is not None:
                self._forget_store(slot)
                self._stores[slot] = block_id
            else:
                self.evicted_to_nowhere += 1
        self.evicted_blocks += len(blocks)

    @property
    def evicted_to_host(self) -> int:
        """Blocks that left GPU memory and of which a copy stayed."""
        return self.evicted_blocks - self.evicted_to_nowhere

    @override
    def content_lost(self, key: Hashable) -> None:
        """A copy in host memory still counts."""
        slot = self.host.find(key)
        if slot is not None:
            self.host.block_gone(slot, self._clock())

    @override
    def clear(self) -> None:
        for block_id in list(self._dirty_key):
            self._no_longer_dirty(block_id)
        self._dirty.forget_all()
        self.host.clear()

    def _no_longer_dirty(self, block_id: int) -> bool:
        if self._dirty_key.pop(block_id, None) is None:
            return False
        self._dirty.remove(block_id)
        return True

    # -- loads

    def load(self, slot: int, block_id: int) -> None:
        """Copy a held slot into a newly allocated block in the step being built."""
        assert block_id not in self._loads, block_id
        self.will_be_written((block_id,))
        self._will_be_read(slot)
        self._loads[block_id] = slot

    def prefetch(self, slot: int, block_id: int) -> None:
        """Copy a held slot into a block that no step reads before the next one."""
        assert block_id not in self._prefetches, block_id
        assert block_id not in self._deferred_block, block_id
        self._will_be_read(slot)
        self._prefetches[block_id] = slot

    # -- stores that may wait

    def defer_stores(self, block_ids: Collection[int]) -> None:
        """Of blocks that left in the step being built and are written in later ones: `will_be_written` says when."""
        own = set(block_ids)
        for slot, block_id in [entry for entry in self._stores.items() if entry[1] in own]:
            del self._stores[slot]
            self._deferred[slot] = block_id
            self._deferred_block[block_id] = slot

    def is_deferred(self, block_id: int) -> bool:
        """Whether a block must still be stored before it may be written."""
        return block_id in self._deferred_block

    def will_be_written(self, block_ids: Iterable[int]) -> None:
        """The step being built writes these blocks, or nobody knows any more when they are written."""
        if self._deferred:
            for block_id in block_ids:
                slot = self._deferred_block.pop(block_id, None)
                if slot is not None:
                    self._stores[slot] = self._deferred.pop(slot)

    def store_ahead_of_writing(self, block_id: int) -> None:
        """Make a deferred store alongside the step being built, so that the next one may write the block."""
        slot = self._deferred_block.pop(block_id)
        self._ahead[slot] = self._deferred.pop(slot)

    def _will_be_read(self, slot: int) -> None:
        if slot in self._deferred:
            self.will_be_written((self._deferred[slot],))

    def _forget_store(self, slot: int) -> None:
        """The slot is given to another copy."""
        block_id = self._deferred.pop(slot, None)
        if block_id is not None:
            del self._deferred_block[block_id]
        self._stores.pop(slot, None)
        self._ahead.pop(slot, None)

    # -- the step is built

    @property
    def is_loading(self) -> bool:
        """Whether copies for a request that waits for them are made alongside the step being built."""
        return bool(self._prefetches or self._ahead)

    @property
    def dirty_blocks(self) -> int:
        """Unused blocks without a copy."""
        return len(self._dirty)

    def take_plan(self, ahead: int) -> SwapPlan:
        """The copies of the step. ahead: how many unused dirty blocks to copy ahead of time, at most."""
        ahead_of_time = self._store_ahead(min(ahead, len(self._dirty), self.host.room))
        plan = SwapPlan(
            tuple((block_id, slot) for slot, block_id in self._stores.items()),
            tuple((slot, block_id) for block_id, slot in self._loads.items()),
            tuple((slot, block_id) for block_id, slot in self._prefetches.items()),
            (*((block_id, slot) for slot, block_id in self._ahead.items()), *ahead_of_time),
        )
        self.host.release((*self._loads.values(), *self._prefetches.values()))
        self._stores, self._ahead, self._loads, self._prefetches = {}, {}, {}, {}
        self.stored_blocks += len(plan.stores) + len(plan.ahead)
        self.loaded_blocks += len(plan.loads) + len(plan.prefetches)
        return plan

    def _store_ahead(self, count: int) -> list[tuple[int, int]]:
        copies: list[tuple[int, int]] = []
        if count <= 0:
            return copies
        now_s = self._clock()
        for block_id in self._dirty.peek(
            count, now_s
        ):  # they stay in GPU memory, and are remembered
            key, position = self._dirty_key[block_id]
            self._no_longer_dirty(block_id)
            if self.host.find(key) is None:  # another block may have held the same
                slot = self.host.store(key, position, now_s)
                assert slot is not None
                self._forget_store(slot)
                copies.append((block_id, slot))
        return copies

    def check_integrity(self, unused: Set[int], idle: bool = False) -> None:
        """AssertionError if the indexes contradict each other. For tests.

        unused: the pool's hashed blocks that nobody uses. idle: no step is being built, so no copy may be planned.
        """
        self.host.check_integrity(idle)
        self._dirty.check_integrity()
        assert {block: slot for slot, block in self._deferred.items()} == self._deferred_block
        dirty = set(self._dirty.peek(len(self._dirty), float("inf")))
        assert dirty == set(self._dirty_key) <= unused
        assert not idle or not (self._stores or self._loads)
