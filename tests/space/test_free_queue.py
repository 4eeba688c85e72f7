"""The free queue with real vLLM blocks and a real vLLM pool."""

import pytest

from tests.policies.orders import BLOCK, SERVED, order_of
from vllm_pensieve.space.free_queue import RetentionFreeQueue


@pytest.fixture
def blocks():
    from vllm.v1.core.kv_cache_utils import KVCacheBlock

    return [KVCacheBlock(i) for i in range(6)]


def queue_of(blocks, policy="lru"):
    order = order_of(policy, ratio=1.05)
    now_s = iter(range(1000))
    return RetentionFreeQueue(blocks, blocks, order, BLOCK, clock=lambda: float(next(now_s)))


def cache(blocks, *indexes):
    for depth, i in enumerate(indexes, start=1):
        blocks[i].set_block_hash(f"hash {i}".encode(), depth * BLOCK)


def ids(blocks):
    return [block.block_id for block in blocks]


def test_blocks_leave_in_the_order_they_were_given(blocks):
    assert ids(queue_of(blocks).popleft_n(6)) == [0, 1, 2, 3, 4, 5]


def test_empty_blocks_leave_before_cached_ones_the_last_freed_first(blocks):
    queue = queue_of(blocks)
    taken = queue.popleft_n(6)
    cache(blocks, 0, 1)
    queue.append_n([taken[1], taken[0]])
    queue.prepend_n([taken[2], taken[3]])
    queue.prepend_n([taken[4]])
    assert ids(queue.get_all_free_blocks()) == [4, 2, 3, 1, 0]
    assert ids(queue.popleft_n(4)) == [4, 2, 3, 1]
    assert queue.evicted_blocks == 1
    queue.check_integrity()


def test_a_block_used_again_is_out_of_the_queue(blocks):
    queue = queue_of(blocks)
    queue.popleft_n(6)
    cache(blocks, 2, 3)
    queue.append_n([blocks[3], blocks[2]])
    queue.remove(blocks[3])
    assert ids(queue.get_all_free_blocks()) == [2]
    with pytest.raises(KeyError):
        queue.remove(blocks[3])


def test_a_free_block_that_loses_its_content_leaves_first(blocks):
    queue = queue_of(blocks)
    queue.popleft_n(6)
    cache(blocks, 0, 1)
    queue.append_n([blocks[1], blocks[0]])
    blocks[0].reset_hash()
    queue.content_lost([blocks[0]])
    assert ids(queue.get_all_free_blocks()) == [0, 1]
    queue.check_integrity()


def test_asking_for_more_than_is_free_changes_nothing(blocks):
    queue = queue_of(blocks)
    with pytest.raises(ValueError, match="7 blocks asked for, but only 6 are free"):
        queue.popleft_n(7)
    assert queue.num_free_blocks == 6


@pytest.mark.parametrize("policy", SERVED)
def test_a_vllm_pool_works_on_the_queue_through_random_use(policy):
    from random import Random

    from vllm.v1.core.block_pool import BlockPool

    from vllm_pensieve.scheduler.block_pool import PensieveBlockPool
    from vllm_pensieve.space.clock import StepClock

    stock = BlockPool(64, enable_caching=True, hash_block_size=BLOCK)
    order = order_of(policy, ids=64, ratio=1.05)
    pool = PensieveBlockPool.adopt(stock, (), order, BLOCK, StepClock())
    random = Random(policy)
    in_use, hashes = [], 0
    for _ in range(2000):
        action = random.random()
        if action < 0.4 and (free := pool.get_num_free_blocks()):
            in_use.append(pool.get_new_blocks(random.randint(1, min(8, free))))
            for depth, block in enumerate(in_use[-1], start=1):
                if random.random() < 0.8:
                    hashes += 1
                    pool._insert_block_hash(f"{hashes}".encode(), block, depth * BLOCK)
        elif action < 0.7 and in_use:
            pool.free_blocks(reversed(in_use.pop(random.randrange(len(in_use)))))
        elif action < 0.9:
            cached = [b for b in pool.blocks if b.block_hash is not None]
            if cached:
                pool.touch([block := random.choice(cached)])
                in_use.append([block])
        elif action < 0.98:
            pool.evict_blocks({random.randrange(1, 64)})
        pool.free_block_queue.check_integrity()
        assert pool.get_num_free_blocks() == sum(
            b.ref_cnt == 0 and not b.is_null for b in pool.blocks
        )
    for blocks in in_use:
        pool.free_blocks(blocks)
    assert pool.reset_prefix_cache()
    assert len(pool.free_block_queue.order) == 0
    assert pool.get_num_free_blocks() == 63
