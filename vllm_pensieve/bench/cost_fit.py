"""Separates what a timed step consists of: the cost of its tokens by their depth, and its overhead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vllm_pensieve.retention import MeasuredCostModel, PiecewiseLinear

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class TimedStep:
    """A step that computed `chunk_tokens` after `context_tokens` that were there."""

    context_tokens: int
    chunk_tokens: int
    seconds: float

    @property
    def end(self) -> int:
        return self.context_tokens + self.chunk_tokens


class TokensCostNothing(Exception):
    """The times do not grow with the number of tokens, so the cost of a token cannot be determined."""


def fit_costs(steps: Sequence[TimedStep]) -> tuple[MeasuredCostModel, float]:
    """The costs that explain the times best, and the largest relative difference that is left.

    A step takes what its tokens cost, each at its own depth, and an overhead that is linear in the depth of its end.
    The cost of a token is given by straight lines between the contexts measured and nowhere falls. Least squares of
    relative differences; steps of at least two chunk sizes after at least two contexts, one of them empty.

    Raises:
        TokensCostNothing: as far as the times show.
    """
    contexts = sorted({step.context_tokens for step in steps})
    # The curve is a sum of ramps that begin at one context each, so that none of them may have a negative share.
    ramps = [
        PiecewiseLinear(contexts, [float(node >= first) for node in range(len(contexts))])
        for first in range(len(contexts))
    ]
    explained = np.array(
        [
            [
                *(r.sum_before(step.end) - r.sum_before(step.context_tokens) for r in ramps),
                1.0,
                step.end,
            ]
            for step in steps
        ]
    )
    seconds = np.array([step.seconds for step in steps])
    shares = _least_squares_without_negatives(explained / seconds[:, None], np.ones(len(steps)))
    if shares[0] <= 0:
        raise TokensCostNothing
    error = float(np.abs(explained @ shares / seconds - 1).max())
    token_s = np.cumsum(shares[: len(contexts)])
    return (
        MeasuredCostModel(
            PiecewiseLinear(contexts, token_s.tolist()), float(shares[-2]), float(shares[-1])
        ),
        error,
    )


def _least_squares_without_negatives(matrix: Floats, target: Floats) -> Floats:
    """x >= 0 that makes matrix @ x close to target: what comes out negative is set to 0, the worst one first."""
    scale = np.linalg.norm(matrix, axis=0)
    used = np.ones(matrix.shape[1], dtype=bool)
    while True:
        shares = np.zeros(matrix.shape[1])
        shares[used] = np.linalg.lstsq(matrix[:, used] / scale[used], target, rcond=None)[0]
        if shares.min() >= 0:
            return shares / scale
        used[shares.argmin()] = False
