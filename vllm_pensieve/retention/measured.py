"""Costs that were measured: seconds a token at some depths, and straight lines between them."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

from typing_extensions import override

from vllm_pensieve.retention.cost_model import CostModel


class PiecewiseLinear:
    """A function of a position: straight lines between points, the last one continued.

    positions: two or more, ascending, the first 0. values: the function there.
    """

    def __init__(self, positions: Sequence[int], values: Sequence[float]) -> None:
        if len(positions) != len(values) or len(positions) < 2 or positions[0] != 0:
            raise ValueError("a curve needs a value at 0 and at one more position, or more")
        if any(b <= a for a, b in pairwise(positions)):
            raise ValueError("the positions of a curve must ascend")
        self.positions = tuple(positions)
        self.values = tuple(values)
        self._slopes = [
            (v - u) / (b - a)
            for (a, u), (b, v) in pairwise(zip(self.positions, self.values, strict=True))
        ]
        self._sums = [0.0]  # of the values before each position
        for segment, (a, b) in enumerate(pairwise(self.positions)):
            self._sums.append(self._sums[-1] + self._sum_of_segment(segment, b - a))

    def at(self, position: float) -> float:
        """The value there."""
        segment = self._segment(position)
        return self.values[segment] + (position - self.positions[segment]) * self._slopes[segment]

    def sum_before(self, position: int) -> float:
        """Sum of the values at 0, 1, ..., position - 1; exact but for rounding."""
        segment = self._segment(position)
        return self._sums[segment] + self._sum_of_segment(
            segment, position - self.positions[segment]
        )

    def _segment(self, position: float) -> int:
        return min(bisect_right(self.positions, position), len(self._slopes)) - 1

    def _sum_of_segment(self, segment: int, count: int) -> float:
        """Of the first `count` values of a segment."""
        return count * self.values[segment] + self._slopes[segment] * count * (count - 1) / 2


class MeasuredCostModel(CostModel):
    """Costs in seconds.

    token_s: seconds a token, by its depth; positive, and nowhere falling.
    step_s, step_s_per_token: a step's overhead is `step_s + step_s_per_token * depth`: the second part is what a step
        reads of all that stands before its end, however few tokens it computes.
    """

    def __init__(self, token_s: PiecewiseLinear, step_s: float, step_s_per_token: float) -> None:
        if token_s.values[0] <= 0 or any(b < a for a, b in pairwise(token_s.values)):
            raise ValueError(
                "the cost of a token must be positive, and may not fall with its depth"
            )
        if step_s < 0 or step_s_per_token < 0:
            raise ValueError("a step cannot cost less than nothing")
        self.token_s = token_s
        self.step_s = step_s
        self.step_s_per_token = step_s_per_token

    @override
    def span(self, start: int, end: int) -> float:
        return self.token_s.sum_before(end) - self.token_s.sum_before(start)

    @override
    def step(self, depth: int) -> float:
        return self.step_s + self.step_s_per_token * depth

    @override
    def tokens_at_start(self, tokens: int) -> float:
        return self.token_s.values[0] * tokens

    @override
    def depth_of_double_cost(self) -> float:
        wanted = 2 * self.token_s.values[0]
        points = list(zip(self.token_s.positions, self.token_s.values, strict=True))
        lines = list(pairwise(points))
        for (a, u), (b, v) in lines:
            if v >= wanted:
                return a + (wanted - u) / (v - u) * (b - a)
        (a, u), (b, v) = lines[-1]
        return a + (wanted - u) / (v - u) * (b - a) if v > u else math.inf
