"""Every policy keeps the rules of the loop; the clairvoyant one is the best there can be."""

from collections import OrderedDict
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.analysis.streams import (
    DrivenCache,
    flat_accesses,
    flat_stream,
    requests,
    run,
    stream_of,
)
from vllm_pensieve.analysis.policies import FILES, load_policy
from vllm_pensieve.analysis.policies.policy import HITS_ANY
from vllm_pensieve.errors import UsageError

CLAIRVOYANT = {"min", "belady"}
ONLINE = [name for name in FILES if name not in CLAIRVOYANT]
EXAMPLES = settings(max_examples=40, deadline=None)


@pytest.mark.parametrize("name", ONLINE)
@EXAMPLES
@given(some=requests, capacity=st.integers(1, 40))
def test_only_what_is_needed_is_evicted_and_the_counts_follow_from_it(name, some, capacity):
    tally, evicted = run(name, stream_of(some), capacity)
    left = iter(evicted)
    cache = DrivenCache(capacity, lambda count, _: [next(left) for _ in range(count)])
    for blocks, _ in some:
        cache.serve(blocks, 0.0)
    assert tally.tolist() == cache.tally
    assert next(left, None) is None


@pytest.mark.parametrize("name", ONLINE)
@EXAMPLES
@given(accesses=flat_accesses, capacity=st.integers(1, 20))
def test_a_flat_stream_is_one_of_requests_with_one_block(name, accesses, capacity):
    stream = flat_stream(accesses)
    tally, evicted = run(name, stream, capacity, flat=True)
    same_tally, same_evicted = run(name, stream, capacity, flat=False)
    assert tally.tolist() == same_tally.tolist()
    assert evicted == same_evicted


@pytest.mark.parametrize("name", FILES)
@given(some=requests)
@EXAMPLES
def test_a_cache_that_holds_everything_misses_each_block_once(name, some):
    stream = stream_of(some)
    unique = len(set(stream.blocks.tolist()))
    tally, evicted = run(name, stream, unique)
    assert tally[HITS_ANY] == len(stream.blocks) - unique
    assert evicted == []


@pytest.mark.parametrize("name", FILES)
@EXAMPLES
@given(accesses=flat_accesses, capacity=st.integers(1, 20))
def test_nothing_hits_more_than_min(name, accesses, capacity):
    stream = flat_stream(accesses)
    best = run("min", stream, capacity, flat=True)[0][HITS_ANY]
    assert run(name, stream, capacity, flat=True)[0][HITS_ANY] <= best


@given(accesses=st.lists(st.integers(0, 4), min_size=1, max_size=12), capacity=st.integers(1, 4))
@EXAMPLES
def test_min_hits_as_often_as_the_best_of_all_choices(accesses, capacity):
    @cache
    def most_hits(at: int, held: frozenset[int]) -> int:
        if at == len(accesses):
            return 0
        block = accesses[at]
        room = held | {block}
        choices = [held] + [room - {other} for other in held]
        if len(room) <= capacity:
            choices.append(room)
        return (block in held) + max(most_hits(at + 1, frozenset(kept)) for kept in choices)

    tally, _ = run("min", flat_stream(accesses), capacity, flat=True)
    assert tally[HITS_ANY] == most_hits(0, frozenset())


@given(accesses=flat_accesses, capacity=st.integers(1, 20))
@EXAMPLES
def test_lru_and_fifo_are_those_of_the_textbook(accesses, capacity):
    for name in ("lru", "fifo"):
        held: OrderedDict[int, None] = OrderedDict()
        hits, evicted = 0, []
        for block in accesses:
            hits += block in held
            if block in held and name == "fifo":
                continue
            if block in held:
                held.move_to_end(block)
                continue
            if len(held) == capacity:
                evicted.append(held.popitem(last=False)[0])
            held[block] = None
        tally, ours = run(name, flat_stream(accesses), capacity, flat=True)
        assert (tally[HITS_ANY], ours) == (hits, evicted), name


def test_a_request_longer_than_the_cache_keeps_its_leading_blocks():
    some = [([0, 1, 2, 3, 4], 1.0), ([0, 1, 2, 3, 4], 1.0)]
    tally, evicted = run("lru", stream_of(some), 3)
    assert tally.tolist() == [2, 10, 3, 3, 10 + 7, 10 + 7]
    assert evicted == []


def test_a_block_that_stands_twice_in_a_request_is_taken_once():
    some = [([0, 1, 0], 1.0), ([2, 2, 3], 1.0), ([0, 1], 1.0)]
    tally, evicted = run("lru", stream_of(some), 3)
    assert tally.tolist() == [3, 8, 1, 0, 3 + 3 + 0, 3 + 3 + 1]
    assert evicted == [0, 3]


def test_policies_are_known_by_name():
    for name in FILES:
        policy = load_policy(name)
        assert policy.name == name
        assert policy.meaning
    with pytest.raises(
        UsageError, match="unknown policy 'mru'; choose one of: lru, lru-head-first"
    ):
        load_policy("mru")
