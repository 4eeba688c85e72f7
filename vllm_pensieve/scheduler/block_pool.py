"""vLLM's block pool with our free queue, told when a cached block comes, goes or loses its content."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import override
from vllm.v1.core.block_pool import BlockPool

from vllm_pensieve.retention.eviction_order import EvictionOrder
from vllm_pensieve.scheduler.hash_log import HashLog
from vllm_pensieve.space.free_queue import RetentionFreeQueue
from vllm_pensieve.space.swapper import Evicted, Swapper

if TYPE_CHECKING:
    from vllm.v1.core.kv_cache_utils import KVCacheBlock
    from vllm.v1.request import Request


class PensieveBlockPool(BlockPool):
    """A BlockPool whose free queue follows an eviction order.

    content_version: changes whenever a lookup by hash could give another answer than before.
    """

    free_block_queue: RetentionFreeQueue
    content_version: int

    @classmethod
    def adopt(
        cls, pool: BlockPool, order: EvictionOrder, block_size: int, clock: Callable[[], float]
    ) -> None:
        """Turn a new, unused pool into one of ours in place: others hold references to it."""
        assert type(pool) is BlockPool, type(pool)
        free = pool.free_block_queue.get_all_free_blocks()
        pool.__class__ = cls
        assert isinstance(pool, cls)
        pool.free_block_queue = RetentionFreeQueue(pool.blocks, free, order, block_size, clock)
        pool.content_version = 0

    @override
    def cache_full_blocks(self, *args: Any, **kwargs: Any) -> None:
        super().cache_full_blocks(*args, **kwargs)
        self.content_version += 1

    @override
    def get_new_blocks(self, num_blocks: int) -> list[KVCacheBlock]:
        if num_blocks > self.free_block_queue.empty_blocks:
            self.content_version += 1
        return super().get_new_blocks(num_blocks)

    @override
    def evict_blocks(self, block_ids: set[int]) -> None:
        super().evict_blocks(block_ids)
        self.content_version += 1
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


class SwappingBlockPool(PensieveBlockPool):
    """A pool whose blocks have copies in host memory.

    hash_log: which blocks were hashed for which request lately, to be taken back should a load turn out bad.
    """

    swapper: Swapper
    hash_log: HashLog

    @classmethod
    def attach(cls, pool: PensieveBlockPool, swapper: Swapper) -> None:
        """Have the swapper follow the blocks of a new, unused pool."""
        assert type(pool) is PensieveBlockPool, type(pool)
        pool.__class__ = cls
        assert isinstance(pool, cls)
        pool.swapper = swapper
        pool.hash_log = HashLog()
        pool._leaving = []  # blocks that lose their hash in the call under way: id, key, position

    @override
    def cache_full_blocks(
        self,
        request: Request,
        blocks: list[KVCacheBlock],
        num_cached_blocks: int,
        num_full_blocks: int,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().cache_full_blocks(
            request, blocks, num_cached_blocks, num_full_blocks, *args, **kwargs
        )
        for block in blocks[num_cached_blocks:num_full_blocks]:
            if block.block_hash is not None:
                self.hash_log.add(request.request_id, block.block_id, block.block_hash)
                self.swapper.cached(block.block_hash)

    @override
    def touch(self, blocks: Sequence[KVCacheBlock]) -> None:
        idle = [block for block in blocks if block.ref_cnt == 0 and block.block_hash is not None]
        super().touch(blocks)
        for block in idle:
            self.swapper.in_use(block.block_id, block.block_hash)

    @override
    def free_blocks(self, ordered_blocks: Iterable[KVCacheBlock]) -> None:
        freed = list(ordered_blocks)
        super().free_blocks(freed)
        queue = self.free_block_queue
        idle = [block for block in freed if block.ref_cnt == 0 and block.block_hash is not None]
        if idle:
            self.swapper.idle(
                [block.block_id for block in idle],
                [block.block_hash for block in idle],
                [queue.position(block) for block in idle],
                queue.last_use_s[idle[0].block_id],
            )

    @override
    def get_new_blocks(self, num_blocks: int) -> list[KVCacheBlock]:
        leaving: list[tuple[int, Any, int]] = []
        self._leaving = leaving
        blocks = super().get_new_blocks(num_blocks)
        if leaving:
            last_use_s = self.free_block_queue.last_use_s
            self.swapper.evicted(
                [
                    Evicted(block_id, key, position, last_use_s[block_id], self._is_gone(key))
                    for block_id, key, position in leaving
                ]
            )
        return blocks

    @override
    def _maybe_evict_cached_block(self, block: KVCacheBlock) -> bool:
        """Called for each block that is handed out, and for each whose hash is taken off."""
        if block.block_hash is not None:
            position = self.free_block_queue.position(block)
            self._leaving.append((block.block_id, block.block_hash, position))
        return super()._maybe_evict_cached_block(block)

    @override
    def evict_blocks(self, block_ids: set[int]) -> None:
        leaving: list[tuple[int, Any, int]] = []
        self._leaving = leaving
        super().evict_blocks(block_ids)
        for block_id, key, _ in leaving:
            self.swapper.content_lost(block_id, key, last=self._is_gone(key))

    def _is_gone(self, key: Any) -> bool:
        return self.cached_block_hash_to_block.get_one_block(key) is None

    @override
    def reset_prefix_cache(self) -> bool:
        if not super().reset_prefix_cache():
            return False
        self.swapper.clear()
        return True
