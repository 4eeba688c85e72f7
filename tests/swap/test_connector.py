"""A worker that holds other blocks than the scheduler counts on is found at start, or never served from."""

import pytest
import torch


@pytest.fixture(scope="module")
def world(tiny_model):
    """With 300 blocks in host memory."""
    from vllm_pensieve.testing.world import World

    return World(tiny_model, blocks=80, host_blocks=300)


@pytest.fixture
def scheduler_side(world):
    return world.scheduler.connector


def worker_side(world, spec):
    """The connector of a worker whose layers are these."""
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole

    from vllm_pensieve.swap.connector import PensieveConnector
    from vllm_pensieve.testing.kv_cache import attention_spec, worker_kv_cache_config

    config = worker_kv_cache_config(80, spec or attention_spec())
    return PensieveConnector(world.scheduler.vllm_config, KVConnectorRole.WORKER, config)


def test_workers_with_as_many_blocks_are_taken(world, scheduler_side):
    worker = worker_side(world, None)
    assert worker.num_slots == 300
    scheduler_side.set_xfer_handshake_metadata_pp_aware({(0, 0): worker.get_handshake_metadata()})


def test_a_worker_with_a_layer_that_the_scheduler_cannot_see_is_refused_with_the_reason(
    world, scheduler_side
):
    from vllm.v1.kv_cache_interface import UniformTypeKVCacheSpecs

    from vllm_pensieve.swap.connector import HostTierMismatchError
    from vllm_pensieve.testing.kv_cache import BLOCK_TOKENS, attention_spec

    class NewKindOfSpec(type(attention_spec())):
        pass

    new = NewKindOfSpec(block_size=BLOCK_TOKENS, num_kv_heads=1, head_size=1, dtype=torch.float32)
    layers = {"first": attention_spec(), "second": new}
    worker = worker_side(
        world, UniformTypeKVCacheSpecs(block_size=BLOCK_TOKENS, kv_cache_specs=layers)
    )
    told = {(0, 0): worker_side(world, None).get_handshake_metadata()}
    told[0, 1] = worker.get_handshake_metadata()
    with pytest.raises(HostTierMismatchError) as error:
        scheduler_side.set_xfer_handshake_metadata_pp_aware(told)
    assert "counts on 300 blocks" in str(error.value)
    assert "tensor rank 1 holds 0, because the model has other cache groups" in str(error.value)
    assert "start without host_cache_gib" in str(error.value)


def test_a_worker_with_larger_blocks_is_refused(world, scheduler_side):
    from vllm_pensieve.swap.connector import HostTierMismatchError
    from vllm_pensieve.testing.kv_cache import attention_spec

    told = {(0, 0): worker_side(world, attention_spec(head_size=3)).get_handshake_metadata()}
    with pytest.raises(HostTierMismatchError, match="holds 100;"):
        scheduler_side.set_xfer_handshake_metadata_pp_aware(told)


def test_a_worker_that_says_nothing_is_refused(scheduler_side):
    from vllm_pensieve.swap.connector import HostTierMismatchError

    with pytest.raises(HostTierMismatchError, match="0 of 1 workers"):
        scheduler_side.set_xfer_handshake_metadata_pp_aware({})


def test_pipeline_stages_without_a_host_tier_agree(world, monkeypatch):
    """Prefixes are plain there; vLLM's own check would refuse any connector."""
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole

    from vllm_pensieve.swap.connector import PensieveConnector
    from vllm_pensieve.testing.kv_cache import attention_spec, worker_kv_cache_config

    vllm_config = world.scheduler.vllm_config
    monkeypatch.setattr(vllm_config.parallel_config, "pipeline_parallel_size", 2)
    config = worker_kv_cache_config(80, attention_spec())
    scheduler, worker = (
        PensieveConnector(vllm_config, role, config)
        for role in (KVConnectorRole.SCHEDULER, KVConnectorRole.WORKER)
    )
    told = worker.get_handshake_metadata()
    assert told.num_slots == 0 and "pipeline" in told.plain_because
    scheduler.set_xfer_handshake_metadata_pp_aware({(0, 0): told, (1, 0): told})


def test_without_host_memory_every_load_of_a_plan_has_failed_and_no_slot_is_good(world):
    from vllm_pensieve.space.swap_plan import SwapPlan
    from vllm_pensieve.swap.connector import SwapMetadata

    worker = worker_side(world, None)
    plan = SwapPlan(stores=((5, 50),), loads=((60, 6), (70, 7)), ahead=((8, 80),))
    worker.handle_preemptions(SwapMetadata(plan))
    assert worker.get_block_ids_with_load_errors() == {6, 7}
    assert worker.build_connector_worker_meta().bad_slots == {50, 60, 70, 80}
    worker.handle_preemptions(SwapMetadata(SwapPlan()))
    assert worker.get_block_ids_with_load_errors() == set()
    assert worker.build_connector_worker_meta() is None
