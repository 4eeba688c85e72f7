"""Small streams of requests, and a plain model of the rules by which a cache is driven."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

from vllm_pensieve.analysis.kernel import run as simulate
from vllm_pensieve.analysis.replay import Parameters, Replay, positions_in
from vllm_pensieve.policies.policy import Cache
from vllm_pensieve.policies.registry import load_policy
from vllm_pensieve.trace.trace import Stream

SLOPE = 0.3
SESSIONS, FORKS, LONGEST = 4, 2, 9
UNIQUE_BLOCKS = SESSIONS * (FORKS + 1) * LONGEST


def prompt_blocks(session: int, fork: int, fork_at: int, length: int) -> list[int]:
    """A prompt of a session, its own way from position `fork_at` on; a block always has the same position."""
    trunk = session * (FORKS + 1) * LONGEST
    return [
        trunk + position + (fork + 1) * LONGEST * (position >= fork_at)
        for position in range(length)
    ]


requests = st.lists(
    st.tuples(
        st.builds(
            prompt_blocks,
            st.integers(0, SESSIONS - 1),
            st.integers(0, FORKS - 1),
            st.integers(1, LONGEST),
            st.integers(1, LONGEST),
        ),
        st.sampled_from([0.01, 1.0, 7.0, 60.0]),
    ),
    min_size=1,
    max_size=60,
)
"""Each the blocks of a prompt and the seconds since the one before."""
flat_accesses = st.lists(st.integers(0, 15), min_size=1, max_size=200)


def stream_of(some: list[tuple[list[int], float]]) -> Stream:
    lengths = [len(blocks) for blocks, _ in some]
    return Stream(
        np.array([block for blocks, _ in some for block in blocks], np.int32),
        np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
        np.zeros(len(some), np.int32),
        np.cumsum([wait_s for _, wait_s in some]),
        np.zeros(len(some), np.int32),
    )


def flat_stream(blocks: list[int] | np.ndarray) -> Stream:
    count = len(blocks)
    return Stream(
        np.array(blocks, np.int32),
        np.arange(count + 1),
        np.zeros(count, np.int32),
        np.arange(count, dtype=float),
        np.zeros(count, np.int32),
    )


def run(
    name: str, stream: Stream, capacity: int, flat: bool = False, ratio: float = 1.0
) -> tuple[list[int], list[int]]:
    """Counts of the one workload and sums of missed positions under both rules; the blocks evicted in order."""
    evictions = np.full(len(stream.blocks), -1, np.int32)
    costs = Parameters.by_slope(SLOPE).costs(positions_in(stream))
    cache = Cache(int(stream.blocks.max()) + 1, capacity, costs, ratio)
    replay = Replay(stream, cache, np.ones(1, np.bool_), flat)
    counts = simulate(load_policy(name), replay, evictions)
    missed = counts.missed @ np.arange(counts.missed.shape[1])
    return [*counts.tally[0].tolist(), *missed.tolist()], evictions[evictions >= 0].tolist()


@dataclass
class DrivenCache:
    """The rules, step by step: look up all blocks, make room, let them fall out of use.

    evict(count, incoming, now_s) chooses; in_use and released are told what happens.
    """

    capacity: int
    evict: Callable[[int, float], list[int]]
    taken: Callable[[int], None] = lambda block: None
    released: Callable[[list[int], float], None] = lambda blocks, now_s: None
    resident: set[int] = field(default_factory=set)
    tally: list[int] = field(default_factory=lambda: [0] * 6)

    def serve(self, blocks: list[int], now_s: float) -> None:
        found = [block in self.resident for block in blocks]
        prefix = found.index(False) if False in found else len(found)
        missed = [i for i, hit in enumerate(found) if not hit]
        counts = (1, len(blocks), sum(found), prefix, sum(missed), sum(range(prefix, len(blocks))))
        self.tally = [a + b for a, b in zip(self.tally, counts, strict=True)]

        used = list(dict.fromkeys(blocks[: self.capacity]))
        for block in used:
            if block in self.resident:
                self.taken(block)
        missing = [block for block in used if block not in self.resident]
        needed = len(missing) - (self.capacity - len(self.resident))
        if needed > 0:
            victims = self.evict(needed, now_s)
            assert len(victims) == len(set(victims)) == needed
            assert set(victims) <= self.resident, "a victim was not there"
            self.resident -= set(victims)
        self.resident |= set(missing)
        assert len(self.resident) <= self.capacity
        self.released(used, now_s)
