"""KV events: what a router believes is what the engine serves."""

import random

import pytest

KINDS = [(1, "v1"), (2, "v2")]
every_kind = pytest.mark.parametrize(("steps_in_flight", "runner"), KINDS)


@pytest.fixture
def prompt():
    from vllm_pensieve.testing.world import tokens

    return tokens(200)  # 12 full blocks


@pytest.fixture
def make(make_world):
    """make(...): a world that publishes, and a router that hears it."""
    from vllm_pensieve.testing.router import Router

    def start(**options):
        world = make_world(kv_events=True, **options)
        return world, Router(world)

    return start


def cached_by(world, prompt):
    """Tokens of the prompt that the engine reports as cached when it is served now."""
    from tests.scheduler.collected import Collected

    return (
        Collected(world).prefills[world.serve(prompt, output_tokens=1).request_id].num_cached_tokens
    )


# -- in GPU memory


def test_a_block_is_taken_back_with_its_last_copy(make):
    from vllm_pensieve.testing.world import tokens

    world, router = make()
    prompt = tokens(64)
    for _ in range(
        2
    ):  # the last block is computed again, for the logits of its last token: two copies of it
        world.serve(prompt, output_tokens=1)
    longer = [*prompt, 1]
    assert router.predicts(longer) == 64
    world.pool.evict_blocks({world.cached_block(prompt, 3)})
    world.serve(tokens(20, seed=9))
    assert world.cached_block(prompt, 3) is not None and router.predicts(longer) == 64
    world.pool.evict_blocks({world.cached_block(prompt, 3)})
    world.serve(tokens(20, seed=9))
    assert world.cached_block(prompt, 3) is None and router.predicts(longer) == 48


@every_kind
def test_what_stands_behind_a_hole_is_announced_again_when_the_hole_is_computed(
    make, prompt, steps_in_flight, runner
):
    world, router = make(steps_in_flight=steps_in_flight, runner=runner)
    world.serve(prompt)
    world.drop(prompt, [2, 3, 7])
    world.serve([1, 2, 3])
    assert router.predicts(prompt) == router.tree_predicts(prompt) == 32
    router.events.clear()
    world.serve(prompt)
    assert router.predicts(prompt) == router.tree_predicts(prompt) == 192
    stored = [block for event in router.events for block in event.block_hashes]
    assert stored[:10] == router.blocks(prompt)[2:], "in order, the resident ones among them"


def test_a_request_that_asks_for_it_has_its_whole_prefix_announced(make, prompt):
    world, router = make()
    world.serve(prompt)
    world.drop(prompt, [2])
    router.events.clear()
    request = world.request(prompt)
    request.kv_cache_report_mode = "full"
    world.scheduler.add_request(request)
    world.drain()
    stored = {block for event in router.events for block in event.block_hashes}
    assert stored >= set(router.blocks(prompt))


def test_sessions_salts_and_kinds_are_told(make, prompt):
    world, router = make(host_blocks=300, blocks=40)
    world.serve(prompt, session_id="alice", cache_salt="s1")
    world.serve(prompt, session_id="bob", cache_salt="s2")
    world.swap_out()
    world.serve([1, 2, 3])
    for medium in ("GPU", "CPU"):
        told = [event for event in router.events if getattr(event, "medium", None) == medium]
        of_alice = [event for event in told if getattr(event, "session_id", None) == "alice"]
        assert any(event.extra_keys and event.extra_keys[0] == ("s1",) for event in of_alice)
        assert {event.kv_cache_spec_kind for event in of_alice} == {"full_attention"}
    assert (
        router.predicts(prompt, cache_salt="s1") == router.predicts(prompt, cache_salt="s2") == 192
    )
    assert router.predicts(prompt) == 0


# -- in host memory


@every_kind
def test_copies_in_host_memory_are_told_with_their_medium(make, prompt, steps_in_flight, runner):
    world, router = make(blocks=80, host_blocks=300, steps_in_flight=steps_in_flight, runner=runner)
    world.serve(prompt)
    world.swap_out()
    world.serve([1, 2, 3])
    assert router.predicts(prompt, "GPU") == 0
    assert router.predicts(prompt, "CPU") == router.tree_predicts(prompt) == 192
    assert cached_by(world, prompt) == 192
    assert router.predicts(prompt, "GPU") == 192
    world.swapper.host.clear()
    world.serve([1, 2, 3])
    assert not router.known["CPU"]
    assert router.predicts(prompt, "GPU") == cached_by(world, prompt) == 192


def test_what_is_cheaper_to_compute_than_to_load_is_not_announced(make, prompt):
    world, router = make(blocks=80, host_blocks=300, settings={"load_cost_flops_per_byte": 1e12})
    world.serve(prompt)
    world.swap_out()
    world.serve([1, 2, 3])
    assert len(world.swapped(prompt)) == 12
    assert not router.known["CPU"] and router.predicts(prompt) == cached_by(world, prompt) == 0


def test_what_is_loaded_behind_a_hole_is_announced_when_the_hole_is_computed(make, prompt):
    from tests.scheduler.test_swapping import forget

    world, router = make(blocks=80, host_blocks=300, step_tokens=16)
    world.serve(prompt)
    world.swap_out()
    forget(world, prompt, [0, 1])
    world.serve([1, 2, 3])
    assert router.predicts(prompt) == router.tree_predicts(prompt) == 0
    world.add(prompt)
    world.step()  # the first of two steps for the hole; the rest of the prefix is loaded
    assert router.predicts(prompt, "GPU") == 16
    world.drain()
    assert router.predicts(prompt, "GPU") == router.tree_predicts(prompt) == 192
    assert cached_by(world, prompt) == 192


def test_a_copy_that_cannot_be_loaded_is_taken_back(make, prompt):
    world, router = make(blocks=80, host_blocks=300)
    world.serve(prompt)
    world.swap_out()
    world.host.fail_loads = 1.0
    world.serve(prompt)
    assert router.predicts(prompt, "CPU") == 0
    assert router.predicts(prompt, "GPU") == cached_by(world, prompt) == 192


# -- altogether


def test_a_reset_takes_everything_back_with_one_event(make, prompt):
    world, router = make(blocks=80, host_blocks=300)
    world.serve(prompt)
    world.swap_out()
    world.serve(prompt[:100])
    router.events.clear()
    assert world.scheduler.reset_prefix_cache()
    world.serve([1, 2, 3], output_tokens=1)
    assert [type(event).__name__ for event in router.events] == ["AllBlocksCleared"]
    assert router.predicts(prompt) == cached_by(world, prompt) == 0
    assert router.predicts(prompt) == 192


@every_kind
@pytest.mark.parametrize(
    ("host_blocks", "loaded_from"), [(0, 0), (40, 0), (300, 0), (40, 6), (300, 6)]
)
def test_a_router_never_expects_more_than_the_engine_then_reports(
    make, steps_in_flight, runner, host_blocks, loaded_from
):
    """loaded_from: the first block that it is cheaper to load than to compute."""
    from vllm_pensieve.testing.traffic import Traffic

    world, router = make(
        blocks=60,
        host_blocks=host_blocks,
        max_requests=6,
        step_tokens=48,
        steps_in_flight=steps_in_flight,
        runner=runner,
        settings={"load_cost_flops_per_byte": load_cost(make, loaded_from)},
    )
    announcer = world.pool.announcer
    expected = 0
    for seed in range(4):
        if world.host is not None:
            world.host.fail_loads = world.host.fail_stores = 0.1 * (seed % 2)
        traffic = Traffic(world, seed, requests=25)
        traffic.play()
        if world.host is not None:
            world.host.fail_loads = 0.0
        announcer.check_integrity()
        for session in random.Random(seed).sample(traffic.sessions, 4):
            predicted = router.predicts(session)
            assert router.tree_predicts(session) <= predicted <= cached_by(world, session)
            expected += predicted
            # Whatever happened before, what has just been used is known.
            assert router.predicts(session, "GPU") == len(router.blocks(session)) * 16
    assert expected > 0
    if world.host is not None:
        world.swapper.host.clear()
    world.serve([1, 2, 3])
    assert not router.known["CPU"]
    assert len(announcer._descriptions) == len(world.pool.cached_block_hash_to_block)


def load_cost(make, loaded_from):
    """FLOPs for each byte with which blocks are loaded from this one on."""
    if not loaded_from:
        return 1e-9
    world, _ = make(host_blocks=10)
    cost = (
        world.manager._costs.recompute(loaded_from - 1, loaded_from) / world.scheduler._block_bytes
    )
    of_ours, _ = make(host_blocks=10, settings={"load_cost_flops_per_byte": cost})
    assert of_ours.manager._costs.first_worth_loading(40) == loaded_from
    return cost
