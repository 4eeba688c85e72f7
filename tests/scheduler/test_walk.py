"""One request on its way through a prefix with holes: positions, chunks, statistics, interruptions."""

import pytest

KINDS = [(1, "v1"), (1, "v2"), (2, "v1"), (2, "v2")]
every_kind = pytest.mark.parametrize(("steps_in_flight", "runner"), KINDS)

SHAPES = {
    "nothing missing": ([], [(192, 8)]),
    "in the middle": ([2, 3, 7], [(32, 32), (112, 16), (192, 8)]),
    "at the start": ([0, 1], [(0, 32), (192, 8)]),
    "all but the last": (range(11), [(0, 176), (192, 8)]),
    "every other block": (range(0, 12, 2), [*[(32 * i, 16) for i in range(6)], (192, 8)]),
    "at the end, which is no hole": ([10, 11], [(160, 40)]),
    "in the middle and at the end": ([4, 11], [(64, 16), (176, 24)]),
    "everything": (range(12), [(0, 200)]),
}


def positions(steps, request):
    """(start, tokens) of the steps that computed the request's prompt."""
    rows = [step[request.request_id] for step in steps if request.request_id in step]
    return [(row.start, row.scheduled) for row in rows if row.start < request.num_prompt_tokens]


def after_losing(make_world, holes, prompt, **kwargs):
    """A world whose cache holds the prompt's full blocks except `holes`, and a second request for the same prompt."""
    world = make_world(**kwargs)
    world.serve(prompt, output_tokens=1)
    world.drop(prompt, holes)
    return world, world.add(prompt)


def prompt_of(count):
    from vllm_pensieve.testing.world import tokens

    return tokens(count)


@every_kind
@pytest.mark.parametrize("shape", SHAPES)
def test_the_position_stops_at_each_hole_and_jumps_over_what_is_kept(
    make_world, steps_in_flight, runner, shape
):
    holes, want = SHAPES[shape]
    world, request = after_losing(
        make_world, holes, prompt_of(200), steps_in_flight=steps_in_flight, runner=runner
    )
    assert positions(world.drain(), request) == want
    world.assert_answered(request)
    world.assert_sound()
    world.assert_nothing_left()


@every_kind
def test_a_hole_longer_than_the_token_budget_takes_several_steps(
    make_world, steps_in_flight, runner
):
    world, request = after_losing(
        make_world,
        [1, 2, 3, 8],
        prompt_of(200),
        steps_in_flight=steps_in_flight,
        runner=runner,
        step_tokens=24,
    )
    assert positions(world.drain(), request) == [(16, 24), (40, 24), (128, 16), (192, 8)]
    world.assert_answered(request)
    world.assert_sound()
    world.assert_nothing_left()


def test_the_long_prefill_threshold_limits_the_chunks_of_a_hole(make_world):
    world, request = after_losing(make_world, [1, 2, 3], prompt_of(200), long_prefill_tokens=20)
    beside = world.add([1, 2, 3], output_tokens=20)  # alone, a request is not limited
    assert positions(world.drain(), request) == [(16, 20), (36, 20), (56, 8), (192, 8)]
    world.assert_answered(request, beside)
    world.assert_sound()


def test_a_prompt_of_whole_blocks_still_computes_its_last_block(make_world):
    world, request = after_losing(make_world, [3], prompt_of(192))
    assert positions(world.drain(), request) == [(48, 16), (176, 16)]
    world.assert_answered(request)
    world.assert_sound()


def test_a_kept_stretch_that_is_not_worth_a_step_is_computed_with_its_neighbours(make_world):
    world, request = after_losing(
        make_world, [1, 2, 4, 5], prompt_of(200), settings={"step_cost_tokens": 40}
    )  # keeps [3], 16 tokens, and [6, 12), 96 tokens
    assert positions(world.drain(), request) == [(16, 80), (192, 8)]
    world.assert_answered(request)
    world.assert_sound()
    world.assert_nothing_left()


def test_without_recovery_everything_behind_the_first_missing_block_is_computed(make_world):
    world, request = after_losing(make_world, [4], prompt_of(200), settings={"recovery": False})
    assert positions(world.drain(), request) == [(64, 136)]
    world.assert_answered(request)
    world.assert_sound()
    world.assert_nothing_left()


def test_recomputed_blocks_are_cached_again(make_world):
    world, request = after_losing(make_world, [2, 3, 7], prompt_of(200))
    world.drain()
    assert world.cached(request.prompt_token_ids) == list(range(12))
    again = world.add(request.prompt_token_ids)
    assert positions(world.drain(), again) == [(192, 8)]
    world.assert_answered(again)


def test_a_chunk_is_cached_when_it_is_scheduled_and_not_before(make_world):
    prompt = prompt_of(200)
    world, _ = after_losing(make_world, [2, 3, 7], prompt, step_tokens=16)
    world.step()
    assert world.cached(prompt) == [0, 1, 2, 4, 5, 6, 8, 9, 10, 11]
    world.step()
    assert world.cached(prompt) == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11]


def test_a_walk_knows_what_it_still_has_to_compute(make_world):
    world, request = after_losing(make_world, [2, 3, 7], prompt_of(200), step_tokens=16)
    world.step()
    walk = world.walks[request.request_id]
    assert (walk.holes, walk.end, request.num_computed_tokens) == ([(32, 64), (112, 128)], 192, 48)
    world.step()
    assert (walk.holes, request.num_computed_tokens) == ([(112, 128)], 112)
    world.step()
    assert not world.walks and request.num_computed_tokens == 192


def test_waiting_for_memory_changes_nothing(make_world):
    prompt = prompt_of(200)
    world, request = after_losing(make_world, [2, 3, 7], prompt, blocks=40)
    world.occupy_unhashed_blocks(leave=0)
    before = (world.free_blocks, world.cached(prompt), request.num_computed_tokens)
    for _ in range(3):
        world.step()
        assert (world.free_blocks, world.cached(prompt), request.num_computed_tokens) == before
    world.assert_free_queue_intact()
    world.abort(request)
    assert not world.walks


# -- statistics ------------------------------------------------------------


@every_kind
def test_tokens_of_a_prompt_are_resident_recovered_or_new(make_world, steps_in_flight, runner):
    world = make_world(steps_in_flight=steps_in_flight, runner=runner)
    counts = world.scheduler.pensieve_stats.prompt_tokens
    prompt = prompt_of(200)
    world.serve(prompt, output_tokens=1)
    assert counts == {"resident": 0, "swapped": 0, "recovered": 0, "new": 200}
    world.drop(prompt, [2, 3, 7])
    world.serve(prompt)
    assert counts == {"resident": 144, "swapped": 0, "recovered": 48, "new": 208}


def test_a_stretch_computed_with_its_neighbours_counts_as_recovered(make_world):
    world, _ = after_losing(
        make_world, [1, 2, 4, 5], prompt_of(200), settings={"step_cost_tokens": 40}
    )
    world.drain()
    counts = world.scheduler.pensieve_stats.prompt_tokens
    assert counts == {"resident": 112, "swapped": 0, "recovered": 80, "new": 208}


def test_holes_are_no_hits_for_vllm_s_own_statistics(make_world):
    world, request = after_losing(make_world, [2, 3, 7], prompt_of(200), steps_in_flight=2)
    world.manager.make_prefix_cache_stats()
    world.step()
    hits = world.manager.make_prefix_cache_stats()
    assert (hits.requests, hits.queries, hits.hits) == (1, 200, 144)
    assert request.prefill_stats.num_local_cached_tokens == 144
    assert request.prefill_stats.num_computed_tokens == 56


def test_a_preempted_request_is_counted_once(make_world):
    world, request = after_losing(make_world, [2, 3, 7], prompt_of(200))
    world.step()
    world.preempt(request)
    world.drain()
    assert sum(world.scheduler.pensieve_stats.prompt_tokens.values()) == 400


def test_evictions_are_counted(make_world):
    world = make_world(blocks=30)
    world.serve(prompt_of(200), output_tokens=1)  # 12 of 29 blocks are cached now
    assert world.scheduler.pensieve_stats.evictions == {"host": 0, "dropped": 0}
    world.serve(prompt_of(320)[::-1], output_tokens=1)  # 20 blocks; 17 are empty
    assert world.scheduler.pensieve_stats.evictions == {"host": 0, "dropped": 3}


# -- interruptions ---------------------------------------------------------


@every_kind
@pytest.mark.parametrize("steps_before", [0, 1, 2, 3])
def test_a_request_may_be_aborted_anywhere_in_its_walk(
    make_world, steps_in_flight, runner, steps_before
):
    world, request = after_losing(
        make_world,
        [2, 3, 7],
        prompt_of(200),
        steps_in_flight=steps_in_flight,
        runner=runner,
        step_tokens=16,
    )
    for _ in range(steps_before):
        world.step()
    world.abort(request)
    assert not world.walks
    world.drain()
    world.assert_nothing_left()
    world.assert_answered(world.serve(request.prompt_token_ids))
    world.assert_sound()
    world.assert_nothing_left()


@every_kind
@pytest.mark.parametrize("drop_stale_output", [False, True])
@pytest.mark.parametrize("steps_before", [1, 2, 3])
def test_a_request_preempted_in_its_walk_starts_a_new_one(
    make_world, steps_in_flight, runner, steps_before, drop_stale_output
):
    world, request = after_losing(
        make_world,
        [2, 3, 7],
        prompt_of(200),
        steps_in_flight=steps_in_flight,
        runner=runner,
        step_tokens=16,
    )
    for _ in range(steps_before):
        world.step()
    world.preempt(request, drop_stale_output)
    assert not world.walks
    world.drain()
    world.assert_answered(request)
    world.assert_sound()
    world.assert_nothing_left()


@every_kind
def test_a_request_preempted_while_decoding_recovers_prompt_and_output(
    make_world, steps_in_flight, runner
):
    world = make_world(steps_in_flight=steps_in_flight, runner=runner)
    request = world.add(prompt_of(200), output_tokens=60)
    for _ in range(45):
        world.step()
    world.preempt(request)
    world.drop(request.all_token_ids[:], [1, 5, 13])  # block 13 holds output
    world.drain()
    assert world.scheduler.pensieve_stats.prompt_tokens["new"] == 200
    world.assert_answered(request)
    world.assert_sound()
    world.assert_nothing_left()
    assert world.device.jumps == 3


@every_kind
def test_the_cache_may_be_reset_in_the_middle_of_a_walk(make_world, steps_in_flight, runner):
    world, request = after_losing(
        make_world,
        [2, 3, 7],
        prompt_of(200),
        steps_in_flight=steps_in_flight,
        runner=runner,
        step_tokens=16,
    )
    world.step()
    assert world.scheduler.reset_prefix_cache(reset_running_requests=True)
    assert world.cached(request.prompt_token_ids) == []
    world.drain()
    world.assert_answered(request)
    world.assert_sound()
    world.assert_nothing_left()


# -- several requests ------------------------------------------------------


@every_kind
def test_a_hole_that_two_requests_of_a_step_share_is_computed_once(
    make_world, steps_in_flight, runner
):
    world, first = after_losing(
        make_world, [2, 3, 7], prompt_of(200), steps_in_flight=steps_in_flight, runner=runner
    )
    second = world.add([*prompt_of(200), 7, 8, 9])
    steps = world.drain()
    assert positions(steps, first) == [(32, 32), (112, 16), (192, 8)]
    assert positions(steps, second)[0] == (
        112,
        16,
    )  # blocks 2 and 3 are being computed by the first in this step
    world.assert_answered(first, second)
    world.assert_sound()
    world.assert_nothing_left()


@every_kind
def test_a_request_admitted_while_another_walks_the_same_holes(make_world, steps_in_flight, runner):
    prompt = prompt_of(200)
    world, first = after_losing(
        make_world,
        [*range(8), 10],
        prompt,
        steps_in_flight=steps_in_flight,
        runner=runner,
        step_tokens=40,
    )
    world.step()
    others = [world.add([*prompt, *range(1, 20)])]
    world.step()
    others.append(world.add([*prompt, 5]))
    world.drain()
    world.assert_answered(first, *others)
    world.assert_sound()
    world.assert_nothing_left()


@every_kind
def test_walks_decodes_and_prefills_share_a_step_within_its_token_budget(
    make_world, steps_in_flight, runner
):
    world = make_world(steps_in_flight=steps_in_flight, runner=runner, step_tokens=64)
    prompt = prompt_of(400)
    world.serve(prompt, output_tokens=1)
    world.drop(prompt, [*range(1, 9), *range(11, 20)])
    others = [world.add(prompt_of(20 + i)[::-1], output_tokens=30) for i in range(3)]
    for _ in range(3):
        world.step()
    walker = world.add(prompt)
    others.append(world.add(prompt_of(150)[::-1]))
    steps = world.drain()
    assert max(sum(row.scheduled for row in step.values()) for step in steps) == 64
    assert len([step for step in steps if walker.request_id in step and len(step) > 3]) > 2
    world.assert_answered(walker, *others)
    world.assert_sound()
    world.assert_nothing_left()


# -- admission -------------------------------------------------------------


@pytest.mark.parametrize(("whole_sequence_must_fit", "needed"), [(True, 13), (False, 12)])
@pytest.mark.parametrize("short_by", [0, 1])
def test_a_walk_is_admitted_when_its_blocks_fit_exactly(
    make_world, whole_sequence_must_fit, needed, short_by
):
    """12 blocks of prefix, 9 of them cached and free, and one for the rest, which the first step does not need."""
    world, request = after_losing(
        make_world,
        [2, 3, 7],
        prompt_of(200),
        blocks=40,
        whole_sequence_must_fit=whole_sequence_must_fit,
    )
    world.occupy_unhashed_blocks(leave=needed - 9 - short_by)
    assert world.free_blocks == needed - short_by
    world.step()
    if short_by:
        assert not world.scheduler.running
        assert world.free_blocks == needed - 1
    else:
        assert world.scheduler.running == [request]
        assert world.free_blocks == needed - 12
    world.assert_free_queue_intact()


def test_the_blocks_a_walk_keeps_are_not_evicted_for_its_own_holes(make_world):
    """All memory but the kept blocks is needed for the holes."""
    prompt = prompt_of(200)
    world, request = after_losing(make_world, range(11), prompt, blocks=14)
    kept = world.cached_block(prompt, 11)
    world.occupy_unhashed_blocks(leave=12)
    world.step()
    assert world.manager.get_block_ids(request.request_id)[0][11] == kept
    world.drain()
    world.assert_answered(request)
    world.assert_sound()
