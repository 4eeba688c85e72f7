"""Seeds and ways to sample: the tokens of stock vLLM, whatever has been evicted, swapped, preempted or not loaded.

On a CPU vLLM cannot set back a seed's random generator, which it does for every part of a prefill but the last: its
engine dies. So a request with a seed is never computed in parts.
"""

import pytest

pytestmark = pytest.mark.engine

BLOCK = 32


def hot(seed, output_tokens=12, **others):
    from vllm_pensieve.testing.sampling import WAYS

    params = WAYS["a seed"](seed, output_tokens)
    for name, value in others.items():
        setattr(params, name, value)
    return params


@pytest.fixture(scope="module")
def stock(serve):
    return serve(scheduler=None, blocks=1500, step_tokens=8192)


@pytest.fixture(scope="module")
def served(serve):
    """A step takes 1,024 tokens."""
    return serve(blocks=70, host_blocks=500, step_tokens=1024)


@pytest.fixture
def same(stock):
    """same(outputs, prompts, parameters): each as stock vLLM answers it alone."""
    from vllm_pensieve.testing.exactness import all_token_ids
    from vllm_pensieve.testing.served import largest_logprob_difference

    def check(outputs, prompts, parameters):
        for output, prompt, params in zip(outputs, prompts, parameters, strict=True):
            (want,) = play(stock, [prompt], [params])
            assert all_token_ids(output) == all_token_ids(want)
            assert largest_logprob_difference(output, want) < 1e-5

    return check


def play(engine, prompts, parameters):
    names = [
        engine.add(prompt, params=params)
        for prompt, params in zip(prompts, parameters, strict=True)
    ]
    outputs = engine.drain()
    return [outputs[name] for name in names]


def forget(served, prompt, indexes):
    """Lose these blocks in both memories."""
    host, keys = served.scheduler.swapper.host, served.keys(prompt)
    slots = [host.find(keys[index]) for index in indexes]
    host.discard([slot for slot in slots if slot is not None])
    served.drop(prompt, indexes)


def push_out(served):
    from vllm_pensieve.testing.served import tokens

    push_out.count = getattr(push_out, "count", 0) + 1
    served.clock.let_pass(3600)
    for i in range(3):
        seed = 20_000 + 10 * push_out.count + i
        served.serve([tokens(900, seed=seed)], output_tokens=1)


def test_a_seeded_request_after_an_eviction_is_answered_and_so_is_whoever_comes_after(served, same):
    from vllm_pensieve.testing.served import tokens

    prompt = tokens(10 * BLOCK + 5, seed=1)
    served.serve([prompt])
    forget(served, prompt, [2, 3, 7])
    before = served.prompt_tokens
    outputs = play(served, [prompt], [hot(1)])
    same(outputs, [prompt], [hot(1)])
    counted = {source: n - before[source] for source, n in served.prompt_tokens.items()}
    assert counted["resident"] == 2 * BLOCK and counted["recovered"] == 0
    same(play(served, [prompt], [hot(2)]), [prompt], [hot(2)])
    served.assert_nothing_left()


def test_what_stands_before_the_first_hole_comes_from_host_memory(served, same):
    from vllm_pensieve.testing.served import tokens

    prompt = tokens(10 * BLOCK + 5, seed=2)
    served.serve([prompt])
    push_out(served)
    forget(served, prompt, [6])
    before = served.prompt_tokens
    same(play(served, [prompt], [hot(3)]), [prompt], [hot(3)])
    counted = {source: n - before[source] for source, n in served.prompt_tokens.items()}
    assert (counted["swapped"], counted["recovered"]) == (6 * BLOCK, 0)


def test_without_a_random_generator_there_are_holes(served, stock):
    """Greedy tokens, though a seed is given, and tokens that no seed decides."""
    from vllm_pensieve.testing.served import tokens

    prompt = tokens(10 * BLOCK + 5, seed=3)
    for params in (hot(4, temperature=0.0), hot(None)):
        served.serve([prompt])
        forget(served, prompt, [2, 3, 7])
        before = served.prompt_tokens["recovered"]
        play(served, [prompt], [params])
        assert served.prompt_tokens["recovered"] - before == 3 * BLOCK


def test_seeded_prompts_that_do_not_fit_into_one_step_wait_for_each_other(served, same):
    """Stock vLLM would compute a part of the second one in the first step, and die."""
    from vllm_pensieve.testing.served import tokens

    prompts = [tokens(600 + n, seed=30 + n) for n in range(3)]
    parameters = [hot(5), hot(6), hot(7)]
    same(play(served, prompts, parameters), prompts, parameters)
    served.assert_nothing_left()


def test_a_suspended_request_goes_on_with_its_generator(serve, same):
    from vllm_pensieve.testing.served import tokens

    small = serve(blocks=30, host_blocks=100, step_tokens=1024, max_model_tokens=800)
    preemptions = small.count_preemptions()
    prompts = [tokens(250 + n, seed=40 + n) for n in range(3)]
    parameters = [hot(seed, output_tokens=150) for seed in (8, 9, 10)]
    same(play(small, prompts, parameters), prompts, parameters)
    assert preemptions() > 0
    small.assert_nothing_left()


def test_a_sample_that_is_dropped_with_a_failed_load_is_drawn_again(served, same, monkeypatch):
    """The worker has drawn a token from the seed's generator by then; it makes a new one."""
    from vllm_pensieve.swap.copiers import CopyError
    from vllm_pensieve.testing.served import tokens

    prompt = tokens(10 * BLOCK + 5, seed=5)
    longer = [*prompt, 7, 8]
    served.serve([prompt])
    push_out(served)
    copier, failures = served.connector.worker.copier, []
    load = copier.load

    def fail_once(pairs):
        load(pairs)
        if not failures:
            failures.append(pairs)
            raise CopyError("injected")

    monkeypatch.setattr(copier, "load", fail_once)
    outputs = play(served, [prompt, longer], [hot(11), hot(12)])
    assert failures
    same(outputs, [prompt, longer], [hot(11), hot(12)])
    served.assert_nothing_left()


def test_conversations_that_sample_in_every_way_are_answered_as_by_stock_vllm(
    tiny_model, keep_alive
):
    """The small version of scripts/exactness.py --sampling."""
    from vllm_pensieve.testing.exactness import run
    from vllm_pensieve.testing.sampling import WAYS

    report = run(
        tiny_model,
        sessions=12,
        turns=4,
        capacity_share=0.25,
        host_share=0.3,
        keep=keep_alive,
        ways=tuple(WAYS),
    )
    assert report.requests == 48 and set(report.ways) == set(WAYS)
    assert report.failures(recovered_above=0.0) == []


def test_a_seeded_prompt_that_no_step_takes_whole_is_answered_and_the_engine_lives(served, same):
    from vllm_pensieve.testing.world import tokens

    long, short = [token % 250 for token in tokens(1500, seed=21)], list(range(100))
    (answer,) = play(served, [long], [hot(3)])
    assert len(answer.outputs[0].token_ids) == 12
    same(play(served, [short], [hot(4)]), [short], [hot(4)])
