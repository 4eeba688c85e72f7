"""Two long conversations in turn, memory for one and a half: what is kept is used."""

import pytest

BLOCK = 16
TURNS = 8
HISTORY, TURN = 400, 40


def play(make_world, *, host_blocks=0, one_shots=False, **settings):
    """Tokens computed and found by each turn after the first of each conversation, and the world."""
    from vllm_pensieve.testing.world import tokens

    conversation = -(-(HISTORY + TURNS * (TURN + 4)) // BLOCK)
    world = make_world(
        blocks=conversation * 3 // 2 + 1,
        host_blocks=host_blocks,
        settings={"step_cost_tokens": 0, "load_cost_flops_per_byte": 1e-9} | settings,
    )
    clock = world.scheduler._clock
    clock._now_s = 0.0
    clock.tick = lambda: setattr(clock, "_now_s", clock._now_s + 1.0)  # a step takes a second
    histories = [tokens(HISTORY, seed=seed) for seed in (1, 2)]
    counts = world.scheduler.pensieve_stats.prompt_tokens
    turns = []
    for turn in range(TURNS):
        for which, history in enumerate(histories):
            before = dict(counts)
            request = world.serve(history, output_tokens=4)
            world.assert_answered(request)
            if turn:
                computed = counts["recovered"] + counts["new"] - before["recovered"] - before["new"]
                turns.append((computed, len(history) - computed))
            history += [*request.output_token_ids, *tokens(TURN, seed=100 * turn + which)]
            if one_shots:
                world.serve(tokens(40, seed=10_000 + 10 * turn + which), output_tokens=2)
    world.assert_sound()
    return turns


@pytest.mark.parametrize("policy", ["retention", "lru", "fifo"])
def test_without_host_memory_half_of_each_history_is_found(make_world, policy):
    for computed, found in play(make_world, eviction_policy=policy):
        assert found >= computed - TURN - BLOCK


def test_with_host_memory_nothing_is_computed_twice(make_world):
    for one_shots in (False, True):
        for computed, _ in play(make_world, host_blocks=200, one_shots=one_shots):
            assert computed <= TURN + 4 + BLOCK


def test_a_short_prompt_in_between_costs_no_more_than_the_blocks_it_takes(make_world):
    without, beside = play(make_world), play(make_world, one_shots=True)
    taken = -(-42 // BLOCK) * BLOCK
    for (computed, _), (computed_beside, found) in zip(without, beside, strict=True):
        assert found > 0
        assert computed_beside <= computed + 2 * taken  # one before each conversation's return
