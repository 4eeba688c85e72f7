"""The tables of `pensieve profile`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from vllm_pensieve.bench.profile import ACCEPTED_FIT_ERROR
from vllm_pensieve.bench.profile_check import Comparison
from vllm_pensieve.bench.profile_figure import device_text
from vllm_pensieve.retention import AnalyticCostModel, CostModel
from vllm_pensieve.retention.profile import Profile
from vllm_pensieve.tables import Table

BLOCK_TOKENS = 32
"""Of the blocks whose cost is printed, whatever the size of the engine's."""


def curve_title(profile: Profile) -> str:
    """What the table shows."""
    return (
        f"{Path(profile.measured.model).name}, {profile.key.dtype}, on {device_text(profile)}:\n"
        f"ms to compute a block of {BLOCK_TOKENS} tokens (analytic: FLOPs, scaled to the same linear part)"
    )


def curve_table(profile: Profile) -> Table:
    """Measured and analytic cost of a block by context length."""
    measured = profile.cost_model()
    analytic = AnalyticCostModel.from_shape(profile.key.shape)
    scale = measured.tokens_at_start(1) / analytic.linear
    rows = []
    for point in profile.points:
        start = point.context_tokens
        ours = measured.span(start, start + BLOCK_TOKENS)
        theirs = scale * analytic.span(start, start + BLOCK_TOKENS)
        times = [f"{1e3 * ours:.3f}", f"{1e3 * theirs:.3f}"]
        rows.append([f"{start:,}", *times, f"{ours / theirs:.2f}"])
    return Table(("context", "measured", "analytic", "ratio"), rows)


def curve_lines(profile: Profile) -> list[str]:
    """What the table does not say."""
    measured = profile.cost_model()
    analytic = AnalyticCostModel.from_shape(profile.key.shape)
    lines = [
        f"a step's overhead: {1e3 * profile.step_s:.2f} ms and {1e6 * profile.step_s_per_context_token:.3f} us a token "
        f"of context ({measured.step(0) / measured.tokens_at_start(1):.0f} tokens without context)",
        f"a token costs twice as much as the first: {_depth(measured)}; by FLOPs: {_depth(analytic)}",
        f"copies of blocks: store {profile.store_bytes_per_s / 1e9:.2f} GB/s, "
        f"load {profile.load_bytes_per_s / 1e9:.2f} GB/s",
        f"largest difference between a timed step and the profile: {profile.measured.fit_error:.1%}",
    ]
    if profile.measured.fit_error > ACCEPTED_FIT_ERROR:
        lines.append(
            f"WARNING: that is more than {ACCEPTED_FIT_ERROR:.0%}; the times contradict each other. Is something "
            "else running on this machine? Measure again, with more --repeats or other --chunks."
        )
    return lines


def _depth(costs: CostModel) -> str:
    depth = costs.depth_of_double_cost()
    return f"at {depth:,.0f} tokens" if math.isfinite(depth) else "nowhere"


def check_table(comparisons: Sequence[Comparison]) -> Table:
    """Predicted and measured cost of every run that was recovered."""
    rows = []
    for row in comparisons:
        times = (row.with_run_dropped_s, row.all_cached_s, row.measured_s, row.predicted_s)
        milliseconds = [f"{1e3 * seconds:.2f}" for seconds in times]
        context = f"{row.context_tokens:,}"
        rows.append([context, str(row.run_tokens), *milliseconds, f"{row.error:+.1%}"])
    return Table(
        ("context", "run", "run dropped", "all cached", "measured", "predicted", "error"),
        rows,
        "Recomputation in serving, and what the profile says",
        "ms; measured: time to first token with the run dropped, less that with all cached; "
        "predicted: the run's tokens and one step",
    )
