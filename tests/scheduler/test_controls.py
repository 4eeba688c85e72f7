"""Schedulers that are wrong on purpose: the device must catch each of them."""

import pytest

HOLES = [2, 3, 7]


def faults_of(make_world, prompt, *, break_scheduler=lambda scheduler: None, **options):
    """Faults of the device while a prompt with holes is served, and asked for again; a broken request may hang."""
    world = make_world(step_tokens=24, **options)
    world.serve(prompt, output_tokens=1)
    world.drop(prompt, HOLES)
    break_scheduler(world.scheduler)
    for _ in range(2):
        world.add(prompt)
        for _ in range(30):
            world.step()
    return world.device.faults


@pytest.fixture
def prompt():
    from vllm_pensieve.testing.world import tokens

    return tokens(200)


def test_without_a_break_there_is_no_fault(make_world, prompt):
    assert faults_of(make_world, prompt) == []


def test_jumping_over_holes_without_computing_them_is_caught(make_world, prompt):
    from vllm_pensieve.testing.breaks import skip_recomputation

    assert (
        "reads another prefix at token 32 "
        in faults_of(make_world, prompt, break_scheduler=skip_recomputation)[0]
    )


def test_a_null_block_left_in_a_table_is_caught(make_world, prompt):
    def leave_holes_unfilled(scheduler):
        null = scheduler.kv_cache_manager.block_pool.null_block

        def restore(request_id, restoring, resident):
            kept = iter(resident)
            indexes = range(restoring.plan.end)
            return [null if i in restoring.missing else next(kept) for i in indexes]

        scheduler.kv_cache_manager.restore = restore

    assert (
        "has no block for some of its"
        in faults_of(make_world, prompt, break_scheduler=leave_holes_unfilled)[0]
    )


def test_hashing_a_hole_before_it_is_computed_is_caught(make_world, prompt):
    from vllm_pensieve.testing.breaks import hash_whole_holes_at_once

    world = make_world(step_tokens=24)
    world.serve(prompt, output_tokens=1)
    world.drop(prompt, HOLES)
    hash_whole_holes_at_once(world.scheduler)
    world.add(prompt)
    world.step()  # 24 of the first hole's 32 tokens
    assert len(world.falsely_cached_blocks()) == 1


@pytest.mark.parametrize("steps_in_flight", [1, 2])
def test_not_telling_the_v2_runner_of_a_jump_is_caught(make_world, prompt, steps_in_flight):
    from vllm_pensieve.testing.breaks import never_resend

    def faults(runner):
        return faults_of(
            make_world,
            prompt,
            break_scheduler=never_resend,
            runner=runner,
            steps_in_flight=steps_in_flight,
        )

    assert faults("v2")
    assert faults("v1") == []  # which takes the scheduler's position in every step


def test_two_writers_of_a_slot_are_caught(make_world, prompt):
    world = make_world()
    first, second = world.add(prompt), world.add(prompt[::-1])
    schedule = world.scheduler.schedule

    def give_both_the_same_blocks():
        output = schedule()
        output.scheduled_new_reqs[1].block_ids = output.scheduled_new_reqs[0].block_ids
        return output

    world.scheduler.schedule = give_both_the_same_blocks
    world.step()
    assert f"{second.request_id} and {first.request_id} write slot" in world.device.faults[0]


def test_stock_vllm_passes_the_same_checks(make_world):
    from vllm_pensieve.testing.traffic import Traffic
    from vllm_pensieve.testing.world import stock_scheduler

    world = make_world(scheduler=stock_scheduler, blocks=140, step_tokens=40)
    counts = Traffic(world, seed=1).play()
    assert (counts.wrong, world.device.faults, world.device.jumps) == (0, [], 0)
