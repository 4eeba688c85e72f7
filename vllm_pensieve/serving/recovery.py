"""What a session's next turn would have to compute again of what was dropped, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_pensieve.space.restore_plan import RestoreCosts, RestorePlan


@dataclass(frozen=True)
class Recovery:
    """The plan of the next turn for what was computed before, as things stand now.

    runs: [start, end) in tokens of the dropped runs that are computed again because cached blocks worth using
        stand after them; what is dropped after the last cached block is computed with the new input.
    kept_tokens: where the kept prefix ends.
    cost: of computing the runs, with an engine step for each. cost_without: of computing all from the first run to the
        end of the kept prefix, as is done where nothing after a dropped block can be used.
    in_seconds: whether both are seconds of a cost profile; else they are FLOPs.
    """

    runs: tuple[tuple[int, int], ...]
    kept_tokens: int
    cost: float
    cost_without: float
    in_seconds: bool

    @classmethod
    def of(cls, plan: RestorePlan, costs: RestoreCosts, in_seconds: bool) -> Recovery:
        """What a restore plan computes again."""
        size, holes = costs.block_size, plan.holes
        return cls(
            runs=tuple((hole.start * size, hole.end * size) for hole in holes),
            kept_tokens=plan.end * size,
            cost=sum(
                costs.recompute(hole.start, hole.end) + costs.step(hole.end) for hole in holes
            ),
            cost_without=costs.recompute(holes[0].start, plan.end) if holes else 0.0,
            in_seconds=in_seconds,
        )

    @property
    def tokens(self) -> int:
        """Tokens that are computed again."""
        return sum(end - start for start, end in self.runs)

    def __str__(self) -> str:
        if not self.runs:
            return "No recovery needed (no dropped blocks before cached ones)"
        unit, factor = ("s", 1.0) if self.in_seconds else ("GFLOP", 1e-9)
        said = (
            f"Recovery needed: {len(self.runs)} dropped runs, {self.tokens:,} tokens, "
            f"{self.cost * factor:.4f} {unit} instead of {self.cost_without * factor:.4f} {unit} without recovery"
        )
        return said if self.in_seconds else f"{said} (`pensieve profile` measures seconds)"
