"""What to do with each run of a request's prefix: use it where it is, load it, or compute it again."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import groupby, pairwise

from vllm_pensieve.retention.cost_model import CostModel


class Source(Enum):
    """Where the KV of a run comes from."""

    RESIDENT = "resident"
    SWAPPED = "swapped"
    RECOMPUTED = "recovered"


@dataclass(frozen=True)
class Run:
    """A maximal stretch of blocks [start, end) of one prefix that come from one source."""

    source: Source
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class RestorePlan:
    """The kept prefix of one request as runs that follow one another; the last run is not recomputed."""

    runs: tuple[Run, ...] = ()

    @property
    def end(self) -> int:
        """Blocks of the kept prefix."""
        return self.runs[-1].end if self.runs else 0

    @property
    def holes(self) -> tuple[Run, ...]:
        """The runs that must be computed again."""
        return self.of(Source.RECOMPUTED)

    @property
    def loads(self) -> tuple[Run, ...]:
        """The runs that are copied from host memory."""
        return self.of(Source.SWAPPED)

    def of(self, source: Source) -> tuple[Run, ...]:
        """The runs from this source."""
        return tuple(run for run in self.runs if run.source is source)

    def check_integrity(self) -> None:
        """AssertionError unless the runs tile [0, end), alternate, and do not end in a recomputed one."""
        assert not self.runs or (
            self.runs[0].start == 0 and self.runs[-1].source is not Source.RECOMPUTED
        )
        assert all(run.start < run.end for run in self.runs)
        assert all(a.end == b.start and a.source is not b.source for a, b in pairwise(self.runs))


@dataclass(frozen=True)
class RestoreCosts:
    """What the ways to restore a block cost, in FLOPs of the cost model.

    step_cost_tokens: one more engine step, in tokens of the linear part of the cost model.
    load: copying one block from host memory.
    recovery: whether blocks behind a dropped one may be used at all.
    """

    cost_model: CostModel
    block_size: int
    step_cost_tokens: int
    load: float = 0.0
    recovery: bool = True

    def recompute(self, start: int, end: int) -> float:
        """FLOPs to compute the blocks [start, end) when everything before them is there."""
        return self.cost_model.span(start * self.block_size, end * self.block_size)

    @property
    def step(self) -> float:
        """FLOPs that an engine step more is worth."""
        return self.cost_model.tokens_at_start(self.step_cost_tokens)

    def first_worth_loading(self, blocks: int) -> int:
        """The first of that many blocks that takes longer to compute than to copy; so do all behind it."""
        return bisect_left(range(blocks), True, key=lambda i: self.recompute(i, i + 1) > self.load)


def plan_restore(found: Sequence[Source | None], costs: RestoreCosts) -> RestorePlan:
    """Plan the cheapest way to have the prefix whose blocks are resident, swapped or dropped (None).

    A swapped block is copied where that is cheaper than computing it, else it counts as dropped. Whatever stands
    before the last block that is worth using is used, copied or computed. Using a kept stretch behind a dropped one
    saves its computation, less the copies, and costs one engine step, since the position jumps over it; each stretch
    stands alone in that trade, so each is decided alone. One not worth its step is computed with its neighbours, and
    at the end of the prefix it is left to the request's own prefill.
    """
    sources = list(found)
    for index in range(min(costs.first_worth_loading(len(sources)), len(sources))):
        if sources[index] is Source.SWAPPED:
            sources[index] = None
    start = kept = 0
    for is_dropped, group in groupby(sources, key=lambda source: source is None):
        stretch = list(group)
        end = start + len(stretch)
        if not is_dropped:
            saved = costs.recompute(start, end) - costs.load * stretch.count(Source.SWAPPED)
            if start == 0 or (costs.recovery and saved > costs.step):
                kept = end
            else:
                sources[start:end] = [None] * len(stretch)
        start = end
    return RestorePlan(_runs(sources[:kept]))


def _runs(sources: Sequence[Source | None]) -> tuple[Run, ...]:
    runs: list[Run] = []
    for source, blocks in groupby(sources):
        start = runs[-1].end if runs else 0
        runs.append(Run(source or Source.RECOMPUTED, start, start + sum(1 for _ in blocks)))
    return tuple(runs)
