"""What it costs to compute a token again, by its depth in the sequence."""

from __future__ import annotations

from dataclasses import dataclass


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
class CostModel:
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
    def from_shape(cls, shape: ModelShape) -> CostModel:
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

    def span(self, start: int, end: int) -> float:
        """FLOPs to compute the tokens [start, end) when everything before them is there."""
        return (
            self.linear * (end - start)
            + self.attention * (end * (end - 1) - start * (start - 1)) / 2
        )

    def tokens_at_start(self, tokens: int) -> float:
        """FLOPs of the linear part of that many tokens: the unit in which a step's overhead is given."""
        return self.linear * tokens
