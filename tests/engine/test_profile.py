"""A profile measured on real vLLM, the engine that then decides by it, and its answers."""

import math

import pytest

pytestmark = pytest.mark.engine

CHUNKS = (32, 64, 128)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    from vllm_pensieve.config import profile_folder

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield profile_folder()


@pytest.fixture(scope="module")
def measured(serve, cache):
    """A profile of the tiny model, saved where servers look."""
    from vllm_pensieve.bench.profile import Plan, complete_profile, measure_costs, shape_of
    from vllm_pensieve.bench.timed_engine import TimedEngine
    from vllm_pensieve.retention.profile import default_path, write_profile

    served = serve()
    assert served.scheduler.costs.profile is None
    engine = TimedEngine(served.engine)
    plan = Plan(CHUNKS, repeats=3)
    costs, error = measure_costs(engine, plan)
    served.assert_nothing_left()
    profile = complete_profile(shape_of(engine), plan, costs, error)
    write_profile(profile, default_path(profile, cache))
    return profile


@pytest.fixture(scope="module")
def deciding(serve, measured):
    """An engine that finds the profile, with every setting left alone."""
    return serve(settings={"step_cost_tokens": None})


def test_the_profile_tells_costs_by_context_and_bandwidths(measured):
    assert [p.context_tokens for p in measured.points] == [0, 256, 512, 1024, 1888]
    assert 0 < measured.points[0].token_s < 0.01
    assert measured.points[-1].token_s >= measured.points[0].token_s
    assert 0 < measured.cost_model().step(0) < 0.1
    for bandwidth in (measured.store_bytes_per_s, measured.load_bytes_per_s):
        assert 1e8 < bandwidth < 1e12
    assert measured.key.dtype == "float32" and measured.measured.block_tokens == 32


def test_the_scheduler_picks_it(deciding, measured):
    assert deciding.scheduler.costs.profile == measured


def test_without_the_hub_no_other_model_than_the_one_asked_for_is_looked_up(
    tiny_model, monkeypatch
):
    from vllm_pensieve.bench.timed_engine import EngineOptions, engine_arguments

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    arguments = engine_arguments(EngineOptions(str(tiny_model), max_context=512), {})
    config = arguments.create_engine_config()
    assert config.model_config.model == str(tiny_model)


def test_answers_with_it_are_exact(deciding, assert_equal):
    from vllm_pensieve.testing.served import tokens

    prompt = tokens(60 * 32 + 9, seed=500)
    deciding.serve([prompt])
    deciding.drop(prompt, [*range(4), 7, *range(20, 24)])
    before = deciding.prompt_tokens["recovered"]
    (output,) = deciding.serve([prompt])
    assert_equal(output, prompt)
    assert deciding.prompt_tokens["recovered"] > before
    deciding.assert_nothing_left()


def test_a_run_that_was_dropped_is_recovered_and_timed_beside_the_prediction(deciding, measured):
    from vllm_pensieve.bench.profile_check import check_costs
    from vllm_pensieve.bench.timed_engine import TimedEngine

    costs = measured.cost_model()
    rows = check_costs(
        TimedEngine(deciding.engine), costs, 2, contexts=(100, 900), run_tokens=(128,)
    )
    assert [(row.context_tokens, row.run_tokens) for row in rows] == [(128, 128), (928, 128)]
    for row in rows:
        end = row.context_tokens + row.run_tokens
        assert row.predicted_s == costs.span(row.context_tokens, end) + costs.step(end)
        assert math.isfinite(row.error) and row.with_run_dropped_s > 0
    deciding.assert_nothing_left()


def test_steps_that_cannot_be_timed_are_refused(deciding):
    from vllm_pensieve.bench.profile import Plan, measure_costs
    from vllm_pensieve.bench.timed_engine import TimedEngine
    from vllm_pensieve.errors import UsageError

    engine = TimedEngine(deciding.engine)
    for chunks, message in (
        ((128,), "--chunks .*: two sizes or more"),
        ((128, 512), "--chunks 512: a step has at most 256 tokens"),
    ):
        with pytest.raises(UsageError, match=message):
            measure_costs(engine, Plan(chunks, 1))
