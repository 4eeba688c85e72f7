"""Draws a profile beside the analytic model, both relative to a token without attention (Pensieve, figure 4)."""

from __future__ import annotations

from pathlib import Path

from vllm_pensieve.retention import AnalyticCostModel
from vllm_pensieve.retention.profile import Profile

LINE_POINTS = 400


def draw_profile(profile: Profile, path: Path) -> None:
    """Cost of a token by its context length, as a multiple of the first one's."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    analytic = AnalyticCostModel.from_shape(profile.key.shape)
    token_s = profile.cost_model().token_s
    first_s = token_s.values[0]
    contexts = np.linspace(0, token_s.positions[-1] * 1.1, LINE_POINTS)

    figure = Figure(figsize=(7.2, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(
        contexts,
        [token_s.at(float(context)) / first_s for context in contexts],
        color="#0072b2",
        label="straight lines between them",
    )
    axes.plot(
        token_s.positions,
        [value / first_s for value in token_s.values],
        "o",
        color="#0072b2",
        label="measured",
    )
    axes.plot(
        contexts,
        1 + analytic.attention / analytic.linear * contexts,
        "--",
        color="#d55e00",
        label="analytic model (FLOPs)",
    )
    axes.set(
        xlabel="context length (tokens)",
        ylabel="cost of a token / cost without attention",
        title="Cost of computing a token again",
    )
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    model = Path(profile.measured.model).name
    figure.supxlabel(
        f"{model}, {profile.key.dtype}, on {device_text(profile)}", fontsize=8, color="#555555"
    )
    figure.savefig(path)


def device_text(profile: Profile) -> str:
    """The device in words."""
    key = profile.key
    if not key.compute_threads:
        return f"{key.tensor_parallel_size} x {key.device}"
    return f"{key.device}, {key.compute_threads} of {key.logical_cpus} logical CPUs a worker"
