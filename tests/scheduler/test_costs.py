"""Which costs an engine decides by: the profile of its model and device, and what a named one is refused for."""

import dataclasses
import math
from datetime import UTC, datetime
from pathlib import Path

import pytest
from vllm.config import ModelConfig, VllmConfig

from tests.retention.profiles import a_profile
from vllm_pensieve.config import ConfigError, PensieveConfig, profile_folder
from vllm_pensieve.retention import AnalyticCostModel
from vllm_pensieve.retention.profile import default_path, write_profile
from vllm_pensieve.scheduler.costs import Costs, profile_key
from vllm_pensieve.testing.world import tokens

BLOCK, BLOCK_BYTES = 32, 65536


@pytest.fixture
def engine(tiny_model: Path) -> VllmConfig:
    return VllmConfig(model_config=ModelConfig(model=str(tiny_model), dtype="float32"))


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return profile_folder()


@pytest.fixture
def log(caplog_vllm):
    caplog_vllm.set_level("INFO", logger="vllm.pensieve")
    return caplog_vllm


def save(folder: Path, **fields) -> Path:
    profile = a_profile(**fields)
    path = default_path(profile, folder)
    write_profile(profile, path)
    return path


def costs_of(engine: VllmConfig, **settings) -> Costs:
    return Costs.of(PensieveConfig(**settings), engine)


def test_the_key_names_model_and_device(engine):
    key = profile_key(engine)
    assert (key.architecture, key.dtype, key.kv_cache_dtype) == (
        "LlamaForCausalLM",
        "float32",
        "float32",
    )
    assert (key.shape.layers, key.tensor_parallel_size, key.quantization) == (4, 1, "")
    assert key.device and key.logical_cpus >= 1 and key.compute_threads == 1


def test_without_a_profile_costs_are_flops(engine, cache, log):
    costs = costs_of(engine)
    assert costs.profile is None
    assert isinstance(costs.cost_model, AnalyticCostModel)
    assert (
        f"no profile of this model and device in {cache}; `pensieve profile` measures" in log.text
    )


def test_the_newest_that_matches_is_taken(engine, cache, log):
    key = profile_key(engine)
    for day, step_s in ((3, 0.3), (5, 0.5), (4, 0.4)):
        newest = save(cache, key=key, date=datetime(2026, 1, day, tzinfo=UTC), step_s=step_s)
    save(cache, date=datetime(2026, 1, 9, tzinfo=UTC))  # of another device
    costs = costs_of(engine)
    assert costs.profile.step_s == 0.5
    assert costs.cost_model.step(0) == 0.5
    (line,) = [r.getMessage() for r in log.records]
    assert "costs as measured on 2026-01-05" in line and newest.name not in line


@pytest.mark.parametrize(
    "field",
    [
        {"dtype": "bfloat16"},
        {"architecture": "OtherForCausalLM"},
        {"quantization": "fp8"},
        {"kv_cache_dtype": "fp8"},
        {"tensor_parallel_size": 2},
        {"device": "another"},
        {"logical_cpus": 4096},
        {"compute_threads": 4096},
        {"eager": True},
    ],
)
def test_whatever_decides_costs_must_match(engine, cache, log, field):
    key = dataclasses.replace(profile_key(engine), **field)
    save(cache, key=key)
    assert costs_of(engine).profile is None
    assert f"nearest there: {next(iter(field))}: {next(iter(field.values()))!r}, here" in log.text


def test_a_moved_model_still_matches(engine, cache):
    other_name = dataclasses.replace(a_profile().measured, model="/elsewhere/model")
    save(cache, key=profile_key(engine), measured=other_name)
    assert costs_of(engine).profile is not None


def test_a_corrupt_file_of_the_cache_folder_is_told_and_left_out(engine, cache, log):
    path = save(cache, key=profile_key(engine))
    path.write_text(path.read_text()[:100])
    assert costs_of(engine).profile is None
    (warning,) = [r for r in log.records if r.levelname == "WARNING"]
    assert f"a cost profile is left out: {path}: not a profile" in warning.getMessage()
    save(cache, key=profile_key(engine), date=datetime(2027, 1, 1, tzinfo=UTC))
    assert costs_of(engine).profile is not None


def test_none_takes_no_profile(engine, cache):
    save(cache, key=profile_key(engine))
    assert costs_of(engine, cost_profile="none").profile is None


def test_a_named_profile_is_taken_instead_of_the_newest(engine, cache, tmp_path):
    save(cache, key=profile_key(engine), step_s=0.7)
    named = save(tmp_path / "named", key=profile_key(engine), step_s=0.2)
    assert costs_of(engine, cost_profile=str(named)).profile.step_s == 0.2


def test_a_named_profile_that_cannot_be_used_stops_the_engine(engine, cache, tmp_path):
    with pytest.raises(ConfigError, match=r"'cost_profile': .*absent\.json: cannot be read"):
        costs_of(engine, cost_profile=str(tmp_path / "absent.json"))
    broken = tmp_path / "broken.json"
    broken.write_text("{}")
    with pytest.raises(ConfigError, match=r"broken\.json: not a profile"):
        costs_of(engine, cost_profile=str(broken))
    key = dataclasses.replace(profile_key(engine), dtype="int3", tensor_parallel_size=2)
    other = save(tmp_path, key=key)
    with pytest.raises(
        ConfigError, match=r"\(dtype: 'int3', here 'float32'; tensor_parallel_size: 2, here 1\)"
    ):
        costs_of(engine, cost_profile=str(other))


# -- what a restore plan weighs


def test_with_a_profile_all_is_in_seconds(engine, cache):
    save(cache, key=profile_key(engine))
    plan = costs_of(engine).of_restoring(PensieveConfig(), BLOCK, BLOCK_BYTES)
    assert plan.load == BLOCK_BYTES / 1e10
    assert plan.step(10) == pytest.approx(5e-3 + 1e-6 * 320)
    assert plan.recompute(0, 1) == pytest.approx(sum(1e-4 + d * 1e-4 / 1024 for d in range(32)))


def test_settings_override_the_profile_in_its_unit(engine, cache):
    save(cache, key=profile_key(engine))
    costs = costs_of(engine)
    config = PensieveConfig(step_cost_tokens=40, load_cost_flops_per_byte=3.0)
    plan = costs.of_restoring(config, BLOCK, BLOCK_BYTES)
    assert plan.step(10) == pytest.approx(40 * 1e-4)
    assert plan.load == pytest.approx(BLOCK_BYTES * 3.0 * 1e-4 / costs.analytic.linear)


def test_without_one_steps_are_128_tokens_and_copies_are_priced_in_flops(engine, cache):
    costs = costs_of(engine)
    plan = costs.of_restoring(PensieveConfig(), BLOCK, BLOCK_BYTES)
    assert plan.step(10) == 128 * costs.analytic.linear
    assert plan.load == BLOCK_BYTES * 27.0
    explicit = PensieveConfig(step_cost_tokens=0, load_cost_flops_per_byte=5.0, recovery=False)
    plan = costs.of_restoring(explicit, BLOCK, BLOCK_BYTES)
    assert plan.load == BLOCK_BYTES * 5.0
    assert plan.step(10) == math.inf


@pytest.mark.parametrize(
    ("step_s", "chunks"),
    [
        (
            0.0,
            [(16, 48), (80, 32), (192, 8)],
        ),  # a jump costs nothing: over block 4, and over [7, 12)
        (0.004, [(16, 96), (192, 8)]),  # block 4 takes 1.7 ms to compute, the five others 10 ms
        (1.0, [(16, 184)]),
    ],
)
def test_the_scheduler_walks_over_what_a_step_is_worth_by_the_profile(
    make_world, cache, step_s, chunks
):
    key = profile_key(make_world().scheduler.vllm_config)
    save(cache, key=key, step_s=step_s, step_s_per_context_token=0.0)
    world = make_world(settings={"step_cost_tokens": None})
    assert world.scheduler.costs.profile.step_s == step_s
    prompt = tokens(200)
    world.serve(prompt)
    world.drop(prompt, [1, 2, 3, 5, 6])
    request = world.add(prompt)
    steps = world.drain()
    rows = [step[request.request_id] for step in steps if request.request_id in step]
    computed = [(row.start, row.scheduled) for row in rows if row.start < len(prompt)]
    assert computed == chunks
    world.assert_answered(request)
    world.assert_sound()
