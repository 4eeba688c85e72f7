"""Eviction orders against plain models of them, over arbitrary histories."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vllm_pensieve.retention import AnalyticCostModel, make_order
from vllm_pensieve.retention.value import RetentionOrder

BLOCK = 32
COST = AnalyticCostModel(linear=1.0, attention=0.001)
POLICIES = ("retention", "lru", "fifo")


def order_of(name):
    return make_order(name, COST, BLOCK, cost_bucket_ratio=1.0)


class OrderAgainstModel(RuleBasedStateMachine):
    """Blocks come, go and are evicted; a list that is sorted anew each time says who must leave."""

    @initialize(name=st.sampled_from(POLICIES))
    def make(self, name):
        self.name, self.order, self.now_s = name, order_of(name), 0.0
        self.here = {}  # key -> (position, last use, sequence number of the insertion)
        self.first_use = {}
        self.in_use = {}
        self.next_key = self.inserted = 0

    @rule(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3), waited_s=st.integers(0, 50))
    def requests_end(self, sizes, waited_s):
        self.now_s += waited_s
        for size in sizes:
            keys = list(range(self.next_key, self.next_key + size))
            self.next_key += size
            self.insert(keys[::-1], [BLOCK * i for i in reversed(range(size))])

    def insert(self, keys, positions):
        self.order.insert(keys, positions, self.now_s)
        for key, position in zip(keys, positions, strict=True):
            self.inserted += 1
            self.here[key] = (position, self.now_s, self.inserted)
            self.first_use.setdefault(key, self.inserted)

    @precondition(lambda self: self.here)
    @rule(data=st.data())
    def a_block_is_used_again(self, data):
        key = data.draw(st.sampled_from(sorted(self.here)))
        self.order.remove(key)
        self.in_use[key] = self.here.pop(key)[0]

    @precondition(lambda self: self.in_use)
    @rule(data=st.data(), waited_s=st.integers(0, 50))
    def it_falls_out_of_use(self, data, waited_s):
        self.now_s += waited_s
        key = data.draw(st.sampled_from(sorted(self.in_use)))
        self.insert([key], [self.in_use.pop(key)])

    @precondition(lambda self: self.in_use)
    @rule(data=st.data())
    def its_content_is_lost_while_in_use(self, data):
        key = data.draw(st.sampled_from(sorted(self.in_use)))
        self.order.forget(key)
        self.first_use.pop(key, None)

    @rule(data=st.data(), waited_s=st.integers(0, 50))
    def blocks_are_evicted(self, data, waited_s):
        self.now_s += waited_s
        count = data.draw(st.integers(0, len(self.here)))
        expected = sorted(self.here, key=self.rank)[:count]
        assert self.order.peek(count, self.now_s) == expected
        assert self.order.evict(count, self.now_s) == expected
        for key in expected:
            del self.here[key]
            self.first_use.pop(key, None)

    def rank(self, key):
        position, last_use_s, inserted = self.here[key]
        if self.name == "lru":
            return inserted
        if self.name == "fifo":
            return self.first_use[key]
        idle_s = max(self.now_s - last_use_s, 1e-6)
        # Equal values: the bucket of the smaller position first, then the one that came first.
        return COST.span(position, position + BLOCK) / idle_s, position, inserted

    @invariant()
    def nothing_is_lost(self):
        if hasattr(self, "order"):
            assert len(self.order) == len(self.here)
            assert all(key in self.order for key in self.here)
            self.order.check_integrity()


TestOrderAgainstModel = OrderAgainstModel.TestCase
TestOrderAgainstModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("name", POLICIES)
def test_evicting_more_than_there_is_changes_nothing(name):
    order = order_of(name)
    order.insert([1, 0], [BLOCK, 0], 0.0)
    with pytest.raises(ValueError, match="3 blocks to evict, but only 2"):
        order.evict(3, 1.0)
    assert len(order) == 2


def test_lru_evicts_the_deepest_of_a_sequence_first_and_retention_the_leading_one():
    deepest_first = [2, 1, 0]
    for name, expected in (("lru", [2, 1, 0]), ("retention", [0, 1, 2])):
        order = order_of(name)
        order.insert(deepest_first, [2 * BLOCK, BLOCK, 0], 0.0)
        assert order.evict(3, 10.0) == expected, name


def test_a_block_twice_as_dear_outlives_one_idle_less_than_twice_as_long():
    cheap, dear = 0, 1
    position = next(
        p for p in range(0, 10**6, BLOCK) if COST.span(p, p + BLOCK) >= 2 * COST.span(0, BLOCK)
    )
    for dear_idle_s, first in ((19.0, cheap), (21.0, dear)):
        order = order_of("retention")
        order.insert([dear], [position], 100.0 - dear_idle_s)
        order.insert([cheap], [0], 90.0)
        assert order.evict(1, 100.0) == [first]


@given(st.lists(st.integers(0, 4000), min_size=1, max_size=60, unique=True), st.floats(1.01, 1.5))
def test_a_bucket_misjudges_a_value_by_less_than_its_ratio(positions, ratio):
    order = RetentionOrder(COST, BLOCK, ratio)
    for key, position in enumerate(positions):
        order.insert([key], [position * BLOCK], float(key))
    now_s = len(positions) + 1.0
    values = [
        COST.span(p * BLOCK, (p + 1) * BLOCK) / (now_s - key) for key, p in enumerate(positions)
    ]
    left = set(range(len(positions)))
    for key in order.evict(len(positions), now_s):
        assert values[key] <= min(values[other] for other in left) * ratio * (1 + 1e-9)
        left.remove(key)


def test_an_unknown_policy_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match=r"'mru'.*retention, lru, fifo"):
        make_order("mru", COST, BLOCK, 1.0)
