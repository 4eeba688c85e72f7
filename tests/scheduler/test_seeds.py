"""Requests with a seed: computed in one part where the model runner has a generator of a CPU for them."""

import pytest


@pytest.fixture
def prompt():
    from vllm_pensieve.testing.world import tokens

    return tokens(200)


def seeded(world, prompt, output_tokens=4):
    from vllm.sampling_params import SamplingParams

    request = world.request(prompt)
    request.sampling_params = SamplingParams(
        ignore_eos=True, max_tokens=output_tokens, seed=7, temperature=1.0
    )
    request.max_tokens = output_tokens
    world.scheduler.add_request(request)
    return request


@pytest.mark.parametrize("runner", ["v1", "v2"])
def test_there_is_no_walk_where_the_generator_cannot_be_set_back(make_world, prompt, runner):
    world = make_world(runner=runner)
    world.serve(prompt)
    world.drop(prompt, [1, 5])
    request = seeded(world, prompt)
    first = world.step()[request.request_id]
    if runner == "v1":
        assert (first.start, first.scheduled) == (16, 184)
    else:
        assert (first.start, first.scheduled) == (16, 16)
    world.drain()
    world.assert_answered(request)
    world.assert_sound()
    world.assert_nothing_left()


def test_a_prompt_waits_for_a_step_that_takes_it_whole(make_world, prompt):
    from vllm_pensieve.testing.world import tokens

    world = make_world(step_tokens=230)
    other = world.add(tokens(100, seed=1), output_tokens=3)
    request = seeded(world, prompt)
    behind = world.add(tokens(20, seed=2))
    assert set(world.step()) == {other.request_id}
    rows = world.step()
    assert rows[request.request_id].scheduled == 200
    world.drain()
    world.assert_answered(other, request, behind)
    world.assert_nothing_left()


@pytest.mark.parametrize("options", [{"step_tokens": 64}, {"long_prefill_tokens": 64}])
def test_a_prompt_that_no_step_takes_whole_loses_its_seed(make_world, prompt, options, caplog_vllm):
    from vllm.sampling_params import SamplingType

    world = make_world(**options)
    other = world.add(prompt[::-1])
    request = seeded(world, prompt)
    asked = request.sampling_params
    assert asked.sampling_type is SamplingType.RANDOM_SEED
    world.drain()
    world.assert_answered(other, request)
    assert request.sampling_params.sampling_type is SamplingType.RANDOM
    assert asked.seed == 7  # may be shared with other choices of one request
    (line,) = [r.getMessage() for r in caplog_vllm.records if "without its seed" in r.getMessage()]
    assert "200 tokens" in line and "a step takes 64" in line


def test_with_the_v2_runner_a_long_prompt_keeps_its_seed(make_world, prompt):
    world = make_world(runner="v2", step_tokens=64)
    request = seeded(world, prompt)
    world.drain()
    world.assert_answered(request)
    assert request.sampling_params.seed == 7


def test_after_a_failed_load_a_request_without_tokens_goes_to_the_worker_as_a_new_one(
    make_world, prompt
):
    world = make_world(blocks=80, host_blocks=300)
    world.serve(prompt)
    world.swap_out()
    world.host.fail_loads = 1.0
    request = seeded(world, prompt)
    world.step()
    world.host.fail_loads = 0.0
    output = world.scheduler.schedule()
    assert [new.req_id for new in output.scheduled_new_reqs] == [request.request_id]
    assert request.request_id in output.finished_req_ids
    world.host.begin_step(output.kv_connector_metadata.plan)
    _, result = world.device.run(output)
    world.scheduler.update_from_output(output, result)
    world.drain()
    world.assert_answered(request)
    world.assert_nothing_left()
