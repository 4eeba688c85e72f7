"""A request that is already part of a step may lose its place in it to a more important one.

vLLM hashes blocks when their computation is scheduled. When the request is then taken out of the step, what was hashed
for it will never be computed; stock vLLM leaves it in the cache, where the next request with this prefix finds it.
"""

import pytest

PROMPT_TOKENS, STEP_TOKENS, CHUNK_TOKENS = 260, 100, 80
LOST = [0, 1, 2, 3, 4, 5, 6, 7, 10, 11]  # of 16 blocks
MEMORY = range(18, 28)  # blocks; the whole prompt and its output need 17


def false_blocks(make_world, blocks, *, session=False, break_scheduler=None, **options):
    """Blocks falsely cached after any step while four important requests outgrow the memory of an unimportant one."""
    from vllm_pensieve.testing.world import tokens

    world = make_world(
        blocks=blocks,
        step_tokens=STEP_TOKENS,
        long_prefill_tokens=CHUNK_TOKENS,
        policy="priority",
        **options,
    )
    if break_scheduler:
        break_scheduler(world.scheduler)
    prompt = tokens(PROMPT_TOKENS)
    if session:
        world.serve(prompt, output_tokens=1)
        world.drop(prompt, LOST)
    requests = [world.add(prompt, priority=9, arrival_time=1.0)]
    world.step()
    requests += [
        world.add(tokens(16, seed=i), 3, priority=0, arrival_time=2.0 + i) for i in range(1, 5)
    ]
    false = set()
    while world.busy:
        world.step()
        false |= world.falsely_cached_blocks()
    if not false:
        world.assert_answered(*requests)
        world.assert_sound()
    return false


def test_stock_vllm_leaves_blocks_in_the_cache_that_were_never_computed(make_world):
    from vllm_pensieve.testing.world import stock_scheduler

    assert [
        blocks for blocks in MEMORY if false_blocks(make_world, blocks, scheduler=stock_scheduler)
    ] == [20]


@pytest.mark.parametrize(
    ("session", "found"), [(False, [20]), (True, [18, 19, 20, 21, 22, 23, 24])]
)
def test_without_our_hook_the_same_happens_to_us(make_world, session, found):
    from vllm_pensieve.testing.breaks import keep_hashes_at_preemption

    assert [
        blocks
        for blocks in MEMORY
        if false_blocks(
            make_world, blocks, session=session, break_scheduler=keep_hashes_at_preemption
        )
    ] == found


@pytest.mark.parametrize("blocks", MEMORY)
@pytest.mark.parametrize("session", [False, True], ids=["ordinary prefill", "walk"])
def test_what_a_preempted_request_would_have_computed_is_not_cached(make_world, session, blocks):
    assert not false_blocks(make_world, blocks, session=session)


@pytest.mark.parametrize("session", [False, True], ids=["ordinary prefill", "walk"])
@pytest.mark.parametrize(("steps_in_flight", "runner"), [(1, "v2"), (2, "v1"), (2, "v2")])
def test_nor_with_steps_in_flight_or_the_v2_runner(make_world, session, steps_in_flight, runner):
    for blocks in MEMORY:
        assert not false_blocks(
            make_world, blocks, session=session, steps_in_flight=steps_in_flight, runner=runner
        )
