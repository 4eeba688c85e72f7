"""Resets and hang-ups: after a reset nothing of before is served, and whoever hangs up leaves nothing behind."""

import json

import pytest

KINDS = [(1, "v1"), (1, "v2"), (2, "v1"), (2, "v2")]
every_kind = pytest.mark.parametrize(("steps_in_flight", "runner"), KINDS)


@pytest.fixture
def prompt():
    from vllm_pensieve.testing.world import tokens

    return tokens(200)


def records(prefix, kind):
    return [json.loads(line) for line in open(f"{prefix}_{kind}.jsonl")]


def found(world):
    """Prompt tokens that were not computed, so far."""
    counts = world.scheduler.pensieve_stats.prompt_tokens
    return counts["resident"] + counts["swapped"]


# -- resets


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("running", [False, True])
def test_a_reset_that_succeeds_leaves_nothing_in_either_memory(
    make_world, prompt, tmp_path, running, external
):
    world = make_world(
        blocks=80, host_blocks=300, settings={"trace_prefix": str(tmp_path / "trace")}
    )
    world.serve(prompt)
    world.swap_out()
    world.serve(prompt[:100])  # some of it in both
    assert world.swapped(prompt) and world.cached(prompt)
    blocks = len({*world.swapped(prompt), *world.cached(prompt)})
    assert world.scheduler.reset_prefix_cache(running, external)
    assert len(world.swapper.host) == 0 and not world.cached(prompt)
    before = (found(world), world.host.loaded)
    world.assert_answered(world.serve(prompt))
    assert (found(world), world.host.loaded) == before
    world.scheduler.reset_prefix_cache()
    world.scheduler.shutdown()
    fates = [record["fate"] for record in records(tmp_path / "trace", "blocks")]
    assert fates.count("dropped") == len(fates) >= 2 * blocks, "each block of either time"


def test_a_reset_while_blocks_are_held_fails_and_changes_nothing(make_world, prompt):
    from vllm_pensieve.testing.world import tokens

    world = make_world(blocks=80, host_blocks=300)
    world.serve(prompt)
    world.swap_out()
    running = world.add(tokens(100, seed=1), output_tokens=20)
    world.step()
    assert not world.scheduler.reset_prefix_cache()
    assert len(world.swapped(prompt)) == 12
    # Asked to, it gives up host memory all the same, and says that it is not cold altogether.
    assert not world.scheduler.reset_prefix_cache(reset_connector=True)
    assert len(world.swapper.host) == 0
    world.drain()
    world.assert_answered(running)
    world.assert_nothing_left()


@every_kind
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_reset_during_loads_and_walks_spoils_no_answer(
    make_world, prompt, steps_in_flight, runner, steps
):
    from tests.scheduler.test_swapping import forget
    from vllm_pensieve.testing.world import tokens

    world = make_world(
        blocks=120,
        host_blocks=300,
        step_tokens=48,
        steps_in_flight=steps_in_flight,
        runner=runner,
        settings={"load_cost_flops_per_byte": 1e-9},
    )
    prompts = [prompt, tokens(180, seed=1)]
    for each in prompts:
        world.serve(each)
    world.swap_out()
    forget(world, prompt, [0, 1, 2, 6])
    requests = [world.add(each, output_tokens=12) for each in prompts]
    for _ in range(steps):
        world.step()
    assert world.host.loaded > 0
    assert world.scheduler.reset_prefix_cache(reset_running_requests=True)
    assert not world.cached(prompt) and len(world.swapper.host) == 0
    loaded = world.host.loaded
    world.drain()
    world.assert_answered(*requests)
    assert world.host.loaded == loaded, "what was in host memory before the reset"
    world.assert_sound()
    world.assert_nothing_left()


@every_kind
def test_resets_at_any_moment_of_much_traffic(make_world, steps_in_flight, runner):
    from vllm_pensieve.testing.traffic import Traffic

    world = make_world(
        blocks=50, host_blocks=100, steps_in_flight=steps_in_flight, runner=runner, step_tokens=64
    )
    world.host.fail_loads = world.host.fail_stores = 0.05
    step, moments = world.step, iter(range(10_000))

    def step_and_reset(*args):
        if next(moments) % 40 == 39:
            assert world.scheduler.reset_prefix_cache(reset_running_requests=True)
            assert len(world.swapper.host) == 0
            assert not len(world.pool.cached_block_hash_to_block)
        return step(*args)

    world.step = step_and_reset
    counts = Traffic(world, seed=3, requests=60, eviction_chance=0.3).play()
    assert counts.wrong == 0 and world.host.loaded > 0
    assert not world.falsely_cached_blocks()
    world.assert_nothing_left()


# -- hang-ups


@every_kind
@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_clients_that_hang_up_leave_nothing_behind(
    make_world, prompt, tmp_path, steps_in_flight, runner, policy
):
    """Many requests end early: while they wait, load, walk, decode, or are preempted."""
    from vllm_pensieve.testing.traffic import Traffic

    prefix = tmp_path / "trace"
    world = make_world(
        blocks=70,
        host_blocks=100,
        max_requests=6,
        step_tokens=48,
        steps_in_flight=steps_in_flight,
        runner=runner,
        policy=policy,
        settings={"trace_prefix": str(prefix)},
    )
    world.host.fail_loads = world.host.fail_stores = 0.05
    traffic = Traffic(
        world,
        seed=8,
        requests=120,
        eviction_chance=0.3,
        abort_chance=0.15,
        priorities=3 if policy == "priority" else 1,
    )
    counts = traffic.play()
    assert counts.wrong == 0 and 20 < counts.finished < 100
    assert world.host.loaded > 0 and world.device.jumps > 5
    assert not world.falsely_cached_blocks() and not world.falsely_stored_slots()
    world.assert_nothing_left()
    assert world.scheduler.kv_cache_manager.usage == 0
    report = world.scheduler._report()
    assert report["blocks"]["resident"] + report["blocks"]["free"] == world.pool.num_gpu_blocks - 1
    world.assert_answered(world.serve(prompt))
    world.scheduler.shutdown()
    lines = records(prefix, "requests")
    assert len(lines) == len({line["request_id"] for line in lines}) == 121
    reasons = [line["finish_reason"] for line in lines]
    assert reasons.count("abort") == 121 - reasons.count("length") == 120 - counts.finished
