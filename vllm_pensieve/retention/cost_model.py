"""What it costs to compute a token again, by its depth in the sequence."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

ANALYTIC_STEP_TOKENS = 128
"""What one more engine step is worth where nothing was measured, in tokens of the linear part."""


class CostModel(ABC):
    """Costs of computing tokens again. All costs of one model have one unit: FLOPs, or seconds where measured.

    A token costs no less than the one before it.
    """

    @abstractmethod
    def span(self, start: int, end: int) -> float:
        """To compute the tokens [start, end) when everything before them is there."""

    @abstractmethod
    def step(self, depth: int) -> float:
        """One engine step more that ends `depth` tokens deep, in addition to what its tokens cost."""

    @abstractmethod
    def tokens_at_start(self, tokens: int) -> float:
        """That many tokens without what attention to earlier ones adds: the unit of `step_cost_tokens`."""

    @abstractmethod
    def depth_of_double_cost(self) -> float:
        """Where a token costs twice as much as the first; infinite if nowhere."""


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a decoder-only transformer that its FLOPs follow from."""

    layers: int
    hidden_size: int
    query_heads: int
    kv_heads: int
    head_dim: int
    feed_forward_size: (
        int  # width of what one token passes through, all its active experts together
    )
    gated_feed_forward: bool


@dataclass(frozen=True)
class AnalyticCostModel(CostModel):
    """Cost of computing one token at depth l: `linear + attention * l`, in FLOPs (Pensieve, section 4.3.1).

    linear: matrix products of all layers for one token.
    attention: scores and weighted sum over one earlier token, all layers.
    """

    linear: float
    attention: float

    def __post_init__(self) -> None:
        if self.linear <= 0 or self.attention < 0:
            raise ValueError(
                f"a cost model needs linear > 0 and attention >= 0, got linear={self.linear}, "
                f"attention={self.attention}"
            )

    @classmethod
    def from_shape(cls, shape: ModelShape) -> AnalyticCostModel:
        """FLOPs of a forward pass; a multiply-add counts as two, the output head is left out (one row a request)."""
        query = shape.query_heads * shape.head_dim
        key_value = 2 * shape.kv_heads * shape.head_dim
        projections = shape.hidden_size * (2 * query + key_value)
        feed_forward = (
            (3 if shape.gated_feed_forward else 2) * shape.hidden_size * shape.feed_forward_size
        )
        return cls(
            linear=2.0 * shape.layers * (projections + feed_forward),
            attention=4.0 * shape.layers * query,
        )

    @override
    def span(self, start: int, end: int) -> float:
        return (
            self.linear * (end - start)
            + self.attention * (end * (end - 1) - start * (start - 1)) / 2
        )

    @override
    def step(self, depth: int) -> float:
        return self.tokens_at_start(ANALYTIC_STEP_TOKENS)

    @override
    def tokens_at_start(self, tokens: int) -> float:
        return self.linear * tokens

    @override
    def depth_of_double_cost(self) -> float:
        return self.linear / self.attention if self.attention else math.inf


def block_costs(costs: CostModel, block_tokens: int, blocks: int) -> NDArray[np.float64]:
    """[blocks], what each block of a sequence costs to compute again when all before it is there."""
    return np.array([costs.span(i * block_tokens, (i + 1) * block_tokens) for i in range(blocks)])
