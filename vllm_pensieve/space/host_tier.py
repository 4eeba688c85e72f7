"""The host tier: slots of host memory that hold copies of blocks, found by the blocks' keys."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence

from typing_extensions import override

from vllm_pensieve.policies.order import Order
from vllm_pensieve.space.tier import Tier

FREE, BUSY, IDLE, ONLY = range(4)
"""A slot holds nothing; a copy of a block in GPU memory that is in use, or unused; the only copy."""


class SlotWatcher:
    """Hears which blocks there are copies of, by the blocks' keys; does nothing with it."""

    def filled(self, keys: Sequence[Hashable], positions: Sequence[int]) -> None:
        """There are copies now, or those that there are have become the only ones. positions: blocks before each."""

    def emptied(self, key: Hashable) -> None:
        """There is no copy any more."""


class HostTier(Tier):
    """Which slot holds the copy of which block, and which copy gives way to a new one.

    Room is made from free slots, then from copies of busy blocks (the longest busy first: such a block can be stored
    again), then from only copies in the eviction order. Copies of idle blocks spare a store when those leave GPU
    memory, but what else they hold is worth more: beyond a quarter of the slots they go before only copies, and those
    of the blocks that fell out of use last go first. Held slots never give way: a step reads them.
    """

    def __init__(
        self,
        num_slots: int,
        order: Order,
        on_dropped: Callable[[Hashable], None] | None = None,
        watcher: SlotWatcher | None = None,
    ) -> None:
        """on_dropped: called with the key of every only copy that gives way or is discarded."""
        self.num_slots = num_slots
        self.version = 0
        self.dropped_blocks = 0
        self._idle_share = num_slots // 4
        self._on_dropped = on_dropped
        self._watcher = watcher
        self._slot_of: dict[Hashable, int] = {}
        self._key: list[Hashable] = [None] * num_slots
        self._state = bytearray(num_slots)
        self._free = list(range(num_slots - 1, -1, -1))
        # Slots with copies of blocks in GPU memory, in the order in which those came into use, or fell out of it.
        self._busy: dict[int, None] = {}
        self._idle: dict[int, None] = {}
        self._order = order  # of only copies that are not held; knows the position and last use of those that are
        self._holders: dict[int, int] = {}  # how many hold a slot

    @override
    def find(self, key: Hashable) -> int | None:
        return self._slot_of.get(key)

    @override
    def find_all(self, keys: Iterable[Hashable]) -> list[int | None]:
        return list(map(self._slot_of.get, keys))

    # -- storing

    @property
    @override
    def room(self) -> int:
        at_once = len(self._free) + len(self._busy)
        beside_only_copies = min(len(self._order), self._idle_share - len(self._idle) - at_once)
        return at_once + max(beside_only_copies, 0)

    @override
    def store(self, keys: Sequence[Hashable], positions: Sequence[int], now_s: float) -> list[int]:
        slots = self._take_slots(len(keys), now_s)
        assert len(slots) == len(keys), (len(slots), len(keys))
        self._fill(slots, keys, positions, IDLE)
        self._idle.update(dict.fromkeys(slots))
        return slots

    @override
    def keep(
        self,
        keys: Sequence[Hashable],
        positions: Sequence[int],
        last_uses_s: Sequence[float],
        now_s: float,
    ) -> list[int | None]:
        kept: list[int | None] = []
        while len(kept) < len(keys):
            # What has just been kept may give way to what comes after it.
            first = len(kept)
            slots = self._take_slots(len(keys) - first, now_s)
            if not slots:
                kept += [None] * (len(keys) - first)
                break
            last = first + len(slots)
            self._fill(slots, keys[first:last], positions[first:last], ONLY)
            self._order.append(slots, positions[first:last], last_uses_s[first:last])
            kept += slots
        return kept

    def _fill(
        self,
        slots: Sequence[int],
        keys: Sequence[Hashable],
        positions: Sequence[int],
        state: int,
    ) -> None:
        for slot, key in zip(slots, keys, strict=True):
            assert key not in self._slot_of, key
            self._slot_of[key], self._key[slot], self._state[slot] = slot, key, state
        self.version += 1
        if self._watcher is not None:
            self._watcher.filled(keys, positions)

    def _take_slots(self, count: int, now_s: float) -> list[int]:
        """Up to that many slots that hold nothing any more; fewer only if the next call may find others, or none."""
        slots = self._free[: -count - 1 : -1]
        del self._free[len(self._free) - len(slots) :]
        if len(slots) == count:
            return slots
        wanted = count - len(slots)
        given_up = self._first(self._busy, wanted)
        spare = len(self._idle) - self._idle_share
        if spare > 0:
            given_up += self._first(self._idle, min(spare, wanted - len(given_up)), newest=True)
        if evicted := self._order.evict(min(len(self._order), wanted - len(given_up)), now_s):
            self.dropped_blocks += len(evicted)
            if self._on_dropped is not None:
                for slot in evicted:
                    self._on_dropped(self._key[slot])
        elif not slots and not given_up:
            given_up += self._first(self._idle, wanted, newest=True)
        for slot in (*given_up, *evicted):
            self._forget(slot)
        return slots + given_up + evicted

    @staticmethod
    def _first(slots: dict[int, None], count: int, newest: bool = False) -> list[int]:
        """Take out the first of these slots, or the last ones."""
        count = min(count, len(slots))
        if newest:
            return [slots.popitem()[0] for _ in range(count)]
        taken = [slot for slot, _ in zip(slots, range(count), strict=False)]
        for slot in taken:
            del slots[slot]
        return taken

    # -- what happens to the blocks in GPU memory

    @override
    def in_use(self, slots: Sequence[int]) -> None:
        self._become_copies(slots, BUSY, self._busy, self._idle)

    @override
    def idle(self, slots: Sequence[int]) -> None:
        self._become_copies(slots, IDLE, self._idle, self._busy)

    def _become_copies(
        self,
        slots: Sequence[int],
        state: int,
        entered: dict[int, None],
        left: dict[int, None],
    ) -> None:
        self._order.remove(self._evictable(slots))
        for slot in slots:
            self._state[slot] = state
            if slot not in self._holders:
                left.pop(slot, None)
                entered.pop(slot, None)
                entered[slot] = None

    def _evictable(self, slots: Iterable[int]) -> list[int]:
        return [s for s in slots if self._state[s] == ONLY and s not in self._holders]

    @override
    def gone(
        self, slots: Sequence[int], positions: Sequence[int], last_uses_s: Sequence[float]
    ) -> None:
        self._order.remove(self._evictable(slots))
        for slot in slots:
            self._busy.pop(slot, None)
            self._idle.pop(slot, None)
            self._state[slot] = ONLY
        self._order.append(slots, positions, last_uses_s)
        self._order.remove([slot for slot in slots if slot in self._holders])
        if self._watcher is not None:
            self._watcher.filled([self._key[slot] for slot in slots], positions)

    # -- loading

    @override
    def hold(self, slots: Sequence[int]) -> None:
        """A slot is held from an only copy on. One that is discarded meanwhile is not found, and not used anew."""
        holders = self._holders
        self._order.remove([slot for slot in slots if slot not in holders])
        for slot in slots:
            holders[slot] = holders.get(slot, 0) + 1

    @override
    def release(self, slots: Sequence[int]) -> None:
        holders, state, only = self._holders, self._state, []
        for slot in slots:
            count = holders.pop(slot)
            if count > 1:
                holders[slot] = count - 1
            elif state[slot] == BUSY:
                self._busy[slot] = None
            elif state[slot] == IDLE:
                self._idle[slot] = None
            elif state[slot] == ONLY:
                only.append(slot)
            else:
                self._free.append(slot)
        if only:
            order = self._order
            order.append(only, order.position[only].tolist(), order.last_use_s[only].tolist())

    # -- giving up

    @override
    def discard(self, slots: Collection[int]) -> None:
        for slot in slots:
            if self._key[slot] is None:
                continue
            if self._state[slot] == ONLY and self._on_dropped is not None:
                self._on_dropped(self._key[slot])
            self._busy.pop(slot, None)
            self._idle.pop(slot, None)
            self._forget(slot)
            self._order.forget([slot])
            if slot not in self._holders:
                self._free.append(slot)

    @override
    def clear(self) -> None:
        self.discard([slot for slot, key in enumerate(self._key) if key is not None])

    def _forget(self, slot: int) -> None:
        key = self._key[slot]
        del self._slot_of[key]
        self._key[slot] = None
        self._state[slot] = FREE
        self.version += 1
        if self._watcher is not None:
            self._watcher.emptied(key)

    # -- counts

    @property
    @override
    def only_copies(self) -> int:
        return len(self._order) + sum(self._state[slot] == ONLY for slot in self._holders)

    @override
    def __len__(self) -> int:
        return len(self._slot_of)

    @override
    def check_integrity(self, idle: bool = False) -> None:
        self._order.check_integrity()
        only = set(self._order.peek(len(self._order), math.inf))
        held = set(self._holders)
        states = [set(self._free), set(self._busy), set(self._idle), held, only]
        assert sum(map(len, states)) == self.num_slots == len(set().union(*states))
        assert all(self._state[slot] == FREE for slot in self._free)
        assert all(self._state[slot] == BUSY for slot in self._busy)
        assert all(self._state[slot] == IDLE for slot in self._idle)
        assert all(self._state[slot] == ONLY for slot in only)
        filled = {slot for slot in range(self.num_slots) if self._state[slot] != FREE}
        assert {slot for slot, key in enumerate(self._key) if key is not None} == filled
        assert {self._key[slot]: slot for slot in filled} == self._slot_of
        assert all(count > 0 for count in self._holders.values())
        assert not idle or not (held or self._busy)
