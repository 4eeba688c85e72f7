"""Counts agree, block for block, with numbers that others computed: a published reference, and libcachesim."""

import json
import tempfile
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import pytest

from tests.analysis.streams import flat_stream, run
from tests.trace.traces import main_agents
from vllm_pensieve.analysis.kernel import run as simulate
from vllm_pensieve.analysis.replay import HITS_ANY, HITS_PREFIX, Parameters, Replay, positions_in
from vllm_pensieve.policies.policy import Cache
from vllm_pensieve.policies.registry import load_policy
from vllm_pensieve.trace.readers import read_trace

SHARED = Path(__file__).parents[3] / "shared" / "data"
REFERENCE = SHARED / "reference_curves" / "block_cache_reference.json"
TRACES = {
    "mooncake_conv": SHARED / "mooncake" / "conversation_trace.jsonl.gz",
    "kvt_cc": SHARED / "claude_code_kvct" / "sessions_rle.jsonl.gz",
}
NAMES = {"LRU-tail": "lru", "LRU-lead": "lru-head-first", "FIFO": "fifo", "MIN": "min"}


@cache
def loaded(name):
    """The reference has blocks of 512 tokens, and of coding agents' sessions the main agents' requests only."""
    if not REFERENCE.exists() or not TRACES[name].exists():
        pytest.skip(
            f"no {REFERENCE} or {TRACES[name]}: the public data of ../shared is not part of the repository"
        )
    if name == "kvt_cc":
        with tempfile.TemporaryDirectory() as folder:
            trace = read_trace(main_agents(TRACES[name], Path(folder)), block_tokens=512)
    else:
        trace = read_trace(TRACES[name])
    return trace, trace.stream(), json.loads(REFERENCE.read_text())[name]


def counts(name, policy, slope=0.0):
    """(hits with holes, hits under prefix rules) by capacity, ours and the reference's."""
    trace, stream, reference = loaded(name)
    costs = Parameters.by_slope(slope).costs(positions_in(stream))
    ours, theirs = {}, {}
    for capacity, by_policy in reference["capacities"].items():
        # Ratio 1: the reference compares exact values.
        cache_of_ours = Cache(trace.unique_blocks, int(capacity), costs, cost_bucket_ratio=1.0)
        replay = Replay(stream, cache_of_ours, np.ones(len(trace.workloads), np.bool_))
        own = load_policy(NAMES.get(policy, "retention"))
        tally = simulate(own, replay, np.zeros(0, np.int32)).tally[0]
        ours[capacity] = (tally[HITS_ANY], tally[HITS_PREFIX])
        theirs[capacity] = (by_policy[policy]["hits_any"], by_policy[policy]["hits_prefix"])
    return ours, theirs


@pytest.mark.parametrize("name", TRACES)
def test_the_trace_is_the_one_of_the_reference(name):
    trace, _, reference = loaded(name)
    assert trace.requests == reference["requests"]
    assert trace.accesses == reference["block_accesses"]
    assert trace.unique_blocks == reference["unique_blocks"]
    assert trace.longest_request_blocks == reference["longest_request_blocks"]
    assert trace.infinite_hits == reference["infinite_hits_any"]


@pytest.mark.parametrize("name", TRACES)
@pytest.mark.parametrize("policy", NAMES)
def test_lru_fifo_and_min_agree_with_the_reference_at_every_capacity(name, policy):
    ours, theirs = counts(name, policy)
    assert ours == theirs


@pytest.mark.parametrize("slope", [0.001, 0.01, 0.018, 0.1])
def test_retention_value_agrees_with_the_reference_at_every_capacity(slope):
    ours, theirs = counts("mooncake_conv", f"RV{slope}", slope)
    assert ours == theirs


FLAT = {
    "lru": "LRU",
    "fifo": "FIFO",
    "lfu": "LFU",
    "arc": "ARC",
    "s3-fifo": "S3FIFO",
    "sieve": "Sieve",
    "belady": "Belady",
}


HITS = {
    "skewed": {
        "lru": 7475,
        "fifo": 6863,
        "lfu": 9110,
        "arc": 9099,
        "s3-fifo": 9342,
        "sieve": 9156,
        "belady": 11959,
    },
    "scanned": {
        "lru": 5589,
        "fifo": 5169,
        "lfu": 7362,
        "arc": 7219,
        "s3-fifo": 7415,
        "sieve": 7400,
        "belady": 10674,
    },
    "uniform": {
        "lru": 1311,
        "fifo": 1316,
        "lfu": 1332,
        "arc": 1370,
        "s3-fifo": 1365,
        "sieve": 1335,
        "belady": 6494,
    },
}
"""What libcachesim 0.3.5 counts at capacity 137, for when it is not there to count."""
COUNTED_CAPACITY = 137


@cache
def some_accesses(kind):
    """20,000 accesses to 2,000 blocks: skewed; skewed with scans; uniform."""
    random, count, blocks = Random(1), 20_000, 2_000
    power = 1 if kind == "uniform" else 4
    accesses = [int(blocks * random.random() ** power) for _ in range(count)]
    if kind == "scanned":
        accesses = [
            at % 700 if random.random() < 0.3 else block for at, block in enumerate(accesses)
        ]
    return np.unique(accesses, return_inverse=True)[1].tolist()


def libcachesim_hits(libcachesim, class_name, blocks, capacity):
    never = 2**62
    next_use, seen = [never] * len(blocks), {}
    for at in range(len(blocks) - 1, -1, -1):
        next_use[at] = seen.get(blocks[at], never)
        seen[blocks[at]] = at
    cache_of_theirs = getattr(libcachesim, class_name)(capacity)
    hits = 0
    for at, block in enumerate(blocks):
        request = libcachesim.Request()
        request.obj_id, request.obj_size = block + 1, 1
        request.clock_time, request.next_access_vtime = at, next_use[at]
        hits += cache_of_theirs.get(request)
    return hits


@pytest.mark.parametrize("kind", HITS)
def test_flat_streams_hit_as_often_as_libcachesim_did(kind):
    ours = {
        name: run(name, flat_stream(some_accesses(kind)), COUNTED_CAPACITY, flat=True)[0][HITS_ANY]
        for name in FLAT
    }
    assert ours == HITS[kind]


@pytest.mark.parametrize("capacity", [20, COUNTED_CAPACITY, 500])
@pytest.mark.parametrize("kind", HITS)
def test_flat_streams_agree_with_libcachesim(kind, capacity):
    libcachesim = pytest.importorskip("libcachesim", reason="libcachesim is not installed")
    blocks = some_accesses(kind)
    for name, class_name in FLAT.items():
        tally, _ = run(name, flat_stream(blocks), capacity, flat=True)
        assert tally[HITS_ANY] == libcachesim_hits(libcachesim, class_name, blocks, capacity), name
