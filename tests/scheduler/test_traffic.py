"""Random conversations: no read of another prefix, no slot with two writers, nothing left behind."""

import random

import pytest

KINDS = [(1, "v1"), (1, "v2"), (2, "v1"), (2, "v2")]
every_kind = pytest.mark.parametrize(("steps_in_flight", "runner"), KINDS)


def play(make_world, seeds, world_options, **traffic_options):
    """Play the seeds in worlds of varying size; return the summed counts, recovered tokens and position jumps."""
    from vllm_pensieve.testing.traffic import Counts, Traffic

    counts, recovered, jumps = Counts(), 0, 0
    for seed in seeds:
        vary = random.Random(seed)
        size = {
            "blocks": vary.choice([80, 140, 300]),
            "step_tokens": vary.choice([24, 40, 128]),
            "max_requests": vary.choice([3, 8, 16]),
            "long_prefill_tokens": vary.choice([0, 0, 33]),
        }
        world = make_world(**(size | world_options))
        counts += Traffic(world, seed, **traffic_options).play()
        world.assert_sound()
        world.assert_nothing_left()
        world.scheduler.sessions.check_integrity()
        recovered += world.scheduler.pensieve_stats.prompt_tokens["recovered"]
        jumps += world.device.jumps
    return counts, recovered, jumps


@every_kind
@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_every_answer_is_right_whatever_is_evicted_aborted_or_preempted(
    make_world, steps_in_flight, runner, policy
):
    counts, recovered, jumps = play(
        make_world,
        range(4),
        {"steps_in_flight": steps_in_flight, "runner": runner, "policy": policy},
        priorities=3 if policy == "priority" else 1,
    )
    assert counts.wrong == 0
    assert counts.finished > 200
    assert recovered > 1_000 and jumps > 50, "the traffic must exercise recovery"
    assert counts.preempted_in_walk > 5


@every_kind
@pytest.mark.parametrize("eviction_policy", ["retention", "lru", "fifo"])
def test_memory_pressure_alone_with_each_eviction_policy(
    make_world, steps_in_flight, runner, eviction_policy
):
    counts, _, _ = play(
        make_world,
        range(10, 12),
        {
            "steps_in_flight": steps_in_flight,
            "runner": runner,
            "blocks": 70,
            "settings": {"eviction_policy": eviction_policy},
        },
        eviction_chance=0,
        abort_chance=0,
        preemption_chance=0,
        arrival_chance=0.9,
    )
    assert (counts.wrong, counts.finished) == (0, 200)


@every_kind
def test_coalesced_holes_stay_exact(make_world, steps_in_flight, runner):
    counts, recovered, _ = play(
        make_world,
        range(20, 24),
        {
            "steps_in_flight": steps_in_flight,
            "runner": runner,
            "blocks": 300,
            "settings": {"step_cost_tokens": 48},
        },
        preemption_chance=0,
    )
    assert counts.wrong == 0
    assert recovered > 500


@pytest.mark.parametrize("host_blocks", [0, 40])
@pytest.mark.parametrize("share", [3, 20])
def test_blocks_that_leave_ahead_of_need_spoil_nothing(make_world, monkeypatch, host_blocks, share):
    """In small worlds no spare blocks leave; here a good part of memory does each time."""
    from vllm_pensieve.scheduler import block_pool
    from vllm_pensieve.testing.traffic import Traffic

    monkeypatch.setattr(block_pool, "SPARE_SHARE", share)
    for seed in range(3):
        world = make_world(blocks=100, host_blocks=host_blocks, step_tokens=64)
        counts = Traffic(world, seed, requests=60).play()
        assert counts.finished and not counts.wrong
        world.assert_sound()
        world.assert_nothing_left()
