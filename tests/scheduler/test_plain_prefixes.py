"""Configurations without recovery: stock's contiguous prefixes, and a reason that says so."""

import pytest


@pytest.fixture
def prompt():
    from vllm_pensieve.testing.world import tokens

    return tokens(230)


def test_a_plain_model_has_no_reason(make_world):
    assert make_world().scheduler.plain_prefixes_because is None


def test_recovery_switched_off_is_a_reason(make_world):
    assert "recovery" in make_world(settings={"recovery": False}).scheduler.plain_prefixes_because


def test_sliding_window_layers_are_a_reason_and_are_scheduled_as_stock_does(make_world, prompt):
    import torch
    from vllm.v1.kv_cache_interface import SlidingWindowSpec

    from vllm_pensieve.scheduler import make_scheduler
    from vllm_pensieve.testing.kv_cache import BLOCK_TOKENS
    from vllm_pensieve.testing.world import stock_scheduler

    window = SlidingWindowSpec(
        block_size=BLOCK_TOKENS, num_kv_heads=1, head_size=1, dtype=torch.float32, sliding_window=64
    )
    schedules = []
    for scheduler in (make_scheduler, stock_scheduler):
        world = make_world(cache_group=window, step_tokens=100, scheduler=scheduler)
        for turn in (prompt[:150], prompt):
            world.add(turn, name=f"turn of {len(turn)}")
        steps = world.drain()
        schedules.append(
            [{name: (row.start, row.scheduled) for name, row in step.items()} for step in steps]
        )
        if scheduler is make_scheduler:
            assert "sliding window" in world.scheduler.plain_prefixes_because
    assert schedules[0] == schedules[1]


@pytest.mark.parametrize("asynchronously", [False, True])
@pytest.mark.parametrize(
    "holes", [[0, 1, 5], [2, 3, 5]], ids=["leading hole", "holes in the middle"]
)
def test_a_connector_s_tail_follows_the_contiguous_prefix(
    make_world, prompt, asynchronously, holes
):
    from tests.scheduler.connector import bringing

    world = make_world(connector=bringing(tokens=32, asynchronously=asynchronously))
    world.scheduler.connector.device = world.device
    assert "connector" in world.scheduler.plain_prefixes_because
    world.scheduler.connector.loaded.add("first")
    world.serve(prompt[:161], output_tokens=1, name="first")
    world.drop(prompt[:161], holes)
    request = world.add(prompt)
    rows, received = [], not asynchronously
    while world.busy:
        loading = request.status.name == "WAITING_FOR_REMOTE_KVS"
        step = world.step(received=[request.request_id] if loading and not received else [])
        received |= loading
        rows += step.values()
    assert rows[0].start == 16 * holes[0] + 32
    world.assert_answered(request)
    world.assert_sound()
    world.assert_nothing_left()
