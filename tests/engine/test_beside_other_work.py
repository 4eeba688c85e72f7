"""Walks beside other requests: shared holes, full steps, aborts, preemptions, a cache reset. All against stock vLLM."""

import time

import pytest

pytestmark = pytest.mark.engine

BLOCK = 32


def tokens(count, seed):
    from vllm_pensieve.testing import served

    return served.tokens(count, seed)


@pytest.fixture(scope="module")
def served(serve):
    return serve()


def lose(served, prompt, blocks):
    """Have all blocks of the prompt cached, then lose these."""
    served.serve([prompt])
    served.drop(prompt, blocks)


def test_a_long_walk_among_decodes_and_prefills(served, assert_equal):
    walker = tokens(50 * BLOCK + 7, seed=1)
    lose(served, walker, [*range(2, 20), *range(22, 40)])
    decodes = {
        served.add(p, output_tokens=40): p for p in (tokens(40 + i, seed=100 + i) for i in range(3))
    }
    for _ in range(3):
        served.step()
    name = served.add(walker)
    served.step()
    assert name in {walking.rsplit("-", 1)[0] for walking in served.scheduler.restoring}
    prefills = {served.add(p): p for p in (tokens(400 + 13 * i, seed=200 + i) for i in range(3))}
    outputs = served.drain()
    for request, prompt in ({name: walker} | decodes | prefills).items():
        assert_equal(outputs[request], prompt)
    served.assert_nothing_left()


def test_requests_of_one_step_with_the_same_holes(served, assert_equal):
    base = tokens(20 * BLOCK + 3, seed=2)
    lose(served, base, [0, 1, 5, 6, 7, 12])
    prompts = [base + tokens(n, seed=300 + n) for n in (37, 64, 5)]
    for output, prompt in zip(served.serve(prompts), prompts, strict=True):
        assert_equal(output, prompt)
    served.assert_nothing_left()


def test_requests_that_arrive_while_another_walks_the_same_holes(served, assert_equal):
    base = tokens(20 * BLOCK + 3, seed=3)
    lose(served, base, [*range(14), 16])
    prompts = {}
    outputs = {}
    for n in (37, 64, 5):
        prompt = base + tokens(n, seed=400 + n)
        prompts[served.add(prompt)] = prompt
        outputs |= served.step()
    outputs |= served.drain()
    for name, prompt in prompts.items():
        assert_equal(outputs[name], prompt)
    served.assert_nothing_left()


def test_an_abort_in_the_middle_of_a_walk_disturbs_nobody(served, assert_equal):
    base = tokens(20 * BLOCK + 3, seed=4)
    lose(served, base, [*range(14), 16])
    aborted = served.add(base + tokens(37, seed=500))
    beside = base + tokens(64, seed=501)
    name = served.add(beside)
    served.step()
    assert served.scheduler.restoring
    served.engine.abort_request([aborted])
    outputs = served.drain()
    assert aborted not in outputs
    assert_equal(outputs[name], beside)
    (output,) = served.serve([base])
    assert_equal(output, base)
    served.assert_nothing_left()


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_preemption_in_the_middle_of_a_walk(served, assert_equal, steps):
    prompt = tokens(40 * BLOCK + 5, seed=5)
    lose(served, prompt, [*range(12), *range(15, 26), 30])
    name = served.add(prompt)
    for _ in range(steps):
        served.step()
    assert served.scheduler.restoring
    request = served.scheduler.running.pop()
    served.scheduler._preempt_request(request, time.monotonic())
    assert not served.scheduler.restoring
    served.poison_empty_blocks()
    assert_equal(served.drain()[name], prompt)
    served.assert_nothing_left()


@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_memory_that_runs_out_in_the_middle_of_walks(serve, assert_equal, policy):
    """The walker is preempted by requests that outgrow the memory, resumes and walks again."""
    served = serve(blocks=64, max_model_tokens=1280, scheduling_policy=policy)
    walker = tokens(24 * BLOCK + 5, seed=6)
    growing = [tokens(4 * BLOCK - 4, seed=600 + i) for i in range(8)]
    in_walk = watch_preemptions(served.scheduler)
    for delay in range(6):
        lose(served, walker, range(0, 24, 2))
        names = {served.add(p, output_tokens=40): p for p in growing}
        outputs = {}
        if policy == "fcfs":
            for _ in range(delay):
                outputs |= served.step()
        names[served.add(walker, output_tokens=12, priority=9 * (policy == "priority"))] = walker
        outputs |= served.drain()
        for name, prompt in names.items():
            assert_equal(outputs[name], prompt)
        served.assert_nothing_left()
    assert sum(in_walk) > 0


def watch_preemptions(scheduler):
    """One entry per preemption from now on: whether the request was in the middle of a walk."""
    in_walk, preempt = [], scheduler._preempt_request

    def watched(request, *args, **kwargs):
        in_walk.append(request.request_id in scheduler.restoring)
        preempt(request, *args, **kwargs)

    scheduler._preempt_request = watched
    return in_walk


def test_a_cache_reset_in_the_middle_of_a_walk(served, assert_equal):
    prompt = tokens(40 * BLOCK + 5, seed=7)
    lose(served, prompt, [*range(12), 30])
    name = served.add(prompt)
    served.step()
    assert served.scheduler.restoring
    assert served.scheduler.reset_prefix_cache(reset_running_requests=True)
    served.poison_empty_blocks()
    assert not any(served.cached_blocks(prompt))
    assert_equal(served.drain()[name], prompt)
    served.assert_nothing_left()


def test_a_cache_reset_between_turns(served, assert_equal):
    prompt = tokens(13 * BLOCK, seed=8)
    lose(served, prompt, [3])
    assert served.llm.reset_prefix_cache()
    served.poison_empty_blocks()
    (output,) = served.serve([prompt])
    assert output.num_cached_tokens == 0
    assert_equal(output, prompt)
    served.assert_nothing_left()
