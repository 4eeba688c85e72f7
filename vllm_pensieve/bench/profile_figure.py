"""Draws a profile and the analytic model, both relative to a token without attention (Pensieve, figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_pensieve.plotting import BLUE, VERMILION, make_figure, save
from vllm_pensieve.retention import AnalyticCostModel
from vllm_pensieve.retention.profile import Profile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE_POINTS = 400


def draw_profile(profile: Profile, path: Path) -> None:
    """Cost of a token by its context length, as a multiple of the first one's."""
    import numpy as np

    analytic = AnalyticCostModel.from_shape(profile.key.shape)
    token_s = profile.cost_model().token_s
    first_s = token_s.values[0]
    contexts = np.linspace(0, token_s.positions[-1] * 1.1, LINE_POINTS)
    between = [token_s.at(float(context)) / first_s for context in contexts]
    measured = [value / first_s for value in token_s.values]
    by_flops = 1 + analytic.attention / analytic.linear * contexts

    def paint(panels: Sequence[Axes]) -> None:
        (axes,) = panels
        axes.plot(token_s.positions, measured, "o", zorder=3, color=BLUE, label="measured")
        axes.plot(contexts, between, color=BLUE, label="straight lines between them")
        axes.plot(contexts, by_flops, "--", color=VERMILION, label="analytic model (FLOPs)")
        axes.set(
            xlabel="context length (tokens)",
            ylabel="cost of a token / cost without attention",
            title="Cost of computing a token again",
        )
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.spines["top"].set_visible(False)

    model = Path(profile.measured.model).name
    about = f"{model}, {profile.key.dtype}, on {device_text(profile)}; {profile.date:%Y-%m-%d}"
    save(make_figure(paint, about), path)


def device_text(profile: Profile) -> str:
    """The device in words."""
    key = profile.key
    if not key.compute_threads:
        return f"{key.tensor_parallel_size} x {key.device}"
    return f"{key.device}, {key.compute_threads} of {key.logical_cpus} logical CPUs a worker"
