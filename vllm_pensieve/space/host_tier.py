"""The host tier: slots of host memory that hold copies of blocks, found by the blocks' keys."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable
from enum import Enum

from vllm_pensieve.retention.eviction_order import EvictionOrder


class Beside(Enum):
    """What there is of a block in addition to its copy in host memory."""

    BUSY = "in GPU memory and in use"
    IDLE = "in GPU memory and unused"
    NOTHING = "nothing: the copy is the only one"


class SlotWatcher:
    """Hears which blocks there are copies of, by the blocks' keys; does nothing with it."""

    def filled(self, key: Hashable, position: int) -> None:
        """There is a copy now, or the copy that there is has become the only one. position: tokens before the block."""

    def emptied(self, key: Hashable) -> None:
        """There is no copy any more."""


class HostTier:
    """Which slot holds the copy of which block, and which copy gives way to a new one.

    Room is made from free slots, then from copies of busy blocks (the longest busy first: such a block can be stored
    again), then from only copies in the eviction order. Copies of idle blocks spare a store when those leave GPU
    memory, but what else they hold is worth more: beyond a quarter of the slots they go before only copies, and those
    of the blocks that fell out of use last go first. Held slots never give way: the step being built reads them.

    version: changes whenever `find` could give another answer than before.
    dropped_blocks: only copies that gave way so far.
    """

    def __init__(
        self,
        num_slots: int,
        order: EvictionOrder,
        on_dropped: Callable[[Hashable], None] | None = None,
        watcher: SlotWatcher | None = None,
    ) -> None:
        """on_dropped: called with the key of every only copy that gives way or is discarded."""
        self.num_slots = num_slots
        self.version = 0
        self.dropped_blocks = 0
        self._idle_share = num_slots // 4
        self._on_dropped = on_dropped
        self._watcher = watcher or SlotWatcher()
        self._only = order
        self._busy: OrderedDict[int, None] = OrderedDict()
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._held: dict[int, tuple[Beside, float]] = {}  # state to enter when released, last use
        self._holders: Counter[int] = Counter()
        self._free = list(range(num_slots - 1, -1, -1))
        self._slot_of: dict[Hashable, int] = {}
        self._key_of: dict[int, Hashable] = {}
        self._position_of: dict[int, int] = {}
        self._last_use_s: dict[int, float] = {}  # of only copies

    def find(self, key: Hashable) -> int | None:
        """The slot with a copy of the block of this key, or None."""
        return self._slot_of.get(key)

    def find_all(self, keys: Iterable[Hashable]) -> list[int | None]:
        """As `find`, for each key."""
        return list(map(self._slot_of.get, keys))

    # -- storing

    @property
    def room(self) -> int:
        """Copies of idle blocks that can be stored ahead of time."""
        at_once = len(self._free) + len(self._busy)
        beside_only_copies = min(len(self._only), self._idle_share - len(self._idle) - at_once)
        return at_once + max(beside_only_copies, 0)

    def store(
        self, key: Hashable, position: int, now_s: float, last_use_s: float | None = None
    ) -> int | None:
        """A slot for a copy that is made now; None if every slot is held.

        position: tokens before the block. last_use_s: when the block was last used, if it leaves GPU memory now; None
        if it is idle there.
        """
        assert key not in self._slot_of, key
        slot = self._take_slot(now_s)
        if slot is not None:
            self._slot_of[key], self._key_of[slot], self._position_of[slot] = slot, key, position
            self.version += 1
            self._watcher.filled(key, position)
            if last_use_s is None:
                self._idle[slot] = None
            else:
                self._add_only(slot, last_use_s)
        return slot

    def _take_slot(self, now_s: float) -> int | None:
        if self._free:
            return self._free.pop()
        if self._busy:
            slot = next(iter(self._busy))
        elif len(self._only) and len(self._idle) <= self._idle_share:
            slot = self._only.evict(1, now_s)[0]
            del self._last_use_s[slot]
            self.dropped_blocks += 1
            if self._on_dropped is not None:
                self._on_dropped(self._key_of[slot])
        elif self._idle:
            slot = next(reversed(self._idle))
        else:
            return None
        self._forget(slot)
        return slot

    # -- what happens to the block in GPU memory

    def block_in_use(self, slot: int) -> None:
        """The block is in GPU memory and in use from now on."""
        self._enter(slot, Beside.BUSY)

    def block_idle(self, slot: int) -> None:
        """The block is in GPU memory and fell out of use."""
        self._enter(slot, Beside.IDLE)

    def block_gone(self, slot: int, last_use_s: float) -> None:
        """The block left GPU memory."""
        self._enter(slot, Beside.NOTHING, last_use_s)
        self._watcher.filled(self._key_of[slot], self._position_of[slot])

    def _enter(self, slot: int, state: Beside, last_use_s: float = 0.0) -> None:
        if self._held and slot in self._held:
            self._held[slot] = (state, last_use_s)
            return
        self._leave_state(slot)
        if state is Beside.BUSY:
            self._busy[slot] = None
        elif state is Beside.IDLE:
            self._idle[slot] = None
        else:
            self._add_only(slot, last_use_s)

    def _add_only(self, slot: int, last_use_s: float) -> None:
        self._only.insert([slot], [self._position_of[slot]], last_use_s)
        self._last_use_s[slot] = last_use_s

    # -- loading

    def hold(self, slots: Iterable[int]) -> None:
        """Keep these copies from giving way until everyone who holds them has released them.

        A slot is held from an only copy on. One that is discarded meanwhile is found by nobody, and not used anew.
        """
        for slot in slots:
            self._holders[slot] += 1
            if slot not in self._held:
                last_use_s = self._last_use_s[slot]
                self._leave_state(slot)
                self._held[slot] = (Beside.NOTHING, last_use_s)

    def release(self, slots: Iterable[int]) -> None:
        """Their step is built, or they are not wanted after all."""
        for slot in slots:
            self._holders[slot] -= 1
            if self._holders[slot]:
                continue
            del self._holders[slot]
            state = self._held.pop(slot)
            if slot in self._key_of:
                self._enter(slot, *state)
            else:
                self._free.append(slot)

    # -- giving up

    def discard(self, slots: Iterable[int]) -> None:
        """The copies in these slots are not good, or not wanted: nobody finds them any more."""
        for slot in slots:
            if slot in self._key_of:
                if self._on_dropped is not None and self._is_only(slot):
                    self._on_dropped(self._key_of[slot])
                self._forget(slot)
                if slot not in self._held:
                    self._free.append(slot)

    def clear(self) -> None:
        """Give up every copy."""
        self.discard(list(self._key_of))

    def _is_only(self, slot: int) -> bool:
        held = self._held.get(slot)
        return slot in self._only or (held is not None and held[0] is Beside.NOTHING)

    def _forget(self, slot: int) -> None:
        if slot not in self._held:
            self._leave_state(slot)
        self._only.forget(slot)
        key = self._key_of.pop(slot)
        del self._slot_of[key], self._position_of[slot]
        self.version += 1
        self._watcher.emptied(key)

    def _leave_state(self, slot: int) -> None:
        if slot in self._busy:
            del self._busy[slot]
        elif slot in self._idle:
            del self._idle[slot]
        elif slot in self._only:
            self._only.remove(slot)
            del self._last_use_s[slot]

    # -- counts

    @property
    def only_copies(self) -> int:
        """Blocks that are nowhere but here."""
        held = sum(
            state is Beside.NOTHING and slot in self._key_of
            for slot, (state, _) in self._held.items()
        )
        return len(self._only) + held

    def __len__(self) -> int:
        return len(self._slot_of)

    def check_integrity(self, idle: bool = False) -> None:
        """AssertionError if a slot is in two states or none, or the indexes contradict each other. For tests.

        idle: no block is in use, so no slot may be held.
        """
        self._only.check_integrity()
        only = set(self._only.peek(len(self._only), math.inf))
        states = [set(self._free), set(self._busy), set(self._idle), set(self._held), only]
        assert sum(map(len, states)) == self.num_slots == len(set().union(*states))
        in_use = set(range(self.num_slots)) - states[0]
        assert in_use - set(self._held) <= set(self._key_of) <= in_use
        assert set(self._holders) == set(self._held)
        assert set(self._position_of) == set(self._key_of)
        assert set(self._last_use_s) == only
        assert {key: slot for slot, key in self._key_of.items()} == self._slot_of
        assert not idle or not (self._held or self._busy)
