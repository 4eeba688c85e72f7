"""The worker's rules about copies that failed are those of the fake on which the scheduler is tested."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_pensieve.space.swap_plan import SwapPlan
from vllm_pensieve.swap.copiers import CopyError
from vllm_pensieve.swap.host_copier import HostMemoryCopier
from vllm_pensieve.swap.worker import SwapWorker
from vllm_pensieve.testing.device import FakeDevice
from vllm_pensieve.testing.host_memory import FakeHostMemory

BLOCKS, SLOTS, TOKENS = 6, 4, 2
ROW_BYTES = 8 * TOKENS


class FailingCopier(HostMemoryCopier):
    """Fails on cue: from the call that asks for the copy."""

    stores_fail = loads_fail = False

    def store(self, pairs):
        self._fail_if(self.stores_fail and pairs)
        super().store(pairs)

    def store_ahead(self, pairs):
        self._fail_if(self.stores_fail and pairs)
        super().store_ahead(pairs)

    def load(self, pairs):
        self._fail_if(self.loads_fail and pairs)
        super().load(pairs)

    def load_ahead(self, pairs):
        self._fail_if(self.loads_fail and pairs)
        super().load_ahead(pairs)

    @staticmethod
    def _fail_if(failing: object) -> None:
        if failing:
            raise CopyError("on cue")


class Both:
    """A worker and the fake, which are given the same plans."""

    def __init__(self) -> None:
        self.device = FakeDevice(None, BLOCKS, TOKENS)  # type: ignore[arg-type] # nothing is computed
        self.fake = FakeHostMemory(self.device, SLOTS)
        self.rows = torch.zeros(BLOCKS, ROW_BYTES, dtype=torch.uint8)
        self.copier = FailingCopier(
            [self.rows], [torch.full((SLOTS, ROW_BYTES), 255, dtype=torch.uint8)]
        )
        self.worker = SwapWorker(self.copier, {"layer": 0}, 0, None)
        for block in range(BLOCKS):
            self.write(block, block + 1)

    def write(self, block: int, value: int) -> None:
        """The model's, between two steps."""
        self.device.contents(block)[:] = value
        self.rows[block] = torch.from_numpy(np.full(TOKENS, value, dtype=np.int64).view(np.uint8))

    def step(self, plan: SwapPlan) -> None:
        """One step; afterwards both have said the same of it, and hold the same."""
        plan.check_integrity()
        said: list[tuple[set[int], set[int]]] = []
        blocks, slots = self.fake.begin_step(plan)
        slots |= self.fake.end_step(plan)
        more_blocks, more_slots = self.fake.begin_step(SwapPlan())  # whatever was still going on
        said.append((blocks | more_blocks, slots | more_slots | self.fake.end_step(SwapPlan())))
        for each in (plan, SwapPlan()):
            self.worker.begin_step(each)
            self.worker.begin_loads(layer_by_layer=True)
            self.worker.wait_for_layer("layer")
            self.worker.end_step()
        said.append((self.worker.take_bad_blocks(), self.worker.take_bad_slots()))
        assert said[0] == said[1], plan
        for block in set(range(BLOCKS)) - said[0][0]:
            ours = self.rows[block].numpy().view(np.int64)
            assert (ours == self.device.contents(block)).all(), (block, plan)
        for block in said[0][0]:  # the scheduler drops them
            self.write(block, -block)

    def fail(self, stores: bool, loads: bool) -> None:
        self.copier.stores_fail, self.copier.loads_fail = stores, loads
        self.fake.fail_stores, self.fake.fail_loads = float(stores), float(loads)


@st.composite
def plans(draw: Any) -> SwapPlan:
    """Plans as the scheduler may make them."""
    blocks = draw(st.permutations(range(BLOCKS)))
    slots = draw(st.permutations(range(SLOTS)))
    counts = [draw(st.integers(0, 2)) for _ in range(4)]
    pairs = iter(zip(blocks, slots, strict=False))
    stores, loads, prefetches, ahead = (
        [pair for _, pair in zip(range(count), pairs, strict=False)] for count in counts
    )

    def from_slots(copies: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
        return tuple((slot, block) for block, slot in copies)

    return SwapPlan(tuple(stores), from_slots(loads), from_slots(prefetches), tuple(ahead))


steps = st.lists(
    st.tuples(plans(), st.booleans(), st.booleans(), st.integers(0, BLOCKS - 1)), max_size=12
)


@given(steps)
@settings(max_examples=200, deadline=None)
def test_the_worker_and_the_fake_report_the_same_and_hold_the_same(history):
    both = Both()
    try:
        for number, (plan, stores_fail, loads_fail, written) in enumerate(history):
            both.fail(stores_fail, loads_fail)
            both.step(plan)
            both.write(written, 100 + number)
    finally:
        both.worker.close()


def test_a_slot_is_bad_until_something_is_stored_in_it_again():
    both = Both()
    both.fail(stores=True, loads=False)
    both.step(SwapPlan(stores=((1, 0),)))
    both.fail(stores=False, loads=False)
    both.worker.begin_step(SwapPlan(loads=((0, 2),), prefetches=((0, 3),)))
    both.worker.begin_loads(layer_by_layer=True)
    both.worker.end_step()
    assert both.worker.take_bad_blocks() == {2, 3}
    both.worker.begin_step(SwapPlan(stores=((1, 0),)))
    both.worker.begin_step(SwapPlan(prefetches=((0, 3),)))
    both.worker.begin_step(SwapPlan())
    assert both.worker.take_bad_blocks() == set()
    assert both.rows[3].tolist() == both.rows[1].tolist()
    both.worker.close()


def test_a_prefetch_that_fails_in_the_background_is_reported_by_the_next_step(monkeypatch):
    both = Both()
    both.step(SwapPlan(stores=((1, 0), (2, 1))))

    def fail(*_: Any) -> None:
        raise OSError("no memory")

    monkeypatch.setattr("vllm_pensieve.swap.host_copier._copy", fail)
    both.worker.begin_step(SwapPlan(prefetches=((0, 4), (1, 5))))
    assert both.worker.take_bad_blocks() == set()
    both.worker.begin_step(SwapPlan())
    assert both.worker.take_bad_blocks() == {4, 5}
    assert both.worker.take_bad_slots() == {0, 1}
    both.worker.close()


def test_the_worker_measures_how_fast_it_loads():
    caches = {f"layer.{i}": torch.rand(64, 2, 8, 32, 4) for i in range(3)}
    before = {name: cache.clone() for name, cache in caches.items()}
    worker = SwapWorker.over({}, caches, num_blocks=64, num_slots=40, verify=False)
    assert worker.load_bytes_per_s is not None and 1e6 < worker.load_bytes_per_s < 1e13
    assert all(torch.equal(caches[name], before[name]) for name in caches)
    worker.close()
