"""Conversations that outlive GPU memory: blocks go to host memory and come back, and failed copies are never served."""

import random

import pytest

KINDS = [(1, "v1"), (1, "v2"), (2, "v1"), (2, "v2")]
every_kind = pytest.mark.parametrize(("steps_in_flight", "runner"), KINDS)


@pytest.fixture
def prompt():
    from vllm_pensieve.testing.world import tokens

    return tokens(200)


def counted(world):
    return {k: v for k, v in world.scheduler.pensieve_stats.prompt_tokens.items() if v}


@every_kind
def test_a_prompt_that_left_gpu_memory_is_loaded_instead_of_computed(
    make_world, prompt, steps_in_flight, runner
):
    world = make_world(blocks=80, host_blocks=300, steps_in_flight=steps_in_flight, runner=runner)
    world.serve(prompt)
    world.swap_out()
    assert world.swapped(prompt) == list(range(12))
    rows_before = world.device.rows_computed
    request = world.serve(prompt, output_tokens=1)
    world.assert_answered(request)
    assert world.host.loaded == 12
    assert world.device.rows_computed == rows_before + 1, "one step: the 8 tokens of the last block"
    world.assert_sound()
    world.assert_nothing_left()


def test_all_four_sources_in_one_prompt(make_world, prompt):
    from vllm_pensieve.testing.world import tokens

    world = make_world(blocks=80, host_blocks=300, settings={"load_cost_flops_per_byte": 1e-9})
    world.serve(prompt)
    world.swap_out()
    world.serve([*prompt[:64], 1], output_tokens=1)  # the first four blocks are resident again
    forget(world, prompt, [6, 7])
    before = dict(world.scheduler.pensieve_stats.prompt_tokens)
    request = world.serve(prompt + tokens(30, seed=5))
    world.assert_answered(request)
    now = world.scheduler.pensieve_stats.prompt_tokens
    assert {source: now[source] - before[source] for source in now} == {
        "resident": 64,
        "swapped": 6 * 16,
        "recovered": 32,
        "new": 230 - 192,
    }
    world.assert_sound()


def forget(world, prompt, indexes):
    """Give up the copies in host memory of these blocks."""
    from vllm.v1.core.kv_cache_utils import make_block_hash_with_group_id

    hashes = world.request(prompt).block_hashes
    host = world.swapper.host
    host.discard([host.find(make_block_hash_with_group_id(hashes[i], 0)) for i in indexes])


def test_blocks_cheaper_to_compute_than_to_copy_are_computed(make_world, prompt):
    world = make_world(blocks=80, host_blocks=300, settings={"load_cost_flops_per_byte": 1e12})
    world.serve(prompt)
    world.swap_out()
    world.assert_answered(world.serve(prompt))
    assert world.host.loaded == 0
    assert "swapped" not in counted(world)


def test_without_recovery_what_stands_behind_a_dropped_block_is_not_loaded(make_world, prompt):
    world = make_world(blocks=80, host_blocks=300, settings={"recovery": False})
    world.serve(prompt)
    world.swap_out()
    forget(world, prompt, [5])
    world.assert_answered(world.serve(prompt))
    assert world.host.loaded == 5
    world.assert_sound()


def test_a_prompt_waits_until_there_is_memory_for_what_it_loads_and_what_is_new(make_world, prompt):
    from vllm_pensieve.testing.world import tokens

    world = make_world(
        blocks=30,
        host_blocks=300,
        whole_sequence_must_fit=False,
        settings={"admission_reserve": 0.0},
    )
    world.serve(prompt)
    world.swap_out()
    other = world.add(tokens(230, seed=5), output_tokens=8)  # 15 of 29 blocks
    world.step()
    longer = world.add(prompt + tokens(40, seed=6))  # loads 12, and needs 3 more
    world.step()
    assert not world.manager.get_block_ids(longer.request_id)[0]
    world.drain()
    world.assert_answered(other, longer)
    assert world.host.loaded == 12


def test_unused_blocks_are_copied_before_anything_needs_their_place(make_world, prompt):
    world = make_world(blocks=40, host_blocks=300, settings={"ahead_of_time_threshold": 1.0})
    world.serve(prompt, output_tokens=1)
    world.step()
    assert world.swapper.dirty_blocks == 0 and world.swapper.stored_blocks == 12
    stored = world.swapper.stored_blocks
    world.serve(prompt, output_tokens=1)  # a clean block is used where it is
    assert (world.swapper.loaded_blocks, world.swapper.stored_blocks) == (0, stored)


def test_nothing_is_copied_ahead_while_enough_of_memory_is_empty(make_world, prompt):
    world = make_world(blocks=80, host_blocks=300)
    world.serve(prompt)
    world.step()
    assert world.swapper.stored_blocks == 0


@pytest.mark.parametrize("host_blocks", [40, 52, 100])
def test_copies_ahead_of_time_take_at_most_a_quarter_from_what_host_memory_is_for(
    make_world, host_blocks
):
    from vllm_pensieve.testing.world import tokens

    def swapped_tokens(host_blocks, threshold):
        world = make_world(
            blocks=101,
            host_blocks=host_blocks,
            max_requests=2,
            settings={"ahead_of_time_threshold": threshold, "eviction_policy": "lru"},
        )
        sessions = [tokens(160, seed=seed) for seed in range(12)]  # 120 blocks, used in turn
        for _ in range(6):
            for session in sessions:
                world.serve(session, output_tokens=20)
        return world.scheduler.pensieve_stats.prompt_tokens["swapped"]

    without = swapped_tokens(host_blocks * 3 // 4, threshold=0.0)
    assert swapped_tokens(host_blocks, threshold=0.25) >= without > 1_000


def test_a_prompt_that_may_not_jump_is_loaded_up_to_the_first_dropped_block(make_world, prompt):
    import torch

    world = make_world(blocks=80, host_blocks=300)
    world.serve(prompt)
    world.swap_out()
    forget(world, prompt, [5])
    request = world.request(prompt)
    request.prompt_embeds = torch.zeros(1)
    world.scheduler.add_request(request)
    world.step()
    assert world.host.loaded == 5 and not world.walks


@pytest.mark.parametrize(
    "wanted", [{"prompt_logprobs": 0}, {"prompt_logprob_token_ids": [1, 2]}], ids=str
)
def test_what_is_returned_for_each_prompt_token_is_computed_whatever_the_request_says(
    make_world, prompt, wanted
):
    from vllm.sampling_params import SamplingParams

    world = make_world(blocks=80, host_blocks=300)
    world.serve(prompt)
    for move in (lambda: None, world.swap_out, lambda: forget(world, prompt, [5])):
        move()
        request = world.request(prompt, output_tokens=1)
        request.sampling_params = SamplingParams(
            ignore_eos=True, max_tokens=1, skip_reading_prefix_cache=False, **wanted
        )
        assert not request.get_skip_reading_prefix_cache()
        new = world.scheduler.pensieve_stats.prompt_tokens["new"]
        world.scheduler.add_request(request)
        world.step()
        assert world.host.loaded == 0 and not world.walks
        assert world.scheduler.pensieve_stats.prompt_tokens["new"] == new + 200
        world.drain()
    world.assert_nothing_left()


def test_a_suspended_request_comes_back_by_copies(make_world):
    from vllm_pensieve.testing.world import tokens

    world = make_world(blocks=42, host_blocks=300, whole_sequence_must_fit=False)
    requests = [world.add(tokens(200, seed=i), output_tokens=200) for i in range(3)]
    world.drain()
    world.assert_answered(*requests)
    assert sum(request.num_preemptions for request in requests) > 0
    assert world.host.loaded > 0
    world.assert_sound()
    world.assert_nothing_left()


def test_resetting_the_prefix_cache_empties_both_tiers(make_world, prompt):
    world = make_world(blocks=80, host_blocks=300)
    world.serve(prompt)
    world.swap_out()
    assert world.scheduler.reset_prefix_cache()
    assert len(world.swapper.host) == 0 and not world.cached(prompt)
    world.assert_answered(world.serve(prompt))
    assert world.host.loaded == 0


# -- faults


@every_kind
def test_a_load_that_fails_is_computed_again(make_world, prompt, steps_in_flight, runner):
    world = make_world(blocks=80, host_blocks=300, steps_in_flight=steps_in_flight, runner=runner)
    world.serve(prompt)
    world.swap_out()
    world.host.fail_loads = 0.3
    requests = [world.add(prompt), world.add([*prompt, 7, 8, 9])]  # the second shares what fails
    world.drain()
    world.assert_answered(*requests)
    assert world.host.failed_loads > 0
    assert not world.falsely_cached_blocks() and not world.falsely_stored_slots()
    world.assert_nothing_left()


@every_kind
def test_what_an_aborted_request_computed_on_a_bad_load_is_taken_back(
    make_world, prompt, steps_in_flight, runner
):
    world = make_world(
        blocks=80,
        host_blocks=300,
        steps_in_flight=steps_in_flight,
        runner=runner,
    )
    longer = prompt + prompt[::-1]
    world.serve(prompt)
    world.swap_out()
    world.host.fail_loads = 1.0
    request = world.add(longer, output_tokens=1)
    output = world.scheduler.schedule()  # its outcome is not known when the request goes
    bad, slots = world.host.begin_step(output.kv_connector_metadata.plan)
    from vllm.v1.outputs import KVConnectorOutput

    from vllm_pensieve.swap.connector import SwapReport

    _, result = world.device.run(output)
    result.kv_connector_output = KVConnectorOutput(
        invalid_block_ids=bad, kv_connector_worker_meta=SwapReport(slots)
    )
    assert bad and len(world.cached(longer)) == 25
    world.abort(request)
    world.scheduler.update_from_output(output, result)
    assert not world.cached(longer)
    world.host.fail_loads = 0.0
    world.drain()
    world.assert_answered(world.serve(longer))
    world.assert_nothing_left()


@every_kind
@pytest.mark.parametrize("policy", ["fcfs", "priority"])
@pytest.mark.parametrize("faults", [0.0, 0.1])
def test_no_answer_is_wrong_whatever_is_swapped_dropped_failed_or_aborted(
    make_world, steps_in_flight, runner, policy, faults
):
    from vllm_pensieve.testing.traffic import Counts, Traffic

    counts, loaded, stored, failed = Counts(), 0, 0, 0
    for seed in range(3):
        vary = random.Random(seed)
        world = make_world(
            blocks=[60, 80, 120][seed],
            host_blocks=[100, 3, 30][seed],
            step_tokens=vary.choice([24, 40, 128]),
            max_requests=vary.choice([3, 8]),
            steps_in_flight=steps_in_flight,
            runner=runner,
            policy=policy,
            whole_sequence_must_fit=vary.choice([True, False]),
        )
        world.host.fail_loads = world.host.fail_stores = faults
        priorities = 3 if policy == "priority" else 1
        traffic = Traffic(world, seed, eviction_chance=0.3, priorities=priorities)
        counts += traffic.play()
        if not faults:
            world.assert_sound()  # with faults a step may read what failed, but nobody sees its answer
        assert not world.falsely_cached_blocks()
        for _ in range(3):
            world.step()  # copies ahead of time end, and failed ones are told
        assert not world.falsely_stored_slots()
        world.assert_nothing_left()
        loaded += world.host.loaded
        stored += world.host.stored
        failed += world.host.failed_loads
    assert counts.wrong == 0 and counts.finished > 80
    assert loaded > 150 and stored > 200, "the traffic must exercise the host tier"
    assert (failed > 0) == (faults > 0)
