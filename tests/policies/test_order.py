"""Orders against plain models of them, over arbitrary histories."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.analysis.streams import SLOPE, UNIQUE_BLOCKS, DrivenCache, requests, run, stream_of
from tests.policies.orders import BLOCK, POSITIONS, SERVED, order_of
from vllm_pensieve.policies.order import make_order
from vllm_pensieve.policies.policy import Cache
from vllm_pensieve.policies.registry import served
from vllm_pensieve.retention import AnalyticCostModel

COST = AnalyticCostModel(linear=1.0, attention=0.001)
MODELLED = ("retention", "lru", "lru-head-first", "fifo", "lfu", "gdsf")
HEAD_FIRST = ("retention", "lru-head-first")
IDS = 40


def cost(position):
    return COST.span(position * BLOCK, (position + 1) * BLOCK)


class OrderAgainstModel(RuleBasedStateMachine):
    """Blocks come, go and are evicted; a list that is sorted anew each time says who must leave."""

    @initialize(name=st.sampled_from(MODELLED))
    def make(self, name):
        self.name, self.order, self.now_s = name, order_of(name, IDS, COST), 0.0
        self.here = {}  # id -> (position, last use, sequence number of the insertion, value)
        self.in_use = {}  # id -> position
        self.first_use, self.uses = {}, {}  # of every block with content
        self.age, self.inserted = 0.0, 0

    @property
    def empty(self):
        return [i for i in range(IDS) if i not in self.here and i not in self.in_use]

    @precondition(lambda self: self.empty)
    @rule(data=st.data(), waited_s=st.integers(0, 50))
    def a_request_ends(self, data, waited_s):
        self.now_s += waited_s
        ids = data.draw(st.permutations(self.empty))[: data.draw(st.integers(1, 4))]
        self.insert(ids, list(reversed(range(len(ids)))))

    def insert(self, ids, positions):
        self.order.insert(ids, positions, self.now_s)
        both = list(zip(ids, positions, strict=True))
        for i, position in reversed(both) if self.name in HEAD_FIRST else both:
            self.inserted += 1
            self.first_use.setdefault(i, self.inserted)
            self.uses[i] = self.uses.get(i, 0) + 1
            value = self.age + self.uses[i] * cost(position) / cost(0)
            self.here[i] = (position, self.now_s, self.inserted, value)

    @precondition(lambda self: self.here)
    @rule(data=st.data())
    def blocks_are_used_again(self, data):
        ids = data.draw(st.lists(st.sampled_from(sorted(self.here)), min_size=1, unique=True))
        self.order.remove(ids)
        self.in_use |= {i: self.here.pop(i)[0] for i in ids}

    @precondition(lambda self: self.in_use)
    @rule(data=st.data(), waited_s=st.integers(0, 50))
    def one_falls_out_of_use(self, data, waited_s):
        self.now_s += waited_s
        i = data.draw(st.sampled_from(sorted(self.in_use)))
        self.insert([i], [self.in_use.pop(i)])

    @rule(ids=st.sets(st.integers(0, IDS - 1)))
    def content_is_lost(self, ids):
        self.order.forget(sorted(ids))
        for i in ids:
            self.no_content(i)

    def no_content(self, i):
        for table in (self.here, self.in_use, self.first_use, self.uses):
            table.pop(i, None)

    @rule(data=st.data(), waited_s=st.integers(0, 50), stays=st.booleans())
    def the_first_leave(self, data, waited_s, stays):
        self.now_s += waited_s
        count = data.draw(st.integers(0, len(self.here)))
        expected = sorted(self.here, key=self.rank)[:count]
        assert self.order.peek(count, self.now_s) == expected
        if expected:
            self.age = self.here[expected[-1]][3]
        if stays:
            assert self.order.take(count, self.now_s) == expected
            self.in_use |= {i: self.here.pop(i)[0] for i in expected}
            return
        assert self.order.evict(count, self.now_s) == expected
        for i in expected:
            self.no_content(i)

    def rank(self, i):
        position, last_use_s, inserted, value = self.here[i]
        if self.name == "retention":
            # Equal values: the bucket of the smaller position first, then the one that came first.
            return cost(position) / max(self.now_s - last_use_s, 1e-6), position, inserted
        if self.name == "fifo":
            return self.first_use[i]
        if self.name == "lfu":
            return self.uses[i], inserted
        return (value, inserted) if self.name == "gdsf" else inserted

    @invariant()
    def nothing_is_lost(self):
        if hasattr(self, "order"):
            assert len(self.order) == len(self.here)
            assert [i for i in range(IDS) if i in self.order] == sorted(self.here)
            for i, (position, last_use_s, *_) in self.here.items():
                assert (self.order.position[i], self.order.last_use_s[i]) == (position, last_use_s)
            self.order.check_integrity()


TestOrderAgainstModel = OrderAgainstModel.TestCase
TestOrderAgainstModel.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("name", SERVED)
@settings(max_examples=60, deadline=None)
@given(some=requests, capacity=st.integers(1, 40), ratio=st.sampled_from([1.0, 1.05, 1.5]))
def test_a_server_evicts_what_the_simulation_of_it_evicts(name, some, capacity, ratio):
    costs = 1 + SLOPE * np.arange(10)
    order = make_order(name, Cache(UNIQUE_BLOCKS, capacity, costs, ratio))
    evicted, now_s = [], 0.0
    position_of = {block: i for blocks, _ in some for i, block in enumerate(blocks)}

    def evict(count, now_s):
        evicted.extend(order.evict(count, now_s))
        return evicted[-count:]

    def release(used, now_s):
        order.insert(used[::-1], [position_of[block] for block in reversed(used)], now_s)

    cache = DrivenCache(capacity, evict, lambda block: order.remove([block]), release)
    for blocks, wait_s in some:
        now_s += wait_s
        cache.serve(blocks, now_s)
    order.check_integrity()
    tally, simulated = run(served()[name], stream_of(some), capacity, ratio=ratio)
    assert simulated == evicted
    assert tally == cache.tally


@pytest.mark.parametrize("name", SERVED)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_block_with_new_content_is_as_one_that_never_was(name, data):
    """The same history twice: with contents that replace each other in a block, and with a block for each content."""
    reused, fresh = order_of(name, 8), order_of(name, 600)
    content = dict.fromkeys(range(8))  # of each block of the first
    in_use, contents, now_s = set(range(8)), 0, 0.0
    for _ in range(data.draw(st.integers(1, 60))):
        now_s += data.draw(st.sampled_from([0.0, 1.0, 30.0]))
        action = data.draw(st.sampled_from(["end", "use", "lose", "evict"]))
        if action == "end" and in_use:
            block = data.draw(st.sampled_from(sorted(in_use)))
            if content[block] is None:
                content[block], contents = contents, contents + 1
            reused.insert([block], [block], now_s)
            fresh.insert([content[block]], [block], now_s)
            in_use.remove(block)
        elif action == "use" and len(in_use) < 8:
            block = data.draw(st.sampled_from(sorted(set(content) - in_use)))
            reused.remove([block])
            fresh.remove([content[block]])
            in_use.add(block)
        elif action == "lose":
            block = data.draw(st.sampled_from(sorted(content)))
            reused.forget([block])
            if content[block] is not None:
                fresh.forget([content[block]])
            content[block] = None
            in_use.add(block)
        elif action == "evict" and len(reused):
            (block,) = reused.evict(1, now_s)
            assert fresh.evict(1, now_s) == [content[block]]
            content[block] = None
            in_use.add(block)


@pytest.mark.parametrize("name", SERVED)
def test_what_cannot_be_is_refused(name):
    order = order_of(name)
    order.insert([1, 0], [1, 0], 0.0)
    with pytest.raises(ValueError, match="3 blocks to evict, but only 2"):
        order.evict(3, 1.0)
    assert len(order) == 2
    with pytest.raises(KeyError, match="is here already"):
        order.insert([1], [0], 1.0)
    with pytest.raises(KeyError, match="is not here"):
        order.remove([5])
    with pytest.raises(IndexError, match="beyond those that have a cost"):
        order.insert([5], [POSITIONS], 1.0)


def test_lru_evicts_the_deepest_of_a_sequence_first_and_retention_the_leading_one():
    deepest_first = [2, 1, 0]
    for name, expected in (("lru", [2, 1, 0]), ("retention", [0, 1, 2])):
        order = order_of(name)
        order.insert(deepest_first, [2, 1, 0], 0.0)
        assert order.evict(3, 10.0) == expected, name


def test_a_block_twice_as_expensive_outlives_one_idle_less_than_twice_as_long():
    cheap, expensive = 0, 1
    position = next(p for p in range(POSITIONS) if cost(p) >= 2 * cost(0))
    for idle_s, first in ((19.0, cheap), (21.0, expensive)):
        order = order_of("retention", costs=COST)
        order.insert([expensive], [position], 100.0 - idle_s)
        order.insert([cheap], [0], 90.0)
        assert order.evict(1, 100.0) == [first]


def test_a_block_with_an_older_use_than_its_bucket_counts_as_used_when_the_newest_was():
    order = order_of("retention")
    order.insert([0, 1, 2], [5, 5, 4], [50.0, 10.0, 20.0])
    assert order.evict(3, 100.0) == [1, 2, 0]
    order.insert([0], [5], 50.0)
    order.insert([1], [5], 10.0)
    order.insert([2], [4], 20.0)
    assert order.evict(3, 100.0) == [2, 0, 1], "block 1 came after block 0, so it stays longer"


@given(
    st.lists(st.integers(0, POSITIONS - 1), min_size=1, max_size=60, unique=True),
    st.floats(1.01, 1.5),
)
def test_a_bucket_misjudges_a_value_by_less_than_its_ratio(positions, ratio):
    order = order_of("retention", costs=COST, ratio=ratio)
    for i, position in enumerate(positions):
        order.insert([i], [position], float(i))
    now_s = len(positions) + 1.0
    values = [cost(position) / (now_s - i) for i, position in enumerate(positions)]
    left = set(range(len(positions)))
    for i in order.evict(len(positions), now_s):
        assert values[i] <= min(values[other] for other in left) * ratio * (1 + 1e-9)
        left.remove(i)


def test_many_buckets_leave_in_order_at_one_point_in_time_and_at_the_next():
    """More than one group of buckets, some filled again while the point in time lasts."""
    order = order_of("retention", ids=POSITIONS, costs=COST)
    order.insert(list(reversed(range(POSITIONS))), list(reversed(range(POSITIONS))), 0.0)
    assert order.evict(1000, 10.0) == list(range(1000))
    order.insert([7], [7], 1.0)
    assert order.evict(2, 10.0) == [7, 1000]
    assert order.evict(2, 20.0) == [1001, 1002]
    assert order.evict(len(order), math.inf) == list(range(1003, POSITIONS))
