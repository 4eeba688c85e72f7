"""The compiled policies evict exactly what the server's eviction orders evict."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.analysis.streams import SLOPE, DrivenCache, requests, run, stream_of
from vllm_pensieve.retention import AnalyticCostModel, make_order

TWINS = {"lru": "lru", "fifo-as-served": "fifo", "retention": "retention"}


def server_evictions(order, some, capacity):
    """What the server's order evicts when driven by the simulator's rules, and the counts."""
    evicted, now_s = [], 0.0

    def evict(count, now_s):
        evicted.extend(order.evict(count, now_s))
        return evicted[-count:]

    position_of = {block: i for blocks, _ in some for i, block in enumerate(blocks)}
    cache = DrivenCache(
        capacity,
        evict,
        order.remove,
        lambda used, now_s: order.insert(
            used[::-1], [position_of[block] for block in reversed(used)], now_s
        ),
    )
    for blocks, wait_s in some:
        now_s += wait_s
        cache.serve(blocks, now_s)
    order.check_integrity()
    return evicted, cache.tally


@pytest.mark.parametrize("ratio", [1.0, 1.05, 1.5])
@pytest.mark.parametrize("name", TWINS)
@settings(max_examples=150, deadline=None)
@given(some=requests, capacity=st.integers(1, 40))
def test_a_twin_evicts_what_the_server_evicts(name, ratio, some, capacity):
    order = make_order(TWINS[name], AnalyticCostModel(1.0, SLOPE), 1, ratio)
    evicted, counts = server_evictions(order, some, capacity)
    tally, twin_evicted = run(name, stream_of(some), capacity, ratio=ratio)
    assert twin_evicted == evicted
    assert tally.tolist() == counts


def test_the_comparison_can_fail():
    some = [([0, 1, 2], 1.0), ([30, 31], 1.0), ([60, 61], 1.0)]
    order = make_order("retention", AnalyticCostModel(1.0, SLOPE), 1, 1.0)
    evicted, _ = server_evictions(order, some, 5)
    assert evicted == [0, 1]
    assert run("lru", stream_of(some), 5)[1] == [2, 1]
