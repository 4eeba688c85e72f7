"""What to do with each run of a request's prefix: use it where it is, load it, or compute it again."""

from __future__ import annotations

import heapq
import math
import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import pairwise
from typing import TypeAlias

from vllm_pensieve.retention.cost_model import CostModel

MOST_KEPT_STRETCHES = 128
"""Of blocks found, in one plan. More, scattered, would each cost a decision at admission and save little."""
EQUAL_BYTES = re.compile(rb"(.)\1*", re.DOTALL)
KEPT_BYTES = re.compile(rb"[^\0]+")


class Source(IntEnum):
    """Where the KV of a block comes from. In what a lookup found, a byte for each block, 0 stands for a dropped one."""

    RECOMPUTED = 0
    RESIDENT = 1
    SWAPPED = 2


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
    """The kept prefix of one request as runs that follow one another; the last run is not recomputed.

    end: blocks of the kept prefix. holes: the runs that must be computed again. loads: those that are copied from host
    memory.
    """

    runs: tuple[Run, ...] = ()
    end: int = field(init=False)
    holes: tuple[Run, ...] = field(init=False)
    loads: tuple[Run, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "end", self.runs[-1].end if self.runs else 0)
        object.__setattr__(self, "holes", self._of(Source.RECOMPUTED))
        object.__setattr__(self, "loads", self._of(Source.SWAPPED))

    def _of(self, source: Source) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if run.source is source)

    def blocks(self, source: Source) -> int:
        """How many blocks come from this source."""
        return sum(len(run) for run in self.runs if run.source is source)

    def check_integrity(self) -> None:
        """AssertionError unless the runs tile [0, end), alternate, and do not end in a recomputed one."""
        assert not self.runs or (
            self.runs[0].start == 0 and self.runs[-1].source is not Source.RECOMPUTED
        )
        assert all(run.start < run.end for run in self.runs)
        assert all(a.end == b.start and a.source is not b.source for a, b in pairwise(self.runs))


@dataclass(frozen=True)
class RestoreCosts:
    """What the ways to restore a block cost, in the unit of the cost model.

    step_cost_tokens: one more engine step, in tokens without attention; None: what the cost model says.
    load: copying one block from host memory.
    recovery: whether blocks after a dropped one may be used at all.
    """

    cost_model: CostModel
    block_size: int
    step_cost_tokens: int | None
    load: float = 0.0
    recovery: bool = True

    def recompute(self, start: int, end: int) -> float:
        """To compute the blocks [start, end) when everything before them is there."""
        return self.cost_model.span(start * self.block_size, end * self.block_size)

    def step(self, block: int) -> float:
        """One engine step more, ending before this block; infinite where nothing after a dropped one may be used."""
        if not self.recovery:
            return math.inf
        if self.step_cost_tokens is None:
            return self.cost_model.step(block * self.block_size)
        return self.cost_model.tokens_at_start(self.step_cost_tokens)

    def first_worth_loading(self, blocks: int) -> int:
        """The first of that many blocks that takes longer to compute than to copy; so do all after it."""
        return bisect_left(range(blocks), True, key=lambda i: self.recompute(i, i + 1) > self.load)


def plan_restore(found: bytes, costs: RestoreCosts) -> RestorePlan:
    """Plan the cheapest way to have the prefix whose blocks have been found so.

    found: [blocks] the `Source` of each; a dropped one can only be recomputed.

    Each stretch of blocks of one kind is either used, which costs its copies, or computed. Using one after a computed
    one costs an engine step, since the position jumps over it. Whatever is computed at the end of the prefix is left
    to the request's own prefill. Of more than `MOST_KEPT_STRETCHES` that are found, the cheapest to compute are given
    up beforehand, and the others used or computed as wholes.
    """
    stretches = _stretches(found, costs)
    # The cheapest way so far that ends with using, and with computing: cost and the choices made.
    used: _Way = (0.0, None)
    computed: _Way = (math.inf, None)
    for stretch in stretches:
        jump = computed[0] + costs.step(stretch.start)
        use = (min(used[0], jump) + stretch.use_cost, (True, used if used[0] <= jump else computed))
        before = used if used[0] <= computed[0] else computed
        compute = (before[0] + costs.recompute(stretch.start, stretch.end), (False, before))
        used, computed = use, compute
    way = used if used[0] < computed[0] else computed
    is_used: list[bool] = []
    while way[1] is not None:
        choice, way = way[1]
        is_used.append(choice)
    return RestorePlan(_runs(found, zip(stretches, reversed(is_used), strict=True)))


def compute_while_loading(plan: RestorePlan, costs: RestoreCosts) -> RestorePlan:
    """The same prefix where its copies take several steps: from the front, swapped blocks are computed meanwhile.

    Copying and computing go on at the same time, so what counts is the longer of the two: so many swapped blocks are
    computed that both take about as long. At least one is where the plan would load before it computes, since a
    request is admitted with something to compute.
    """
    if not plan.loads:
        return plan
    swapped = plan.blocks(Source.SWAPPED)
    holes = sum(costs.recompute(hole.start, hole.end) for hole in plan.holes)

    def longer(computed: int) -> float:
        return max(holes + _cost_of_first(plan, computed, costs), costs.load * (swapped - computed))

    counts = range(swapped + 1)
    computed = bisect_left(
        counts,
        True,
        key=lambda n: holes + _cost_of_first(plan, n, costs) >= costs.load * (swapped - n),
    )
    computed = min((n for n in (computed - 1, computed) if n in counts), key=longer)
    if not plan.holes or plan.loads[0].start < plan.holes[0].start:
        computed = max(computed, 1)
    sources = bytearray()
    for run in plan.runs:
        sources += bytes([run.source]) * len(run)
    for run in plan.loads:
        count = min(computed, len(run))
        sources[run.start : run.start + count] = bytes(count)
        computed -= count
    runs = _equal_runs(bytes(sources))
    return RestorePlan(runs if runs[-1].source else runs[:-1])


def _cost_of_first(plan: RestorePlan, count: int, costs: RestoreCosts) -> float:
    """To compute the first swapped blocks of a plan."""
    cost = 0.0
    for run in plan.loads:
        end = min(run.start + count, run.end)
        cost += costs.recompute(run.start, end)
        count -= end - run.start
    return cost


_Way: TypeAlias = tuple[float, "tuple[bool, _Way] | None"]


@dataclass(frozen=True)
class _Stretch:
    start: int
    end: int
    use_cost: float


def _stretches(found: bytes, costs: RestoreCosts) -> list[_Stretch]:
    """Maximal stretches of one source; swapped ones are cut where copying begins to be cheaper than computing."""
    spans = [match.span() for match in EQUAL_BYTES.finditer(found)]
    if sum(found[start] != Source.RECOMPUTED for start, _ in spans) > MOST_KEPT_STRETCHES:
        spans = _fewer_spans(found, costs)
    stretches: list[_Stretch] = []
    cut = costs.first_worth_loading(len(found)) if Source.SWAPPED in found else 0
    for start, end in spans:
        if found[start] == Source.RECOMPUTED:
            stretches.append(_Stretch(start, end, math.inf))
            continue
        is_cut = start < cut < end and found.find(Source.SWAPPED, start, end) >= 0
        for a, b in pairwise([start, cut, end] if is_cut else [start, end]):
            stretches.append(_Stretch(a, b, costs.load * found.count(Source.SWAPPED, a, b)))
    return stretches


def _fewer_spans(found: bytes, costs: RestoreCosts) -> list[tuple[int, int]]:
    """[start, end) of what is kept, whatever its source, and of what lies between, which begins with a dropped block.

    Kept are the stretches that are most expensive to compute, by length and depth, and a leading one.
    """
    double = costs.cost_model.depth_of_double_cost() / costs.block_size

    def rank(span: tuple[int, int]) -> float:
        start, end = span
        return math.inf if start == 0 else (end - start) * (1 + start / double)

    spans = [match.span() for match in KEPT_BYTES.finditer(found)]
    kept = sorted(heapq.nlargest(MOST_KEPT_STRETCHES, spans, key=rank))
    edges = sorted({0, len(found), *(edge for span in kept for edge in span)})
    return list(pairwise(edges))


def _runs(found: bytes, choices: Iterator[tuple[_Stretch, bool]]) -> tuple[Run, ...]:
    """The runs of the stretches that are used, and between them what is computed."""
    runs: list[Run] = []

    def extend(source: Source, start: int, end: int) -> None:
        if runs and runs[-1].source is source:
            start = runs.pop().start
        runs.append(Run(source, start, end))

    for stretch, is_used in choices:
        if not is_used:
            extend(Source.RECOMPUTED, stretch.start, stretch.end)
            continue
        for run in _equal_runs(found, stretch.start, stretch.end):
            extend(run.source, run.start, run.end)
    if runs and runs[-1].source is Source.RECOMPUTED:
        runs.pop()
    return tuple(runs)


def _equal_runs(found: bytes, start: int = 0, end: int | None = None) -> tuple[Run, ...]:
    """The runs of blocks [start, end) as they were found."""
    matches = EQUAL_BYTES.finditer(found, start, len(found) if end is None else end)
    return tuple(Run(Source(found[match.start()]), *match.span()) for match in matches)
