"""Loads that would hold up others are made in stages: a few blocks a step, while the request computes other blocks."""

import pytest

KINDS = [(1, "v1"), (1, "v2"), (2, "v1"), (2, "v2")]
every_kind = pytest.mark.parametrize(("steps_in_flight", "runner"), KINDS)
LIMIT = 3  # blocks a step


@pytest.fixture
def prompt():
    from vllm_pensieve.testing.world import tokens

    return tokens(500)


def swapped_world(make_world, prompt, **kwargs):
    """A world whose host memory holds the prompt's 31 full blocks, and that computes for another request."""
    from vllm_pensieve.testing.world import tokens

    options = {"blocks": 120, "host_blocks": 300, "loads_per_step": LIMIT} | kwargs
    world = make_world(**options)
    world.serve(prompt, output_tokens=1)
    world.swap_out()
    other = world.add(tokens(20, seed=9), output_tokens=200)
    world.step()
    return world, other


def copied_by_each_step(world):
    """Has the number of blocks that each step's plan loads noted, from now on."""
    begin_step, counts = world.host.begin_step, []

    def noting(plan):
        counts.append(len(plan.loads) + len(plan.prefetches))
        return begin_step(plan)

    world.host.begin_step = noting
    return counts


@every_kind
def test_while_others_run_no_step_loads_more_than_its_share(
    make_world, prompt, steps_in_flight, runner
):
    world, other = swapped_world(make_world, prompt, steps_in_flight=steps_in_flight, runner=runner)
    counts = copied_by_each_step(world)
    request = world.add(prompt)
    others_steps = 0
    while not request.is_finished():
        others_steps += other.request_id in world.step()
    assert max(counts) == LIMIT and sum(counts) >= 25
    assert others_steps == len(counts), "the other request was part of every step"
    world.abort(other)
    world.drain()
    world.assert_answered(request)
    world.assert_sound()
    world.assert_nothing_left()
    counted = world.scheduler.pensieve_stats.prompt_tokens
    assert counted["swapped"] == 16 * sum(counts)
    assert counted["swapped"] + counted["recovered"] == 31 * 16


def test_alone_a_request_loads_everything_at_once(make_world, prompt):
    world, other = swapped_world(make_world, prompt)
    world.abort(other)
    world.drain()
    counts = copied_by_each_step(world)
    request = world.add(prompt)
    world.drain()
    assert [count for count in counts if count] == [31]
    world.assert_answered(request)


def test_when_the_others_have_finished_the_rest_is_loaded_at_once(make_world, prompt):
    world, other = swapped_world(make_world, prompt)
    counts = copied_by_each_step(world)
    request = world.add(prompt)
    world.step()
    world.step()
    world.abort(other)
    world.drain()
    assert counts[:2] == [LIMIT, LIMIT] and counts[2] == max(counts) > 20
    world.assert_answered(request)
    world.assert_nothing_left()


def test_the_limit_is_the_time_that_copies_take(make_world, prompt):
    world, _ = swapped_world(make_world, prompt, settings={"load_ms_per_step": 40.0})
    assert world.scheduler._loads_per_step == 2 * LIMIT
    world, _ = swapped_world(make_world, prompt, settings={"load_ms_per_step": 0.0})
    counts = copied_by_each_step(world)
    world.serve(prompt)
    assert max(counts) == 31


@every_kind
@pytest.mark.parametrize("end", ["abort", "preempt", "preempt and drop"])
@pytest.mark.parametrize("steps_before", range(1, 6))
def test_a_request_may_lose_its_place_between_two_stages(
    make_world, prompt, steps_in_flight, runner, end, steps_before
):
    world, other = swapped_world(make_world, prompt, steps_in_flight=steps_in_flight, runner=runner)
    request = world.add(prompt)
    for _ in range(steps_before):
        world.step()
    assert request.request_id in world.walks
    if end == "abort":
        world.abort(request)
    else:
        world.preempt(request, drop_stale_output=end == "preempt and drop")
    assert not world.walks and not world.swapper.host._holders
    again = world.add(prompt)
    world.abort(other)
    world.drain()
    world.assert_answered(*([again] if end == "abort" else [request, again]))
    world.assert_sound()
    world.assert_nothing_left()


@every_kind
def test_two_requests_may_wait_for_the_same_copies(make_world, prompt, steps_in_flight, runner):
    world, other = swapped_world(make_world, prompt, steps_in_flight=steps_in_flight, runner=runner)
    first = world.add(prompt)
    world.step()
    second = world.add(prompt)
    world.step()
    assert {first.request_id, second.request_id} <= set(world.walks)
    world.abort(first)
    world.drain()
    world.assert_answered(second, other)
    world.assert_sound()
    world.assert_nothing_left()


@every_kind
def test_short_returns_do_not_starve_a_long_one(make_world, prompt, steps_in_flight, runner):
    """At every step another session comes back whose copies would take all that a step may load."""
    from vllm_pensieve.testing.world import tokens

    short = [tokens(60, seed=100 + i) for i in range(40)]
    world = make_world(
        blocks=400,
        host_blocks=400,
        loads_per_step=LIMIT,
        steps_in_flight=steps_in_flight,
        runner=runner,
    )
    for own in (prompt, *short):
        world.serve(own, output_tokens=1)
    world.swap_out()
    world.add(tokens(20, seed=9), output_tokens=100)
    world.step()
    request = world.add(prompt, output_tokens=1)
    steps = 0
    for own in short:
        world.add(own, output_tokens=1)
        world.step()
        steps += 1
        if request.is_finished():
            break
    assert request.is_finished() and steps <= 2 * 31
    world.drain()
    world.assert_answered(*world.requests[-steps:])
    world.assert_sound()


@every_kind
def test_what_gives_way_to_a_long_load_is_stored_in_stages_too(
    make_world, prompt, steps_in_flight, runner
):
    from vllm_pensieve.testing.world import tokens

    world = make_world(
        blocks=45,
        host_blocks=300,
        loads_per_step=LIMIT,
        steps_in_flight=steps_in_flight,
        runner=runner,
        settings={"ahead_of_time_threshold": 0.0},
    )
    sessions = [prompt, tokens(500, seed=1)]
    for own in sessions:
        world.serve(own, output_tokens=1)
    other = world.add(tokens(20, seed=9), output_tokens=150)
    world.step()
    begin_step, counts = world.host.begin_step, []

    def noting(plan):
        copies = (plan.stores, plan.loads, plan.prefetches, plan.ahead)
        counts.append(sum(map(len, copies)))
        return begin_step(plan)

    world.host.begin_step = noting
    stored = world.host.stored
    for own in sessions:  # each takes the place of the other
        request = world.add(own, output_tokens=1)
        while not request.is_finished():
            world.step()
        world.assert_answered(request)
    assert max(counts) <= 2 * LIMIT and world.host.stored > stored + 10
    world.abort(other)
    world.drain()
    world.assert_sound()
    assert not world.falsely_stored_slots()
    world.assert_nothing_left()


@every_kind
def test_a_copy_is_made_at_once_for_whoever_reads_it_first(
    make_world, prompt, steps_in_flight, runner
):
    """While one session waits for copies, the one that gave way to it comes back: its copies are not made yet."""
    from vllm_pensieve.testing.world import tokens

    world = make_world(
        blocks=80,
        host_blocks=300,
        loads_per_step=LIMIT,
        steps_in_flight=steps_in_flight,
        runner=runner,
        settings={"ahead_of_time_threshold": 0.0, "load_cost_flops_per_byte": 1e-9},
    )
    sessions = [prompt, *(tokens(500, seed=i) for i in range(1, 4))]
    for own in sessions:
        world.serve(own, output_tokens=1)
    other = world.add(tokens(20, seed=9), output_tokens=300)
    world.step()
    requests = []
    for own in sessions:
        requests.append(world.add(own, output_tokens=1))
        for _ in range(3):
            world.step()
    world.drain()
    world.assert_answered(other, *requests)
    world.assert_sound()
    assert not world.falsely_stored_slots()
    world.assert_nothing_left()


@every_kind
def test_copies_that_turn_out_bad_while_a_request_waits_for_them(
    make_world, prompt, steps_in_flight, runner
):
    world, other = swapped_world(make_world, prompt, steps_in_flight=steps_in_flight, runner=runner)
    request = world.add(prompt)
    world.step()
    world.host.fail_loads = 1.0
    world.step()
    world.step()
    world.host.fail_loads = 0.0
    world.abort(other)
    world.drain()
    assert world.host.failed_loads
    world.assert_answered(request)
    assert not world.falsely_cached_blocks()
    world.assert_nothing_left()


def test_a_held_copy_that_is_given_up_is_not_replaced_while_it_is_held(make_world, prompt):
    world, other = swapped_world(make_world, prompt, host_blocks=40)
    request = world.add(prompt)
    world.step()
    pending = list(world.walks[request.request_id].slots[-4:])
    world.scheduler._discard(pending)
    assert request.request_id not in world.walks, "it begins again without them"
    world.drain()
    world.assert_answered(request, other)
    world.assert_sound()
    world.assert_nothing_left()


@every_kind
def test_routers_hear_of_a_block_when_it_is_there(make_world, prompt, steps_in_flight, runner):
    """Not when the hole before it is computed, while it still waits for its copy."""
    world, other = swapped_world(
        make_world, prompt, steps_in_flight=steps_in_flight, runner=runner, kv_events=True
    )
    request = world.add(prompt)
    while not request.is_finished():
        world.step()
        world.manager.take_events()
        world.pool.announcer.check_integrity()
    world.abort(other)
    world.drain()
    world.assert_answered(request)


@pytest.mark.parametrize("seed", [*range(6), 349])
def test_sessions_that_take_each_others_places_before_copies_are_made(make_world, seed):
    """With seed 349 a load reads the copy of a block that its own request was to have stored alongside the step."""
    from random import Random

    from vllm_pensieve.testing.world import tokens

    random = Random(seed)
    world = make_world(
        blocks=random.choice([50, 60, 80]),
        host_blocks=random.choice([30, 60, 120]),
        loads_per_step=random.choice([1, 2, 5]),
        max_requests=4,
        policy=random.choice(["fcfs", "priority"]),
        settings={"ahead_of_time_threshold": 0.0, "load_cost_flops_per_byte": 1e-9},
    )
    sessions = [tokens(300, seed=i) for i in range(4)]
    for own in sessions:
        world.serve(own, output_tokens=1)
    requests = [world.add(tokens(20, seed=9), output_tokens=200)]
    for _ in range(25):
        history = random.choice(sessions)[: random.choice([150, 300])]
        message = tokens(random.randrange(40), seed=random.randrange(99))
        output_tokens = random.randrange(1, 30)
        requests.append(world.add(history + message, output_tokens, priority=random.randrange(3)))
        for _ in range(random.randrange(5)):
            world.step()
        running = world.scheduler.running
        if running and random.random() < 0.3:
            world.preempt(random.choice(running))
    world.drain()
    world.assert_answered(*requests)
    world.assert_sound()
    world.assert_nothing_left()
