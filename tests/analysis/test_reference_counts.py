"""Counts agree, block for block, with numbers that others computed: a published reference, and libcachesim."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.analysis.streams import flat_stream, run
from vllm_pensieve.analysis.policies import load_policy
from vllm_pensieve.analysis.policies.policy import HITS_ANY, HITS_PREFIX, Parameters, Replay
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
    if not REFERENCE.exists() or not TRACES[name].exists():
        pytest.skip(f"no {REFERENCE} or {TRACES[name]}")
    trace = read_trace(TRACES[name])
    return trace, trace.stream(), json.loads(REFERENCE.read_text())[name]


def counts(name, policy, slope=0.0):
    """(hits with holes, hits under prefix rules) by capacity, ours and the reference's."""
    trace, stream, reference = loaded(name)
    ours, theirs = {}, {}
    for capacity, by_policy in reference["capacities"].items():
        # Ratio 1: the reference compares exact values.
        replay = Replay(
            stream, trace.unique_blocks, trace.workloads, int(capacity), Parameters(slope, 1.0)
        )
        own = NAMES.get(policy, "retention")
        tally = load_policy(own).run(replay, np.zeros(0, np.int32))[0]
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


@cache
def some_accesses(kind):
    """20,000 accesses to about 2,000 blocks: skewed; skewed with scans; uniform."""
    random = np.random.default_rng(1)
    count, blocks = 20_000, 2_000
    skewed = random.zipf(1.2, count) % blocks
    scanned = np.where(random.random(count) < 0.3, np.arange(count) % 700, skewed)
    uniform = random.integers(0, blocks, count)
    chosen = {"skewed": skewed, "scanned": scanned, "uniform": uniform}[kind]
    return np.unique(chosen, return_inverse=True)[1]


@pytest.mark.parametrize("capacity", [20, 137, 500])
@pytest.mark.parametrize("kind", ["skewed", "scanned", "uniform"])
def test_flat_streams_agree_with_libcachesim(kind, capacity):
    libcachesim = pytest.importorskip("libcachesim", reason="libcachesim is not installed")
    blocks = some_accesses(kind)
    never = 2**62
    next_use, seen = [never] * len(blocks), {}
    for at in range(len(blocks) - 1, -1, -1):
        next_use[at] = seen.get(blocks[at], never)
        seen[blocks[at]] = at
    for name, class_name in FLAT.items():
        theirs = getattr(libcachesim, class_name)(capacity)
        hits = 0
        for at, block in enumerate(blocks):
            request = libcachesim.Request()
            request.obj_id, request.obj_size = int(block) + 1, 1
            request.clock_time, request.next_access_vtime = at, next_use[at]
            hits += theirs.get(request)
        tally, _ = run(name, flat_stream(blocks), capacity, flat=True)
        assert tally[HITS_ANY] == hits, name
