"""Which layers announce that they read their KV cache; what the others read is there before the forward pass."""

import pytest
import torch

from vllm_pensieve.space.swap_plan import SwapPlan

BLOCKS, SLOTS = 4, 3


def of_class(layer_class):
    """A layer of that class, without weights."""
    layer = object.__new__(layer_class)
    layer.__dict__["use_direct_call"] = False
    return layer


@pytest.fixture
def modules():
    """Two layers as in DeepSeek V3.2, in the model's order: each with an indexer whose cache it reads itself."""
    from vllm.model_executor.layers.attention import Attention, MLAAttention

    class IndexerCache(torch.nn.Module):
        pass

    class OwnAttention(Attention):
        def forward(self, *args):
            """Reads its cache without vLLM's functions."""

    return {
        "0.indexer": of_class(IndexerCache),
        "0.attn": of_class(MLAAttention),
        "1.indexer": of_class(IndexerCache),
        "1.attn": of_class(Attention),
        "2.attn": of_class(OwnAttention),
        "no cache": of_class(Attention),
    }


def test_vllm_s_own_attention_announces_and_nothing_else(modules):
    from vllm_pensieve.swap.layers import by_announcement

    registered = ["1.attn", "0.attn", "1.indexer", "0.indexer", "2.attn", "unknown"]
    unannounced, announced = by_announcement(dict.fromkeys(registered, 0), modules)
    assert list(unannounced) == ["0.indexer", "1.indexer", "2.attn", "unknown"]
    assert list(announced) == ["0.attn", "1.attn"], "in the model's order"


def test_mla_that_calls_its_kernel_directly_announces_nothing(modules):
    from vllm_pensieve.swap.layers import by_announcement

    modules["0.attn"].__dict__["use_direct_call"] = True
    unannounced, _ = by_announcement({"0.attn": 0}, modules)
    assert list(unannounced) == ["0.attn"]


@pytest.fixture
def worker(monkeypatch):
    """Its blocks are loaded as slowly as the test says; `worker.caches` by layer name."""
    from vllm_pensieve.swap import host_copier
    from vllm_pensieve.swap.worker import SwapWorker

    caches = {
        name: torch.full((BLOCKS, 2, 8), value, dtype=torch.float32)
        for value, name in enumerate(("indexer", "other indexer", "attn"))
    }
    attn = {"attn": caches.pop("attn")}
    made = SwapWorker.over(caches, attn, BLOCKS, SLOTS, verify=False)
    made.caches = caches | attn
    yield made
    monkeypatch.undo()
    assert host_copier._copy
    made.close()


def test_what_is_read_unannounced_is_there_when_the_loads_have_begun(worker, monkeypatch):
    from threading import Event

    from vllm_pensieve.swap import host_copier

    worker.begin_step(SwapPlan(stores=((1, 2),)))
    worker.begin_loads(layer_by_layer=True)
    worker.end_step()
    may_copy_attention, copied, copy = Event(), [], host_copier._copy

    def held_at_the_last_layer(*args):
        if len(copied) == 2:
            may_copy_attention.wait()
        copied.append(args)
        copy(*args)

    for cache in worker.caches.values():
        cache.fill_(-1)
    monkeypatch.setattr(host_copier, "_copy", held_at_the_last_layer)
    worker.begin_step(SwapPlan(loads=((2, 3),)))
    worker.begin_loads(layer_by_layer=True)  # returns although the last layer is not there
    assert (worker.caches["indexer"][3] == 0).all()
    assert (worker.caches["other indexer"][3] == 1).all()
    assert (worker.caches["attn"][3] == -1).all()
    may_copy_attention.set()
    worker.wait_for_layer("attn")
    assert (worker.caches["attn"][3] == 2).all()
    worker.end_step()


def test_a_layer_that_reads_another_s_cache_waits_for_all_of_it(worker):
    worker.begin_step(SwapPlan(stores=((1, 2),)))
    worker.begin_loads(layer_by_layer=True)
    worker.end_step()
    worker.begin_step(SwapPlan(loads=((2, 3),)))
    worker.caches["attn"].fill_(-1)
    worker.begin_loads(layer_by_layer=True)
    worker.wait_for_layer("a layer without a cache of its own")
    assert (worker.caches["attn"][3] == 2).all()
    worker.end_step()
