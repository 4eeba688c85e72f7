"""Real vLLM with a host tier: prompts come back from host memory, and the answers are those of stock vLLM."""

from zlib import crc32

import pytest

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def served(serve):
    return serve(blocks=70, host_blocks=500, settings={"verify_swaps": True})


@pytest.fixture
def prompt(request):
    from vllm_pensieve.testing.served import tokens

    return tokens(700, seed=crc32(request.node.name.encode()))


def push_out(served):
    """Fill GPU memory with other prompts; what was there has been idle for longer than any of theirs."""
    from vllm_pensieve.testing.served import tokens

    push_out.count = getattr(push_out, "count", 0) + 1
    for i in range(2):
        served.clock.let_pass(3600)
        served.serve([tokens(1200, seed=10_000 + 10 * push_out.count + i)], output_tokens=1)


def test_a_swapped_prompt_gives_the_same_tokens_and_computes_only_its_end(
    served, prompt, assert_equal
):
    served.serve([prompt])
    push_out(served)
    before = served.prompt_tokens
    (output,) = served.serve([prompt])
    assert_equal(output, prompt)
    now = served.prompt_tokens
    assert now["swapped"] - before["swapped"] == 672
    assert now["new"] - before["new"] == 28
    served.assert_nothing_left()


def test_resident_swapped_recovered_and_new_in_one_prompt(served, prompt, assert_equal):
    from vllm_pensieve.testing.served import tokens

    served.serve([prompt])
    push_out(served)
    served.serve([prompt[:128]], output_tokens=1)
    forget(served, prompt, range(8, 12))
    longer = prompt + tokens(100, seed=3)
    before = served.prompt_tokens
    (output,) = served.serve([longer])
    assert_equal(output, longer)
    now = served.prompt_tokens
    assert all(now[source] > before[source] for source in now), now
    assert now["recovered"] - before["recovered"] == 4 * 32


@pytest.mark.parametrize("loads_per_step", [1, 4])
def test_copies_of_a_prompt_are_made_in_stages_while_others_decode(
    served, prompt, assert_equal, monkeypatch, loads_per_step
):
    from vllm_pensieve.testing.served import tokens

    monkeypatch.setattr(served.scheduler, "_loads_per_step", loads_per_step)
    served.serve([prompt])
    push_out(served)
    other_prompt = tokens(40, seed=77)
    other = served.add(other_prompt, output_tokens=80)
    served.step()
    before = served.prompt_tokens
    name = served.add(prompt)
    steps = 0
    while not steps or served.scheduler.restoring:
        served.step()
        steps += 1
    now = served.prompt_tokens
    swapped, recovered = (now[s] - before[s] for s in ("swapped", "recovered"))
    assert swapped + recovered == 672 and recovered >= 32
    assert steps > swapped // 32 // loads_per_step
    outputs = served.drain()
    assert_equal(outputs[name], prompt)
    assert_equal(outputs[other], other_prompt)
    served.assert_nothing_left()


def forget(served, prompt, indexes):
    host = served.scheduler.swapper.host
    host.discard([host.find(served.keys(prompt)[index]) for index in indexes])


def test_every_layer_of_such_a_model_announces_that_it_reads(served):
    """So loads go on while the layers before are computed."""
    worker = served.connector.worker
    assert len(worker._layers) == 4 and worker._unannounced == 0


# -- faults


def test_a_bit_that_flips_in_host_memory_is_found_and_the_block_computed_again(
    served, prompt, assert_equal, caplog_vllm
):
    served.serve([prompt])
    push_out(served)
    host = served.scheduler.swapper.host
    slot = host.find(served.keys(prompt)[5])
    served.connector.worker.copier._host[2][slot, 17] ^= 4
    stats = served.scheduler.pensieve_stats
    changed, failed = stats.checksum_failures, stats.failed_loads
    (output,) = served.serve([prompt])
    assert_equal(output, prompt)
    assert "checksum mismatch" in caplog_vllm.text
    assert (stats.checksum_failures - changed, stats.failed_loads - failed) == (1, 1)
    assert stats.load_wait_seconds > 0
    served.assert_nothing_left()
    (again,) = served.serve([prompt])
    assert_equal(again, prompt)


@pytest.mark.parametrize("call", ["store", "load", "wait_for_layer", "store_ahead", "fence"])
def test_a_copy_that_fails_costs_a_computation_and_nothing_else(
    served, prompt, assert_equal, monkeypatch, call
):
    from vllm_pensieve.swap.copiers import CopyError

    copier = served.connector.worker.copier
    failures = []
    real = getattr(copier, call)

    def fail_at_times(*args):
        if len(failures) < 3:
            failures.append(call)
            real(*args)
            raise CopyError("injected")
        return real(*args)

    served.serve([prompt])
    monkeypatch.setattr(copier, call, fail_at_times)
    push_out(served)
    outputs = served.serve([prompt, [*prompt, 5, 6]])
    monkeypatch.undo()
    assert failures
    assert_equal(outputs[0], prompt)
    assert_equal(outputs[1], [*prompt, 5, 6])
    push_out(served)
    (again,) = served.serve([prompt])
    assert_equal(again, prompt)
    served.assert_nothing_left()


def test_a_copy_that_dawdles_is_waited_for(served, prompt, assert_equal, monkeypatch):
    import time

    from vllm_pensieve.swap import host_copier

    copy = host_copier._copy

    def slowly(*args):
        time.sleep(0.02)
        copy(*args)

    served.serve([prompt])
    monkeypatch.setattr(host_copier, "_copy", slowly)
    push_out(served)
    (output,) = served.serve([prompt])
    assert_equal(output, prompt)
    served.assert_nothing_left()


@pytest.mark.parametrize("cleared", [True, False])
def test_a_pause_with_requests_under_way_keeps_answers_and_cleared_memories_stay_cold(
    served, prompt, assert_equal, cleared
):
    served.serve([prompt])
    push_out(served)
    names = [served.add(prompt), served.add([*prompt, 9])]
    served.step()
    assert served.prompt_tokens["swapped"] > 0
    served.core.pause_scheduler("keep", clear_cache=cleared)
    assert (len(served.scheduler.swapper.host) == 0) is cleared
    assert not cleared or not any(served.cached_blocks(prompt))
    loaded = served.scheduler.swapper.loaded_blocks
    served.core.resume_scheduler()
    outputs = served.drain()
    assert_equal(outputs[names[0]], prompt)
    assert_equal(outputs[names[1]], [*prompt, 9])
    assert not cleared or served.scheduler.swapper.loaded_blocks == loaded
    served.assert_nothing_left()


@pytest.mark.parametrize("where", ["resident", "swapped", "behind a hole"])
def test_prompt_log_probabilities_are_there_for_every_token_whatever_is_cached(
    served, prompt, where
):
    from vllm import SamplingParams

    sampling = SamplingParams(
        temperature=0, max_tokens=1, prompt_logprobs=0, skip_reading_prefix_cache=False
    )

    def of_prompt():
        name = next(served._names)
        served.engine.add_request(name, {"prompt_token_ids": prompt}, sampling)
        values = served.drain()[name].prompt_logprobs
        assert values[0] is None and len(values) == len(prompt)
        pairs = zip(values[1:], prompt[1:], strict=True)
        return [of_token[token].logprob for of_token, token in pairs]

    served.llm.reset_prefix_cache()
    cold = of_prompt()
    served.serve([prompt])
    if where != "resident":
        push_out(served)
    if where == "behind a hole":
        forget(served, prompt, range(8, 12))
    assert of_prompt() == pytest.approx(cold, abs=1e-5)
    served.assert_nothing_left()


def test_a_worker_without_host_memory_serves_nothing_from_it(
    serve, prompt, assert_equal, monkeypatch
):
    """vLLM asks for the blocks that were not loaded, and everything is computed."""
    from vllm_pensieve.swap.connector import PensieveConnector

    monkeypatch.setattr(PensieveConnector, "register_kv_caches", lambda self, kv_caches: None)
    served = serve(blocks=70, host_blocks=500)
    assert served.connector.worker is None
    # As if one store of each prompt had gone well and only loads did not.
    real = served.scheduler.swapper.host.discard
    monkeypatch.setattr(served.scheduler.swapper.host, "discard", lambda slots: None)
    served.serve([prompt])
    push_out(served)
    monkeypatch.setattr(served.scheduler.swapper.host, "discard", real)
    (output,) = served.serve([prompt])
    assert served.scheduler.swapper.loaded_blocks > 0
    assert_equal(output, prompt)
    served.assert_nothing_left()


def test_more_host_memory_than_there_is_is_refused_with_both_numbers(serve):
    from vllm_pensieve.config import ConfigError

    with pytest.raises(ConfigError, match=r"1000000.*GiB are available"):
        serve(settings={"host_cache_gib": 1_000_000})


def test_a_host_tier_too_small_for_a_block_is_refused(serve):
    from vllm_pensieve.config import ConfigError

    with pytest.raises(ConfigError, match="holds no block"):
        serve(settings={"host_cache_gib": 1e-6})
