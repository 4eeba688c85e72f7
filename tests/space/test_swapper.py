"""Copies that are read before they are made, where the store may wait."""

from vllm_pensieve.space.block_watcher import Evicted


def a_deferred_store():
    """A swapper, and the slot that is to get the copy of block 3, which a request writes in a later step."""
    import numpy as np

    from vllm_pensieve.policies.order import make_order
    from vllm_pensieve.policies.policy import Cache
    from vllm_pensieve.space.host_tier import HostTier
    from vllm_pensieve.space.swapper import Swapper

    def order():
        return make_order("lru", Cache(10, 10, np.ones(10), 1.05))

    swapper = Swapper(HostTier(10, order()), order(), lambda: 1.0)
    swapper.evicted([3], Evicted([3], ["x"], [0], [0.5]))
    swapper.defer_stores([3])
    return swapper, swapper.host.find("x")


def test_a_copy_that_was_to_be_made_alongside_the_step_is_made_before_a_prefetch_reads_it():
    swapper, slot = a_deferred_store()
    swapper.host.hold([slot])
    swapper.store_ahead_of_writing(3)
    swapper.prefetch(slot, 5)
    plan = swapper.take_plan(0)
    assert plan.stores == ((3, slot),) and not plan.ahead
    assert plan.prefetches == ((slot, 5),)
    plan.check_integrity()


def test_a_deferred_copy_is_made_before_a_prefetch_reads_it():
    swapper, slot = a_deferred_store()
    swapper.host.hold([slot])
    swapper.prefetch(slot, 5)
    assert not swapper.is_deferred(3)
    plan = swapper.take_plan(0)
    assert plan.stores == ((3, slot),)
    plan.check_integrity()
