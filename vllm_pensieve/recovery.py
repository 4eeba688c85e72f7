"""The walk: how a request's position moves over its restore plan. Pure bookkeeping; the scheduler's hooks call it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from vllm_pensieve.space.restore_plan import RestorePlan


@dataclass
class Walk:
    """One request on its way through a prefix with holes. All positions in tokens.

    The position starts at the first hole, moves to its end (in one step or several), jumps to the next hole, and after
    the last one to the end of the kept prefix. A hole needs only what stands before it, which is there by then.

    holes: [start, end) of what is still to be computed, in order.
    end: where the kept prefix ends and the request's own prefill goes on.
    chunk: the part that the step being built computes.
    """

    holes: list[tuple[int, int]]
    end: int
    chunk: tuple[int, int] = (0, 0)

    @classmethod
    def over(cls, plan: RestorePlan, block_size: int) -> Walk:
        """The walk over a plan that has holes."""
        holes = [(run.start * block_size, run.end * block_size) for run in plan.holes]
        return cls(holes, plan.end * block_size)

    @property
    def start(self) -> int:
        """The position to begin or to continue from after a jump."""
        return self.holes[0][0]

    def clip(self, position: int, num_new_tokens: int) -> int:
        """How many tokens the step may compute from `position`: at most to the end of the hole it is in."""
        num_new_tokens = min(num_new_tokens, self.holes[0][1] - position)
        self.chunk = (position, position + num_new_tokens)
        return num_new_tokens

    def jump(self, position: int) -> int | None:
        """Where the position goes after a step that ended at `position`; None if it is still inside its hole."""
        if position < self.holes[0][1]:
            return None
        del self.holes[0]
        return self.holes[0][0] if self.holes else self.end

    @property
    def done(self) -> bool:
        return not self.holes

    def check_integrity(self) -> None:
        """AssertionError unless the holes are in order, apart from each other, and end before the kept prefix does."""
        edges = [edge for hole in self.holes for edge in hole] + [self.end]
        assert all(a < b for a, b in pairwise(edges)), (self.holes, self.end)
