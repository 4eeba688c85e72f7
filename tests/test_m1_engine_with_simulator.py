"""Milestone 1: vLLM's engine with the token simulator in place of a model. "Hello world" in, "Hello world" out."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.engine

EXECUTOR = "vllm_pensieve.simulator.SimulatedExecutor"
BLOCK = 16
BLOCKS = 60


@pytest.fixture(scope="module")
def make(tiny_model: Path, keep_alive: Callable) -> Callable:
    """make(...): an engine of vLLM with the simulator and the plugin."""

    def start(
        settings: dict[str, Any] | None = None,
        simulator: dict[str, Any] | None = None,
        **options: Any,
    ):
        from vllm import LLM

        llm = LLM(
            model=str(tiny_model),
            distributed_executor_backend=EXECUTOR,
            additional_config={
                "pensieve": {"step_cost_tokens": 0} | (settings or {}),
                "pensieve_simulator": simulator or {},
            },
            **{
                "block_size": BLOCK,
                "num_gpu_blocks_override": BLOCKS,
                "max_model_len": 640,
                "max_num_batched_tokens": 64,
                "disable_log_stats": False,
            }
            | options,
        )  # fmt: skip
        keep_alive(llm)
        return llm

    return start


@pytest.fixture(scope="module")
def llm(make: Callable):
    return make()


@pytest.fixture(scope="module")
def recorded(make: Callable):
    return make(simulator={"tokens": "recorded"})


@pytest.fixture
def scheduler(llm) -> Iterator[Any]:
    found = llm.llm_engine.engine_core.engine_core.scheduler
    yield found
    assert not found.requests and not found.restoring
    assert not llm.llm_engine.model_executor.scripts.keys() - found.finished_req_ids


def generate(llm, prompts: list[str], **params: Any) -> list[Any]:
    from vllm import SamplingParams

    sampling = SamplingParams(**{"max_tokens": 600, "temperature": 0} | params)
    return [output.outputs[0] for output in llm.generate(prompts, sampling, use_tqdm=False)]


def test_hello_world_generates_hello_world(llm):
    """Shown with `-s`."""
    (output,) = generate(llm, ["Hello world"])
    print(f"\nPrompt: Hello world\nGenerated text: {output.text}")
    assert output.text == "Hello world"
    assert output.finish_reason == "stop"


def test_stock_vllm_runs_on_it_as_well(tiny_model, keep_alive):
    from vllm import LLM

    stock = LLM(str(tiny_model), distributed_executor_backend=EXECUTOR, max_model_len=640)
    keep_alive(stock)
    scheduler = stock.llm_engine.engine_core.engine_core.scheduler
    assert type(scheduler).__module__.startswith("vllm.")
    (output,) = generate(stock, ["Hello world"])
    assert output.text == "Hello world"


def test_many_prompts_at_once_each_get_their_own_back(llm, scheduler):
    prompts = [f"Hello world {i} " + "and so on " * (i % 7) for i in range(40)]
    outputs = generate(llm, prompts)
    assert [output.text for output in outputs] == prompts


def test_an_echo_stops_at_the_length_asked_for(llm):
    (output,) = generate(llm, ["Hello world"], max_tokens=5)
    assert (output.text, output.finish_reason) == ("Hello", "length")


def test_an_echo_that_may_not_end_begins_again(llm):
    (output,) = generate(llm, ["Hello world"], max_tokens=16, ignore_eos=True)
    assert output.text == "Hello worldHello"


def test_prompts_longer_than_a_step_are_computed_in_chunks(llm):
    prompt = "Hello world " * 20
    (output,) = generate(llm, [prompt])
    assert output.text == prompt


def test_what_is_preempted_goes_on_where_it_was(llm, scheduler):
    """Twelve sequences of up to 16 blocks do not fit into 59; the watermark cannot know how they grow."""
    prompts = [f"{i:03} Hello world, this is a longer story. " * 3 for i in range(12)]
    preempted: list[str] = []
    preempt = scheduler._preempt_request
    scheduler._preempt_request = lambda request, *a, **k: (
        preempted.append(request.request_id),
        preempt(request, *a, **k),
    )
    outputs = generate(llm, prompts)
    scheduler._preempt_request = preempt
    assert len(preempted) > 3
    assert [output.text for output in outputs] == prompts


def test_a_position_that_jumps_over_kept_blocks_is_followed(llm, scheduler):
    prompt = "A prompt whose first blocks are dropped while those behind them stay. " * 4
    generate(llm, [prompt], max_tokens=1)
    pool = scheduler.kv_cache_manager.block_pool
    tokens = llm.get_tokenizer().encode(prompt)
    table = blocks_of(llm, tokens)
    assert pool.evict_blocks({table[0], table[1], table[7]}) is None
    before = dict(scheduler.pensieve_stats.prompt_tokens)
    (output,) = generate(llm, [prompt])
    assert output.text == prompt
    counted = scheduler.pensieve_stats.prompt_tokens
    assert counted["recovered"] - before["recovered"] == 3 * BLOCK


def blocks_of(llm, tokens: list[int]) -> list[int]:
    """The block of each full block's content, all of them cached."""
    from vllm import SamplingParams
    from vllm.v1.core.kv_cache_utils import make_block_hash_with_group_id
    from vllm.v1.request import Request

    core = llm.llm_engine.engine_core.engine_core
    probe = Request("probe", tokens, SamplingParams(), None, block_hasher=core.request_block_hasher)
    cached = core.scheduler.kv_cache_manager.block_pool.cached_block_hash_to_block
    keys = [make_block_hash_with_group_id(block_hash, 0) for block_hash in probe.block_hashes]
    return [cached.get_one_block(key).block_id for key in keys]


def test_recorded_lengths_are_followed(recorded):
    from vllm import SamplingParams

    from vllm_pensieve.simulator.settings import OUTPUT_TOKENS_KEY

    lengths = [1, 7, 90]
    params = [SamplingParams(max_tokens=200, extra_args={OUTPUT_TOKENS_KEY: n}) for n in lengths]
    outputs = recorded.generate(["Hello world"] * len(lengths), params, use_tqdm=False)
    assert [len(output.outputs[0].token_ids) for output in outputs] == lengths
    assert {output.outputs[0].finish_reason for output in outputs} == {"stop"}


def test_without_a_recorded_length_the_limit_counts(recorded):
    (output,) = generate(recorded, ["Hello world"], max_tokens=33)
    assert (len(output.token_ids), output.finish_reason) == (33, "length")


def test_nothing_ends_before_the_tokens_that_are_the_least(recorded):
    from vllm_pensieve.simulator.settings import OUTPUT_TOKENS_KEY

    (output,) = generate(recorded, ["Hello world"], min_tokens=9, extra_args={OUTPUT_TOKENS_KEY: 3})
    assert len(output.token_ids) == 10


def test_a_wrong_recorded_length_does_not_stop_the_engine(recorded, caplog_vllm):
    from vllm_pensieve.simulator.settings import OUTPUT_TOKENS_KEY

    caplog_vllm.set_level("WARNING", "vllm.pensieve")
    wrong = {OUTPUT_TOKENS_KEY: "a"}
    (output,) = generate(recorded, ["Hello world"], max_tokens=4, extra_args=wrong)
    assert len(output.token_ids) == 4
    assert f"{OUTPUT_TOKENS_KEY} is 'a'; a whole number of 1 or more" in caplog_vllm.text


@pytest.mark.parametrize("params", [{"logprobs": 2}, {"prompt_logprobs": 2}])
def test_log_probabilities_of_other_tokens_are_refused(llm, params):
    from vllm.exceptions import VLLMValidationError

    with pytest.raises(VLLMValidationError, match="logprobs of 2, which is greater than max allow"):
        generate(llm, ["Hello world"], **params)
    (output,) = generate(llm, ["Hello world"])
    assert output.text == "Hello world"


def test_what_is_generated_is_certain(llm):
    """Clients that ask for `logprobs: true` without a number ask for no other tokens; vLLM lets that through."""
    (output,) = generate(llm, ["Hello world"], logprobs=0)
    assert output.text == "Hello world"
    assert output.cumulative_logprob == 0.0
    assert [list(step) for step in output.logprobs] == [[token] for token in output.token_ids]


def test_a_host_tier_is_refused(make):
    from vllm_pensieve.config import ConfigError

    with pytest.raises(
        ConfigError, match="PensieveConnector needs a real worker, because no KV is"
    ):
        make(settings={"host_cache_gib": 0.001})


@pytest.mark.parametrize(
    ("simulator", "message"),
    [
        ({"tokens": "dreams"}, r"pensieve_simulator: Invalid enum value 'dreams'"),
        ({"token": "echo"}, r"unknown field `token`. Known settings: tokens, step_s, token_s"),
        ({"step_s": -1}, r"Expected `float` >= 0.0"),
    ],
)
def test_bad_settings_are_refused(make, simulator, message):
    from vllm_pensieve.config import ConfigError

    with pytest.raises(ConfigError, match=message):
        make(simulator=simulator)


def test_asynchronous_scheduling_is_off(llm):
    assert llm.llm_engine.vllm_config.scheduler_config.async_scheduling is False


def test_what_needs_a_worker_is_refused_with_its_name(llm):
    assert "SimulatedExecutor" in repr(llm)
    with pytest.raises(
        NotImplementedError, match="has no worker that could do 'save_sharded_state'"
    ):
        llm.collective_rpc("save_sharded_state")


def test_a_step_takes_the_time_asked_for(make):
    import time

    slow = make(simulator={"step_s": 0.02, "token_s": 0.001})
    begun = time.perf_counter()
    generate(slow, ["Hello world"], max_tokens=3)
    assert time.perf_counter() - begun > 3 * 0.02 + (11 + 2) * 0.001
