"""Host memory on the fake device: carries out each step's swap plan, at the earliest or the latest moment allowed."""

import random
from collections.abc import Iterable

import numpy as np

from vllm_pensieve.space.swap_plan import SwapPlan
from vllm_pensieve.testing.device import UNWRITTEN, FakeDevice


class FakeHostMemory:
    """Slots as the device's blocks have them. A bad slot is one that could not be stored, or that has changed.

    fail_stores, fail_loads: chance that a copy does not happen and is reported.
    """

    def __init__(self, device: FakeDevice, num_slots: int, seed: int = 0) -> None:
        self.device = device
        self.slots = np.full((num_slots, device.block_tokens), UNWRITTEN, dtype=np.int64)
        self.fail_stores = self.fail_loads = 0.0
        self.failed_loads = self.failed_stores = 0
        self.stored = self.loaded = 0
        self._random = random.Random(seed)
        self._bad: set[int] = set()
        self._ahead: list[tuple[int, int]] = []  # begun alongside the step before, still going on
        self._prefetching: list[tuple[int, int]] = []  # likewise

    def begin_step(self, plan: SwapPlan) -> tuple[set[int], set[int]]:
        """Everything up to the forward pass. The blocks that were not loaded, and the slots found bad."""
        plan.check_integrity()
        bad_blocks, new_bad = self._load(self._prefetching)
        new_bad |= self._store(self._ahead)
        self._ahead, self._prefetching = [], []
        new_bad |= self._store(plan.stores)
        self.device.poison([block for _, block in plan.prefetches])
        of_loads, found_bad = self._load(plan.loads)
        return bad_blocks | of_loads, new_bad | found_bad

    def _load(self, loads: Iterable[tuple[int, int]]) -> tuple[set[int], set[int]]:
        """The blocks that were not loaded, and the slots found bad."""
        bad_blocks, new_bad = set(), set()
        for slot, block in loads:
            if slot in self._bad or self._random.random() < self.fail_loads:
                self.failed_loads += 1
                new_bad.add(slot)
                bad_blocks.add(block)
                self.device.poison([block])
            else:
                self.device.contents(block)[:] = self.slots[slot]
                self.loaded += 1
        self._bad |= new_bad
        return bad_blocks, new_bad

    def end_step(self, plan: SwapPlan) -> set[int]:
        """The copies ahead of time are made now, or only before the next step overwrites anything.

        What later steps read is there only then, in any case.
        """
        self._prefetching = list(plan.prefetches)
        if self._random.random() < 0.5:
            return self._store(plan.ahead)
        self._ahead = list(plan.ahead)
        return set()

    def _store(self, copies: Iterable[tuple[int, int]]) -> set[int]:
        bad = set()
        for block, slot in copies:
            if self._random.random() < self.fail_stores:
                self.failed_stores += 1
                self.slots[slot] = UNWRITTEN
                bad.add(slot)
            else:
                self.slots[slot] = self.device.contents(block)
                self.stored += 1
                self._bad.discard(slot)
        self._bad |= bad
        return bad
