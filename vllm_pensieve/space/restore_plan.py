"""What to do with each run of a request's prefix: use it where it is, or compute it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import groupby, pairwise

from vllm_pensieve.retention.cost_model import CostModel


class Source(Enum):
    """Where the KV of a run comes from."""

    RESIDENT = "resident"
    RECOMPUTED = "recovered"


@dataclass(frozen=True)
class Run:
    """A maximal stretch of blocks [start, end) of one prefix that come from one source."""

    source: Source
    start: int
    end: int


@dataclass(frozen=True)
class RestorePlan:
    """The kept prefix of one request as runs that follow one another; the last run is resident."""

    runs: tuple[Run, ...] = ()

    @property
    def end(self) -> int:
        """Blocks of the kept prefix."""
        return self.runs[-1].end if self.runs else 0

    @property
    def holes(self) -> tuple[Run, ...]:
        """The runs that must be computed again."""
        return tuple(run for run in self.runs if run.source is Source.RECOMPUTED)

    def check_integrity(self) -> None:
        """AssertionError unless the runs tile [0, end), alternate, and end in a resident one."""
        assert not self.runs or (
            self.runs[0].start == 0 and self.runs[-1].source is Source.RESIDENT
        )
        assert all(run.start < run.end for run in self.runs)
        assert all(a.end == b.start and a.source is not b.source for a, b in pairwise(self.runs))


def plan_restore(
    resident: Sequence[bool], cost_model: CostModel, block_size: int, step_cost_tokens: int
) -> RestorePlan:
    """Plan the cheapest way to have the prefix whose blocks are resident or dropped.

    Whatever stands before the last resident block that is worth using is either used or computed. Using a resident
    run behind a dropped one saves its computation and costs one engine step, since the position jumps over it; each
    such run stands alone in that trade, so each is decided alone. A run not worth its step is computed with its
    neighbours, and at the end of the prefix it is left to the request's own prefill.

    resident: for each block of the prefix, whether it is in memory.
    step_cost_tokens: cost of a step, in tokens of the linear part of the cost model.
    """
    step_cost = cost_model.tokens_at_start(step_cost_tokens)
    used = [False] * len(resident)
    start = 0
    for is_resident, blocks in groupby(resident):
        end = start + sum(1 for _ in blocks)
        saved = cost_model.span(start * block_size, end * block_size)
        if is_resident and (start == 0 or saved > step_cost):
            used[start:end] = [True] * (end - start)
        start = end
    kept = max((index + 1 for index, use in enumerate(used) if use), default=0)
    return RestorePlan(_runs(used[:kept]))


def _runs(used: Sequence[bool]) -> tuple[Run, ...]:
    runs: list[Run] = []
    for use, blocks in groupby(used):
        start = runs[-1].end if runs else 0
        source = Source.RESIDENT if use else Source.RECOMPUTED
        runs.append(Run(source, start, start + sum(1 for _ in blocks)))
    return tuple(runs)
