"""One request on its way through a prefix that is not all resident. Pure bookkeeping; the scheduler's hooks call it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from vllm_pensieve.space.restore_plan import RestorePlan, Run


@dataclass
class Restoring:
    """A restore plan being carried out, from the lookup that made it until the request's own prefill goes on.

    The request's position starts at the first hole, moves to its end (in one step or several), jumps to the next hole,
    and after the last one to the end of the kept prefix. A hole needs only what stands before it, which is there by
    then. Positions are in tokens, indexes in blocks.

    Loads that take longer than a step may last because of them are made in stages: step by step copies of some blocks
    are begun, in order, and blocks count as there from the step after on. Meanwhile the request computes its holes as
    far as what stands before them is there, and waits where it is not.

    plan: what is used, loaded and computed.
    missing: indexes of the blocks that must be allocated, ascending.
    slots: of those that are loaded, in the order of `plan.loads`, the slots of host memory.
    holes: [start, end) of what is still to be computed, in order. end: where the kept prefix ends.
    chunk: the part that the step being built computes.
    in_stages: whether loads are begun step by step; else all are part of the step that admits the request.
    begun, arrived: how many of the loads were planned, and how many are there when the step being built begins.
    must_resend: the position moved in a way that the worker has not heard of (V2 model runner).
    """

    plan: RestorePlan
    missing: Sequence[int]
    slots: Sequence[int]
    block_size: int
    in_stages: bool = False
    holes: list[tuple[int, int]] = field(init=False)
    end: int = field(init=False)
    chunk: tuple[int, int] = (0, 0)
    begun: int = 0
    arrived: int = 0
    must_resend: bool = False

    def __post_init__(self) -> None:
        size = self.block_size
        self.holes = [(run.start * size, run.end * size) for run in self.plan.holes]
        self.end = self.plan.end * size

    @property
    def start(self) -> int:
        """The position to begin or to continue from after a jump."""
        return self.holes[0][0] if self.holes else self.end

    def clip(self, position: int, num_new_tokens: int) -> int:
        """How many tokens the step may compute from `position`: at most to the end of the hole it is in.

        0 while something before the position is not there.
        """
        if self.in_stages and self._missing_from < position:
            num_new_tokens = 0
        if self.holes:
            num_new_tokens = min(num_new_tokens, self.holes[0][1] - position)
            self.chunk = (position, position + num_new_tokens)
        return num_new_tokens

    def jump(self, position: int) -> int | None:
        """Where the position goes after a step that ended at `position`; None if it goes nowhere."""
        if not self.holes or position < self.holes[0][1]:
            return None
        del self.holes[0]
        return self.start

    # -- loads

    @property
    def all_arrived(self) -> bool:
        return self.arrived == len(self.slots)

    @property
    def pending(self) -> int:
        """Loads that are not planned yet."""
        return len(self.slots) - self.begun

    def begin(self, count: int) -> Iterator[tuple[int, int]]:
        """(index, slot) of the next loads, which are planned now."""
        first, self.begun = self.begun, self.begun + count
        indexes = (i for run in self.loads(first, self.begun) for i in range(run.start, run.end))
        return zip(indexes, self.slots[first : self.begun], strict=True)

    def arrive(self) -> Iterator[Run]:
        """The runs of blocks that were loaded by steps before, since the last call."""
        first, self.arrived = self.arrived, self.begun
        return self.loads(first, self.arrived)

    def loads(self, first: int, last: int) -> Iterator[Run]:
        """The loads [first, last) as runs of blocks."""
        before = 0
        for run in self.plan.loads:
            start, end = max(first, before), min(last, before + len(run))
            if start < end:
                offset = run.start - before
                yield Run(run.source, start + offset, end + offset)
            before += len(run)

    @property
    def _missing_from(self) -> float:
        """The first token of what has not been loaded yet; infinite if everything has."""
        blocks = next(self.loads(self.arrived, self.arrived + 1), None)
        return blocks.start * self.block_size if blocks else math.inf

    @property
    def done(self) -> bool:
        """Whether nothing is left to follow: the request is one like any other."""
        return not self.holes and not self.must_resend and self.all_arrived

    def check_integrity(self) -> None:
        """AssertionError unless the holes are in order, apart from each other, and end before the kept prefix does."""
        edges = [edge for hole in self.holes for edge in hole] + [self.end]
        assert all(a < b for a, b in pairwise(edges)), (self.holes, self.end)
        assert len(self.slots) == sum(map(len, self.plan.loads)) <= len(self.missing)
        assert 0 <= self.arrived <= self.begun <= len(self.slots)
        assert not self.in_stages or self.plan.holes[0].start < self.plan.loads[0].start
