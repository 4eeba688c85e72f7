"""`pensieve profile`: how a step's time is taken apart, what is timed, and what is refused."""

import random
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from tests.retention.profiles import a_profile
from vllm_pensieve.bench.cost_fit import TimedStep, TokensCostNothing, fit_costs
from vllm_pensieve.bench.profile import Plan, contexts_up_to, low_quartile, measure_costs
from vllm_pensieve.bench.profile_check import Comparison, predicted
from vllm_pensieve.bench.profile_figure import draw_profile
from vllm_pensieve.cli import app
from vllm_pensieve.cli.profile_view import check_table, curve_lines, curve_table, curve_title
from vllm_pensieve.errors import UsageError
from vllm_pensieve.retention import MeasuredCostModel, PiecewiseLinear
from vllm_pensieve.tables import show

CONTEXTS = (0, 256, 512, 1024, 2048, 4096)
TRUE = MeasuredCostModel(
    PiecewiseLinear(CONTEXTS, [1e-4, 1.2e-4, 1.25e-4, 2e-4, 2.5e-4, 7e-4]), 5e-3, 2e-6
)


def steps_of(costs: MeasuredCostModel, chunks=(128, 512), noise=lambda: 1.0) -> list[TimedStep]:
    def seconds(context: int, chunk: int) -> float:
        end = context + chunk
        return (costs.span(context, end) + costs.step(end)) * noise()

    return [TimedStep(l, c, seconds(l, c)) for l in CONTEXTS for c in chunks]  # noqa: E741


@pytest.mark.parametrize("chunks", [(128, 512), (32, 128, 512), (64, 65)])
def test_tokens_and_overhead_are_told_apart(chunks):
    costs, error = fit_costs(steps_of(TRUE, chunks))
    assert error < 1e-9
    assert costs.token_s.positions == CONTEXTS
    assert costs.token_s.values == pytest.approx(TRUE.token_s.values, rel=1e-6)
    assert costs.step_s == pytest.approx(TRUE.step_s, rel=1e-6)
    assert costs.step_s_per_token == pytest.approx(TRUE.step_s_per_token, rel=1e-6)


def test_noise_makes_no_cost_that_falls_or_is_negative():
    source = random.Random(0)
    for _ in range(50):
        costs, error = fit_costs(steps_of(TRUE, noise=lambda: source.uniform(0.7, 1.3)))
        assert 0 < error < 1
        assert costs.step_s >= 0 and costs.step_s_per_token >= 0
        assert list(costs.token_s.values) == sorted(costs.token_s.values)
        assert costs.span(0, 4096) == pytest.approx(TRUE.span(0, 4096), rel=0.35)


def test_steps_that_take_the_same_time_tell_nothing_of_a_token():
    source = random.Random(1)
    steps = [
        TimedStep(context, chunk, 5e-3 * source.uniform(0.97, 1.03))
        for context in CONTEXTS
        for chunk in (512, 256, 128)
    ]
    shrinking = [replace(step, seconds=step.seconds - step.chunk_tokens * 1e-6) for step in steps]
    with pytest.raises(TokensCostNothing):
        fit_costs(shrinking)


def test_after_all_rounds_larger_chunks_are_asked_for(monkeypatch):
    class Device:
        """Every step takes as long."""

        context, block_size, step_tokens = 2048, 32, 512

        def new_tokens(self, count):
            return [1] * count

        def prefill(self, prompt):
            prefills.append(len(prompt))

    prefills: list[int] = []
    timed: list[int] = []

    def time_step(engine, context, chunk):
        timed.append(chunk)
        return 5e-3 - chunk * 1e-7

    monkeypatch.setattr("vllm_pensieve.bench.profile._time_step", time_step)
    with pytest.raises(UsageError, match=r"whether it computes 128, 512 tokens.*larger --chunks"):
        measure_costs(Device(), Plan((128, 512), repeats=2))
    contexts = len(contexts_up_to(2048, 512, 32))
    assert len(timed) == (1 + 3 * 2) * contexts * 2  # a warm-up, three rounds


def test_times_that_contradict_each_other_are_told():
    steps = steps_of(TRUE)
    slow = TimedStep(steps[5].context_tokens, steps[5].chunk_tokens, 2 * steps[5].seconds)
    _, error = fit_costs([*steps[:5], slow, *steps[6:]])
    assert error > 0.1


def test_contexts_are_whole_blocks():
    assert contexts_up_to(4096, 512, 512) == [0, 512, 1024, 2048, 3072]
    assert contexts_up_to(2000, 100, 96) == [0, 288, 576, 1152, 1824]


@pytest.mark.parametrize(
    ("context", "chunk", "contexts"),
    [
        (4096, 512, [0, 256, 512, 1024, 2048, 3552]),
        (16384, 512, [0, 256, 512, 1024, 2048, 4096, 8192, 15840]),
        (5000, 512, [0, 256, 512, 1024, 2048, 4480]),
        (512, 128, [0, 256, 352]),
        (200, 128, [0, 64]),
    ],
)
def test_contexts_double_up_to_where_a_chunk_and_a_reply_still_fit(context, chunk, contexts):
    assert contexts_up_to(context, chunk, 32) == contexts


def test_a_context_without_room_is_refused():
    with pytest.raises(UsageError, match="a context of 512 tokens has no room for a step of 512"):
        contexts_up_to(512, 512, 32)


def test_a_time_is_that_which_a_quarter_does_not_exceed():
    assert low_quartile([5.0]) == 5.0
    assert low_quartile([9.0, 1.0, 2.0, 3.0, 8.0]) == 2.0
    assert low_quartile([1.0, 100.0, 100.0, 1.1, 100.0, 1.2, 100.0]) == 1.1


def test_a_run_longer_than_a_step_is_predicted_with_all_its_steps():
    whole = predicted(TRUE, 1000, 1500, 512)
    assert whole == TRUE.span(1000, 1500) + TRUE.step(1500)
    parts = predicted(TRUE, 1000, 1500, 200)
    steps = TRUE.step(1200) + TRUE.step(1400) + TRUE.step(1500)
    assert parts == pytest.approx(TRUE.span(1000, 1500) + steps)
    assert predicted(TRUE, 1000, 1400, 200) == pytest.approx(
        TRUE.span(1000, 1400) + TRUE.step(1200) + TRUE.step(1400)
    )


# -- the command


def profile_command(*arguments: str, **environment: str):
    return CliRunner().invoke(app, ["profile", *arguments], env={"COLUMNS": "200", **environment})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--chunks", "128,x"), "--chunks '128,x': give numbers above 0, separated by commas"),
        (("--chunks", "0,128"), "--chunks '0,128': give numbers above 0"),
        (("--chunks", "128"), "--chunks 128: two sizes or more are needed"),
        (("--chunks", "64,128", "--max-context", "128"), "a context of 128 tokens has no room"),
        (("--out", "/no/such/folder/p.json"), "there is no folder /no/such/folder; make it"),
        (("--", "--dtype", "float16"), "-- --dtype: give it before `--`, as --dtype"),
        (
            ("--", "--max-model-len=512"),
            "-- --max-model-len: give it before `--`, as --max-context",
        ),
        (("--", "--additional-config", "{}"), "the plugin's settings are the command's"),
        (("--figure", "/"), "--figure / is a folder; name a file in it"),
    ],
)
def test_bad_input_is_refused_before_vllm_starts(arguments, message):
    answer = profile_command(*arguments)
    assert isinstance(answer.exception, UsageError)
    assert message in str(answer.exception)


def test_a_plugin_that_is_kept_off_cannot_be_profiled():
    answer = profile_command(VLLM_PENSIEVE="0")
    assert "VLLM_PENSIEVE=0 keeps the plugin off" in str(answer.exception)


def test_the_table_puts_flops_of_the_same_linear_part_beside_what_was_measured(capsys):
    profile = a_profile()
    show(curve_table(profile))
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["0", "3.248", "3.286", "0.99"] in rows
    assert [row[0] for row in rows if row and row[0] in ("0", "1,024")] == ["0", "1,024"]
    lines = "\n".join(curve_lines(profile))
    assert "tiny, bfloat16, on a processor, 7 of 8 logical CPUs a worker" in curve_title(profile)
    assert "a step's overhead: 5.00 ms and 1.000 us a token of context (50 tokens" in lines
    assert "twice as much as the first: at 1,024 tokens; by FLOPs: at 576" in lines
    assert "store 8.00 GB/s, load 10.00 GB/s" in lines
    assert "WARNING" not in lines


def test_a_cost_that_does_not_rise_doubles_nowhere():
    profile = a_profile()
    flat = replace(profile, points=tuple(replace(p, token_s=1e-4) for p in profile.points))
    lines = "\n".join(curve_lines(flat))
    assert "a token costs twice as much as the first: nowhere; by FLOPs: at 576 tokens" in lines
    assert "inf" not in lines


def test_times_that_contradict_each_other_are_warned_of():
    profile = a_profile()
    noisy = replace(profile, measured=replace(profile.measured, fit_error=0.2))
    assert "WARNING: that is more than 10%" in "\n".join(curve_lines(noisy))


def test_predictions_are_shown_with_their_error(capsys):
    row = Comparison(1024, 256, with_run_dropped_s=0.5, all_cached_s=0.3, predicted_s=0.22)
    assert row.error == pytest.approx(0.1)
    show(check_table([row]))
    text = capsys.readouterr().out
    assert ["1,024", "256", "500.00", "300.00", "200.00", "220.00", "+10.0%"] in [
        line.split() for line in text.splitlines()
    ]


def test_the_figure_is_drawn(tmp_path):
    draw_profile(a_profile(), tmp_path / "profile.png")
    assert (tmp_path / "profile.png").read_bytes().startswith(b"\x89PNG")
