"""Figures of a comparison: what their axes and captions say, and that nothing is drawn that was not measured."""

from typing import Any

import pytest

from vllm_pensieve.bench import figures
from vllm_pensieve.bench.exchanges import Exchange
from vllm_pensieve.bench.statistics import mode_statistics

CLASSES = {"a": "HOT", "b": "COLD"}
SOURCES = {"total": 80, "resident": 60, "swapped": 0, "recovered": 0, "new": 20}


def served(ttft_s: float, turns: int) -> list[Exchange]:
    return [
        Exchange(session, turn, 10.0 * turn, ttft_s=ttft_s * turn, e2e_s=9.0)
        for session in CLASSES
        for turn in range(1, turns + 1)
    ]


def summary(classes: dict[str, str] | None = None, fast_s: float = 0.01) -> dict[str, Any]:
    return {
        "modes": {
            "vllm": mode_statistics(served(1.0, 3), {"total": 80}, classes),
            "pensieve": mode_statistics(served(fast_s, 2), SOURCES, classes),
        },
        "repeats": {},
        "interrupted": False,
        "machine": {"gpus": [], "processor": "a processor", "cores": 2},
        "workload": {
            "name": "users",
            "model": "demo",
            "sessions": 2,
            "requests": 6,
            "kv_cache_gib": 0.146484375,
            "host_cache_gib": 1.0,
        },
    }


def names(paths: list[Any]) -> list[str]:
    assert all(path.stat().st_size > 5000 for path in paths)
    return [path.name for path in paths]


def test_users_with_classes_have_a_figure_of_their_own(tmp_path):
    plain = ["ttft_by_turn.png", "throughput.png", "prompt_tokens_by_source.png"]
    assert names(figures.draw_figures(summary(), tmp_path)) == plain
    assert names(figures.draw_figures(summary(CLASSES), tmp_path)) == [
        "ttft_by_turn.png",
        "ttft_by_class.png",
        "throughput.png",
        "prompt_tokens_by_source.png",
    ]
    assert figures.draw_figures(summary() | {"modes": {}}, tmp_path) == []


def test_the_caption_has_both_memories_in_the_terminals_unit():
    assert "0.157 GB of KV memory, 1.07 GB of host memory" in figures._caption(summary())


@pytest.mark.parametrize(("fast_s", "scale"), [(0.01, "log"), (0.9, "linear")])
def test_times_that_differ_much_are_on_a_logarithmic_axis_with_labels(fast_s, scale):
    figure, (axes,) = figures._figure(1)
    modes = {n: own["ttft_s"] for n, own in summary(fast_s=fast_s)["modes"].items()}
    figures._ttft_by_turn(axes, modes)
    figures._scale_times([axes])
    figure.canvas.draw()
    assert axes.get_yscale() == scale
    low, high = axes.get_ylim()
    inside = [
        label.get_text()
        for tick, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
        if low <= tick <= high
    ]
    assert len(inside) >= 4 and all(inside)


def test_each_turn_says_how_many_requests_it_is_over():
    _, (axes,) = figures._figure(1)
    figures._ttft_by_turn(axes, {n: own["ttft_s"] for n, own in summary()["modes"].items()})
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["1\nn=2", "2\nn=2", "3\nn=0"]


def test_where_no_source_is_known_none_is_drawn():
    assert figures._sources({"total": 80}) == {"unknown": 80}
    assert figures._sources(SOURCES) == {k: v for k, v in SOURCES.items() if k != "total"}
