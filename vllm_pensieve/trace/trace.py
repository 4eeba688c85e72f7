"""A trace in memory: flat arrays, one entry a request or one entry a block access."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vllm_pensieve.trace.served import Served

TICK_S = 1e-4
"""Added to the clock with every request, so that requests of one timestamp have an order."""


class Stream(NamedTuple):
    """What a simulation reads: requests, each a stretch of `blocks`.

    offsets: [requests + 1]; request r looks up blocks[offsets[r]:offsets[r + 1]], from the front of its prompt.
    first_positions: [requests], position in the prompt of a request's first block.
    clock_s: [requests], never goes back.
    workload_of: [requests], index into the trace's `workloads`.
    """

    blocks: NDArray[np.int32]
    offsets: NDArray[np.int64]
    first_positions: NDArray[np.int32]
    clock_s: NDArray[np.float64]
    workload_of: NDArray[np.int32]


@dataclass(frozen=True)
class Trace:
    """Requests in order of time. A block's number names its content and everything before it.

    blocks: [accesses], numbers from 0 to unique_blocks - 1.
    offsets: [requests + 1], where a request's blocks begin and end.
    times_s, input_tokens, output_tokens, workload_of, session_of: [requests].
    block_tokens: tokens of a block; None if the file does not say.
    model, recorded_on: who was served, and the day of the first request (ISO); None if the file does not say.
    reuse_fraction: [requests], share of a prompt's tokens that was in the cache; served: what else the server measured.
        Both None where it did not.
    skipped: one text for each record that was left out, of the `records` in the file.
    notes: what else is to be known before its numbers are believed.
    """

    name: str
    format: str
    blocks: NDArray[np.int32]
    offsets: NDArray[np.int64]
    times_s: NDArray[np.float64]
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    workload_of: NDArray[np.int32]
    workloads: tuple[str, ...]
    session_of: NDArray[np.int32]
    unique_blocks: int
    block_tokens: int | None
    skipped: tuple[str, ...] = ()
    records: int = 0
    notes: tuple[str, ...] = ()
    model: str | None = None
    recorded_on: str | None = None
    reuse_fraction: NDArray[np.float64] | None = None
    served: Served | None = None

    @property
    def requests(self) -> int:
        return len(self.times_s)

    @property
    def accesses(self) -> int:
        return len(self.blocks)

    @property
    def sessions(self) -> int:
        return len(np.unique(self.session_of))

    @property
    def longest_request_blocks(self) -> int:
        return int(np.diff(self.offsets).max(initial=0))

    @property
    def infinite_hits(self) -> int:
        """Block hits of a cache that never evicts."""
        return self.accesses - self.unique_blocks

    def positions(self) -> NDArray[np.int32]:
        """[accesses], each block's position in its prompt, counted in blocks."""
        starts = np.repeat(self.offsets[:-1], np.diff(self.offsets))
        return (np.arange(self.accesses) - starts).astype(np.int32)

    def stream(self, flat: bool = False) -> Stream:
        """The requests to simulate; flat: each access as a request of its own, at its position."""
        clock_s = self.times_s + TICK_S * np.arange(self.requests)
        if not flat:
            first = np.zeros(self.requests, np.int32)
            return Stream(self.blocks, self.offsets, first, clock_s, self.workload_of)
        lengths = np.diff(self.offsets)
        return Stream(
            self.blocks,
            np.arange(self.accesses + 1, dtype=np.int64),
            self.positions(),
            np.repeat(clock_s, lengths),
            np.repeat(self.workload_of, lengths),
        )
