"""Keeps the host tier in step with the blocks of the GPU, and collects the copies of the step being built."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence, Set

from typing_extensions import override

from vllm_pensieve.policies.order import Order
from vllm_pensieve.space.block_watcher import BlockWatcher, Evicted
from vllm_pensieve.space.swap_plan import SwapPlan
from vllm_pensieve.space.tier import Tier


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

    asks_others = False

    def __init__(
        self,
        host: Tier,
        dirty: Order,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.host = host
        self.stored_blocks = 0
        self.loaded_blocks = 0
        self.evicted_blocks = 0
        self.evicted_to_nowhere = 0
        self._clock = clock
        self._dirty = dirty
        self._dirty_key: dict[int, Hashable] = {}
        # Slot -> block: a copy may give way to another in the step that plans it.
        self._stores: dict[int, int] = {}
        self._ahead: dict[int, int] = {}
        self._deferred: dict[int, int] = {}
        self._deferred_block: dict[int, int] = {}  # block -> slot: the same, from the other side
        self._loads: dict[int, int] = {}  # block -> slot
        self._prefetches: dict[int, int] = {}  # block -> slot

    # -- what happens to blocks of the GPU pool

    @override
    def hashed(
        self, request_id: str, block_ids: Sequence[int], keys: Sequence[Hashable], first: int
    ) -> None:
        if copies := self._copies_of(keys):
            self.host.in_use(copies)

    def _copies_of(self, keys: Sequence[Hashable]) -> list[int]:
        return [slot for slot in self.host.find_all(keys) if slot is not None]

    @override
    def freed(
        self,
        block_ids: Sequence[int],
        keys: Sequence[Hashable],
        positions: Sequence[int],
        now_s: float,
    ) -> None:
        # Clean ones too: the order may remember of a block how it was used before it becomes dirty.
        self._dirty.insert(block_ids, positions, now_s)
        self._dirty_key.update(zip(block_ids, keys, strict=True))
        slots = self.host.find_all(keys)
        copies = [slot for slot in slots if slot is not None]
        if copies:
            clean = [i for i, slot in zip(block_ids, slots, strict=True) if slot is not None]
            self._no_longer_dirty(clean)
            self.host.idle(copies)

    @override
    def touched(self, block_ids: Sequence[int], keys: Sequence[Hashable]) -> None:
        self._no_longer_dirty([i for i in block_ids if i in self._dirty_key])
        if copies := self._copies_of(keys):
            self.host.in_use(copies)

    @override
    def evicted(self, given_out: Sequence[int], last: Evicted) -> None:
        """What has no copy yet is copied before it is overwritten."""
        self._forget(given_out)
        slots = self.host.find_all(last.keys)
        known = [i for i, slot in enumerate(slots) if slot is not None]
        if known:
            self.host.gone(
                [slot for slot in slots if slot is not None],
                [last.positions[i] for i in known],
                [last.last_uses_s[i] for i in known],
            )
        new = _chosen(last, slots) if known else last
        kept = self.host.keep(new.keys, new.positions, new.last_uses_s, self._clock())
        for block_id, slot in zip(new.block_ids, kept, strict=True):
            if slot is None:
                self.evicted_to_nowhere += 1
            else:
                self._forget_store(slot)
                self._stores[slot] = block_id
        self.evicted_blocks += len(last.block_ids)

    @property
    def evicted_to_host(self) -> int:
        """Blocks that left GPU memory and of which a copy stayed."""
        return self.evicted_blocks - self.evicted_to_nowhere

    @override
    def content_lost(
        self, block_ids: Sequence[int], keys: Sequence[Hashable], positions: Sequence[int]
    ) -> None:
        """A copy in host memory still counts."""
        self._forget(block_ids)
        found = self.host.find_all(keys)
        copies = [(s, p) for s, p in zip(found, positions, strict=True) if s is not None]
        if copies:
            slots, depths = zip(*copies, strict=True)
            self.host.gone(slots, depths, [self._clock()] * len(slots))

    @override
    def clear(self) -> None:
        self._dirty_key.clear()
        self._dirty.clear()
        self.host.clear()

    def _forget(self, block_ids: Sequence[int]) -> None:
        """What these blocks held is gone."""
        # A step admits requests after it has preempted others, so what it loads is in use until it is built.
        assert not self._loads or self._loads.keys().isdisjoint(block_ids), block_ids
        assert not self._prefetches or self._prefetches.keys().isdisjoint(block_ids), block_ids
        for block_id in block_ids:
            self._dirty_key.pop(block_id, None)
        self._dirty.forget(block_ids)

    def _no_longer_dirty(self, block_ids: Sequence[int]) -> None:
        self._dirty.remove(block_ids)
        for block_id in block_ids:
            del self._dirty_key[block_id]

    # -- loads

    def load(self, slots: Sequence[int], block_ids: Sequence[int]) -> None:
        """Copy held slots into newly allocated blocks in the step being built."""
        assert not self._loads or self._loads.keys().isdisjoint(block_ids), block_ids
        self.will_be_written(block_ids)
        self._will_be_read(slots)
        self._loads.update(zip(block_ids, slots, strict=True))

    def prefetch(self, slot: int, block_id: int) -> None:
        """Copy a held slot into a block that no step reads before the next one."""
        assert block_id not in self._prefetches, block_id
        assert block_id not in self._deferred_block, block_id
        self._will_be_read([slot])
        self._prefetches[block_id] = slot

    # -- stores that may wait

    def defer_stores(self, block_ids: Collection[int]) -> None:
        """Of blocks that left in the step being built and are written in later ones: `will_be_written` says when."""
        if not block_ids or not self._stores:
            return
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

    def _will_be_read(self, slots: Iterable[int]) -> None:
        if self._deferred or self._ahead:
            slots = list(slots)
            self.will_be_written([self._deferred[slot] for slot in slots if slot in self._deferred])
            for slot in slots:
                if slot in self._ahead:  # a load might overtake a store made alongside the step
                    self._stores[slot] = self._ahead.pop(slot)

    def _forget_store(self, slot: int) -> None:
        """The slot is given to another copy."""
        if slot in self._deferred:
            del self._deferred_block[self._deferred.pop(slot)]
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
            tuple(zip(self._stores.values(), self._stores, strict=True)),
            tuple(zip(self._loads.values(), self._loads, strict=True)),
            tuple(zip(self._prefetches.values(), self._prefetches, strict=True)),
            (*zip(self._ahead.values(), self._ahead, strict=True), *ahead_of_time),
        )
        self.host.release([*self._loads.values(), *self._prefetches.values()])
        self._stores, self._ahead, self._loads, self._prefetches = {}, {}, {}, {}
        self.stored_blocks += len(plan.stores) + len(plan.ahead)
        self.loaded_blocks += len(plan.loads) + len(plan.prefetches)
        return plan

    def _store_ahead(self, count: int) -> list[tuple[int, int]]:
        copies: list[tuple[int, int]] = []
        if count <= 0:
            return copies
        now_s = self._clock()
        taken = self._dirty.take(count, now_s)
        keys = [self._dirty_key.pop(block_id) for block_id in taken]
        new = {  # another block may have held the same
            key: block_id
            for block_id, key, slot in zip(taken, keys, self.host.find_all(keys), strict=True)
            if slot is None
        }
        block_ids = list(new.values())
        positions = self._dirty.position[block_ids].tolist()
        for block_id, slot in zip(
            block_ids, self.host.store(list(new), positions, now_s), strict=True
        ):
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


def _chosen(last: Evicted, slots: Sequence[int | None]) -> Evicted:
    """Those of which there is no copy."""
    rest = [i for i, slot in enumerate(slots) if slot is None]
    return Evicted(
        [last.block_ids[i] for i in rest],
        [last.keys[i] for i in rest],
        [last.positions[i] for i in rest],
        [last.last_uses_s[i] for i in rest],
    )
