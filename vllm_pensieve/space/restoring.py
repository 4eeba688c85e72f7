"""One request on its way through a prefix that is not all resident. Pure bookkeeping; the scheduler's hooks call it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from vllm_pensieve.space.restore_plan import RestorePlan


@dataclass
class Restoring:
    """A restore plan being carried out, from the lookup that made it until the request's own prefill goes on.

    The request's position starts at the first hole, moves to its end (in one step or several), jumps to the next hole,
    and after the last one to the end of the kept prefix. A hole needs only what stands before it, which is there by
    then. Positions are in tokens, indexes in blocks.

    plan: what is used, loaded and computed.
    missing: indexes of the blocks that must be allocated, ascending.
    slots: of those that are loaded, in the order of `plan.loads`, the slots of host memory.
    holes: [start, end) of what is still to be computed, in order. end: where the kept prefix ends.
    chunk: the part that the step being built computes.
    must_resend: the position moved in a way that the worker has not heard of (V2 model runner).
    """

    plan: RestorePlan
    missing: Sequence[int]
    slots: Sequence[int]
    block_size: int
    holes: list[tuple[int, int]] = field(init=False)
    end: int = field(init=False)
    chunk: tuple[int, int] = (0, 0)
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
        """How many tokens the step may compute from `position`: at most to the end of the hole it is in."""
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

    @property
    def done(self) -> bool:
        """Whether nothing is left to follow: the request is one like any other."""
        return not self.holes and not self.must_resend

    def check_integrity(self) -> None:
        """AssertionError unless the holes are in order, apart from each other, and end before the kept prefix does."""
        edges = [edge for hole in self.holes for edge in hole] + [self.end]
        assert all(a < b for a, b in pairwise(edges)), (self.holes, self.end)
        assert len(self.slots) == sum(map(len, self.plan.loads)) <= len(self.missing)
