"""vLLM's block pool with our free queue, told when a cached block comes, goes or loses its content."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typing_extensions import override
from vllm.v1.core.block_pool import BlockPool

from vllm_pensieve.retention.eviction_order import EvictionOrder
from vllm_pensieve.space.free_queue import RetentionFreeQueue

if TYPE_CHECKING:
    from vllm.v1.core.kv_cache_utils import KVCacheBlock


class PensieveBlockPool(BlockPool):
    """A BlockPool whose free queue follows an eviction order.

    content_version: changes whenever a lookup by hash could give another answer than before.
    """

    free_block_queue: RetentionFreeQueue
    content_version: int

    @classmethod
    def adopt(cls, pool: BlockPool, order: EvictionOrder, block_size: int) -> None:
        """Turn a new, unused pool into one of ours in place: others hold references to it."""
        assert type(pool) is BlockPool, type(pool)
        free = pool.free_block_queue.get_all_free_blocks()
        pool.__class__ = cls
        assert isinstance(pool, cls)
        pool.free_block_queue = RetentionFreeQueue(pool.blocks, free, order, block_size)
        pool.content_version = 0

    @override
    def _insert_block_hash(self, *args: Any, **kwargs: Any) -> None:
        super()._insert_block_hash(*args, **kwargs)
        self.content_version += 1

    @override
    def _remove_cached_block_hashes(self, block: KVCacheBlock) -> Any:
        if block.block_hash is not None:
            self.content_version += 1
        return super()._remove_cached_block_hashes(block)

    @override
    def evict_blocks(self, block_ids: set[int]) -> None:
        super().evict_blocks(block_ids)
        for block_id in block_ids:
            self.free_block_queue.content_lost(self.blocks[block_id])

    @override
    def reset_prefix_cache(self) -> bool:
        if not super().reset_prefix_cache():
            return False
        self.content_version += 1
        for block in self.blocks:
            self.free_block_queue.content_lost(block)
        return True
