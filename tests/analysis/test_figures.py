"""What figures show: colours by workload, dashes by block size, whole axes, legends that hide nothing, empty data."""

import json
from pathlib import Path

import pytest
from matplotlib.colors import to_hex

from tests.trace.recorded import chat, documents, record
from vllm_pensieve.analysis.cache_figures import cache_hits_figure, mixed_figure
from vllm_pensieve.analysis.mixed import simulate_mixed
from vllm_pensieve.analysis.replay import Parameters
from vllm_pensieve.analysis.simulate import Simulation, simulate
from vllm_pensieve.analysis.summaries import PrefixStats, read_prefix_stats
from vllm_pensieve.analysis.summary_figures import CDFS, cdf_figure
from vllm_pensieve.plotting import COLOURS, steps_of_ten
from vllm_pensieve.trace.combine import interleave


@pytest.fixture
def both(tmp_path: Path) -> list[PrefixStats]:
    """Chats and documents, each as recorded with blocks of 32 and of 64 tokens."""
    prefixes = [
        record(tmp_path, "chat_multi", chat(sessions=2, turns=3)),
        record(tmp_path, "summarization", documents(4)),
    ]
    for prefix in list(prefixes):
        prefixes.append(Path(str(prefix).replace("b32", "b64")))
        for kind in ("requests", "blocks"):
            records = map(json.loads, Path(f"{prefix}_{kind}.jsonl").read_text().splitlines())
            lines = [json.dumps(one | {"model": "gpt2"}) for one in records]
            for path in (prefix, prefixes[-1]):
                Path(f"{path}_{kind}.jsonl").write_text("\n".join(lines) + "\n")
    return [read_prefix_stats(prefix) for prefix in sorted(prefixes)]


def caption(figure) -> str:
    return figure._supxlabel.get_text().replace("\n", " ")


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.parametrize("name", CDFS)
def test_a_workload_has_a_colour_and_a_block_size_a_dash(both, name):
    lines = cdf_figure(both, name).axes[0].lines
    kinds = [(stats.workload_label, stats.trace.block_tokens) for stats in both]
    assert kinds == [(name, size) for name in ("chat_multi", "summarization") for size in (32, 64)]
    colours = [to_hex(line.get_color()) for line in lines]
    assert colours == [COLOURS[0], COLOURS[0], COLOURS[3], COLOURS[3]]
    assert [line.get_linestyle() for line in lines] == ["-", "--", "-", "--"]


@pytest.mark.parametrize("name", CDFS)
def test_a_legend_stands_outside_the_axes(both, name):
    figure = cdf_figure(both, name)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 4
    assert legend.get_window_extent().x0 >= figure.axes[0].get_window_extent().x1
    assert legend.get_window_extent().x1 <= figure.bbox.x1


def test_axes_say_of_what_and_captions_which_trace_model_and_day(both):
    of = [cdf_figure(both, name).axes[0].get_ylabel() for name in CDFS]
    assert of == [f"share of the {what} (%)" for what in ("requests", "blocks", "reuses")]
    (one,) = {caption(cdf_figure(both[:1], name)) for name in CDFS[:1]}
    assert one == (
        "prefix_chat_multi_b32: 6 requests, 30 block lookups; blocks of 32 tokens; gpt2; 2023-11-14; n = 6 requests; "
        "measured"
    )
    assert "traces of chat_multi, summarization: 20 requests" in caption(cdf_figure(both, CDFS[0]))


def test_shares_reach_from_0_to_100_and_end_at_100(both):
    for name in CDFS:
        axes = cdf_figure(both[:2], name).axes[0]
        assert axes.get_ylim() == (0, 100)
        for line in axes.lines:
            assert line.get_ydata()[0] == 0 and line.get_ydata()[-1] == 100
            assert line.get_xdata()[-1] == pytest.approx(axes.get_xlim()[1])


def test_counts_have_whole_ticks(both):
    figure = cdf_figure(both[:1], "block_hits")
    ticks = figure.axes[0].get_xticks()
    assert {tick % 1 for tick in ticks} == {0}
    assert {0, 1, 2} <= set(ticks)


def test_what_is_empty_is_said_to_be(both, tmp_path):
    documents_only = both[2:]
    for name in ("block_hits", "block_reuse_gaps"):
        assert texts(cdf_figure(documents_only, name)) == ["no block was used twice"]
        assert texts(cdf_figure(both, name)) == []
    assert texts(cdf_figure(documents_only, "reuse_fraction")) == []


def test_block_sizes_stand_in_one_figure_with_a_whole_axis(both):
    series = [
        (stats.trace, simulate(stats.trace, Simulation(("lru",), (4, 8, 16)))) for stats in both[:2]
    ]
    figure = cache_hits_figure(series, "chat_multi")
    axes = figure.axes[0]
    assert [line.get_label() for line in axes.lines] == [f"blocks of {n} tokens" for n in (32, 64)]
    assert axes.get_ylim() == (0, 100)
    assert axes.lines[0].get_ydata()[-1] == pytest.approx(100 * 16 / 30)
    assert axes.get_title() == "chat_multi: hits with LRU"


def test_fifo_shows_what_holes_cost(both):
    """A cache of 8 blocks holds one of the two chats; FIFO evicts its first blocks while the later ones stay."""
    trace = both[0].trace
    results = simulate(trace, Simulation(("fifo",), (4, 8, 16)))
    assert any(one.hits_prefix < one.hits_any for one in results)
    figure = cache_hits_figure([(trace, results)], "chat_multi")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["blocks of 32 tokens", "paler: up to the first missing block"]


def mixed(both, capacities):
    trace = interleave([both[0].trace, both[2].trace], in_turns=True)
    parameters = Parameters(cached_workloads=("chat_multi",))
    return mixed_figure(simulate_mixed(trace, Simulation((), capacities, parameters)), trace)


def test_a_mix_at_one_capacity_is_drawn_as_bars(both):
    figure = mixed(both, (20,))
    (axes,) = figure.axes
    assert not axes.lines
    assert axes.get_ylim() == (0, 100)
    labels = [tick.get_text() for tick in axes.get_xticklabels()]
    assert labels == ["overall", "chat_multi", "summarization"]
    assert [text.get_text() for text in figure.legends[0].get_texts()][:3] == ["LRU", "FIFO", "WA-LRU"]  # fmt: skip
    colours = [to_hex(handle.get_facecolor()) for handle in figure.legends[0].legend_handles]
    assert colours[:3] == list(COLOURS[:3])
    assert f"{100 * 16 / 30:.0f}" in texts(figure)  # chats under WA-LRU hit what there is


def test_a_mix_at_several_capacities_has_curves_as_well(both):
    figure = mixed(both, (10, 20, 40))
    assert [len(axes.lines) for axes in figure.axes] == [3, 0]


def test_steps_of_ten_are_round():
    assert steps_of_ten(3, 120) == [5, 10, 20, 50, 100]
    assert steps_of_ten(1, 10**6) == [10**n for n in range(7)]
