"""Objects of ours in place of vLLM's."""

import gc
import weakref

import pytest


class Stock:
    def __init__(self) -> None:
        self.number, self.items = 7, [1, 2]


class Ours(Stock):
    pass


def test_the_new_object_holds_what_the_old_one_held():
    from vllm_pensieve.scheduler.made_anew import made_anew

    stock = Stock()
    ours = made_anew(Ours, stock)
    assert type(ours) is Ours and ours.items is stock.items and ours.number == 7
    with pytest.raises(AssertionError):
        made_anew(Ours, ours)


def test_nobody_refers_to_what_was_replaced(make_world, monkeypatch):
    from vllm_pensieve.scheduler import block_pool, hole_filling, kv_cache_manager, made_anew

    replaced = []

    def noting(cls, stock):
        replaced.append(weakref.ref(stock))
        return made_anew.made_anew(cls, stock)

    monkeypatch.setattr(kv_cache_manager, "made_anew", noting)
    monkeypatch.setattr(block_pool, "made_anew", noting)
    monkeypatch.setattr(hole_filling, "made_anew", noting)
    world = make_world(host_blocks=20)
    gc.collect()
    assert len(replaced) == 3 and all(old() is None for old in replaced)
    world.assert_answered(world.serve([1, 2, 3] * 30))
