"""Layers whose blocks differ in size: the scheduler knows the first layer only, and decides as its workers do."""

import pytest

KINDS = [(1, "v1"), (1, "v2"), (2, "v1"), (2, "v2")]


@pytest.fixture
def two_sizes(make_world):
    """A world of such layers, with 300 blocks in host memory."""
    from vllm_pensieve.testing.kv_cache import layers_of_two_sizes

    def make(**options):
        return make_world(
            cache_group=layers_of_two_sizes(), **({"blocks": 80, "host_blocks": 300} | options)
        )

    return make


def test_a_block_is_as_large_as_all_its_layers(two_sizes):
    from vllm.v1.kv_cache_interface import FullAttentionSpec

    from vllm_pensieve.vllm_hooks.sizes import block_bytes

    world = two_sizes()
    (group,) = world.scheduler.kv_cache_config.kv_cache_groups
    assert type(group.kv_cache_spec) is FullAttentionSpec, "the scheduler's copy has one layer's"
    assert group.kv_cache_spec.page_size_bytes == 16 * 2 * 4
    assert block_bytes(world.scheduler.kv_cache_config) == 16 * 2 * 4 + 16 * 6 * 2
    assert world.scheduler.connector.num_slots == world.host.slots.shape[0] == 300


@pytest.mark.parametrize("host_blocks", [0, 300])
@pytest.mark.parametrize(("steps_in_flight", "runner"), KINDS)
def test_no_answer_is_wrong_whatever_is_dropped_swapped_or_aborted(
    two_sizes, host_blocks, steps_in_flight, runner
):
    from vllm_pensieve.testing.traffic import Traffic

    world = two_sizes(host_blocks=host_blocks, steps_in_flight=steps_in_flight, runner=runner)
    counts = Traffic(world, seed=1, eviction_chance=0.3).play()
    world.assert_sound()
    assert counts.wrong == 0 and counts.finished > 60
    sources = world.scheduler.pensieve_stats.prompt_tokens
    assert sources["recovered"] > 100
    assert (sources["swapped"] > 100) == bool(host_blocks)
    world.assert_nothing_left()


def test_all_four_sources_in_one_prompt(two_sizes):
    from vllm.v1.core.kv_cache_utils import make_block_hash_with_group_id

    from vllm_pensieve.testing.world import tokens

    prompt = tokens(200)
    world = two_sizes(settings={"load_cost_flops_per_byte": 1e-9})
    world.serve(prompt)
    world.swap_out()
    world.serve([*prompt[:64], 1], output_tokens=1)
    hashes = world.request(prompt).block_hashes
    host = world.swapper.host
    host.discard([host.find(make_block_hash_with_group_id(hashes[i], 0)) for i in (6, 7)])
    before = dict(world.scheduler.pensieve_stats.prompt_tokens)
    world.assert_answered(world.serve(prompt + tokens(30, seed=5)))
    now = world.scheduler.pensieve_stats.prompt_tokens
    assert {source: now[source] - before[source] for source in now} == {
        "resident": 64,
        "swapped": 6 * 16,
        "recovered": 32,
        "new": 230 - 192,
    }
    world.assert_sound()
