"""vLLM's block pool with our free queue, which reports when a cached block comes, goes or loses its content."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import override
from vllm.v1.core.block_pool import BlockPool
from vllm.v1.core.kv_cache_utils import BlockHash, make_block_hash_with_group_id

from vllm_pensieve.policies.order import Order
from vllm_pensieve.scheduler.events import Announcer
from vllm_pensieve.scheduler.made_anew import made_anew
from vllm_pensieve.space.block_watcher import BlockWatcher, Evicted
from vllm_pensieve.space.free_queue import RetentionFreeQueue

if TYPE_CHECKING:
    from vllm.v1.core.kv_cache_utils import BlockHashWithGroupId, KVCacheBlock
    from vllm.v1.request import Request

MOST_SPARE, SPARE_SHARE = 32, 1024
"""Blocks that are evicted ahead of need, in one call: at most so many, and this part of memory."""
GROUP_0 = make_block_hash_with_group_id(BlockHash(b""), 0)
"""What vLLM appends to a block's hash for its first cache group."""


class PensieveBlockPool(BlockPool):
    """A BlockPool whose free queue follows an eviction order, and which notifies watchers of its cached blocks.

    content_version: changes whenever a lookup by hash could give another answer than before.
    announcer: decides which KV events routers hear; None while there are none.
    watchers: are notified of cached blocks that come and go, in this order.
    """

    free_block_queue: RetentionFreeQueue
    content_version: int
    announcer: Announcer | None
    watchers: tuple[BlockWatcher, ...]

    @classmethod
    def adopt(
        cls,
        stock: BlockPool,
        holders: Iterable[Any],
        order: Order,
        block_size: int,
        clock: Callable[[], float],
    ) -> PensieveBlockPool:
        """One of ours in place of a new, unused pool, for those who hold it as their `block_pool`."""
        pool = made_anew(cls, stock)
        free = stock.free_block_queue.get_all_free_blocks()
        pool.free_block_queue = RetentionFreeQueue(pool.blocks, free, order, block_size, clock)
        pool.content_version = 0
        pool.announcer = Announcer(pool) if pool.enable_kv_cache_events else None
        pool.watchers = ()
        for holder in holders:
            assert holder.block_pool is stock
            holder.block_pool = pool
        for block in pool.blocks:
            if block.pool is stock:
                block.pool = pool
        return pool

    def follow(self, watchers: Iterable[BlockWatcher]) -> None:
        """Have these watchers notified; whoever others ask while they are notified comes before them."""
        self.watchers = tuple(sorted(watchers, key=lambda watcher: watcher.asks_others))

    def keys(self, block_hashes: Sequence[BlockHash]) -> list[BlockHashWithGroupId]:
        """The keys under which the blocks of the one cache group are found."""
        return [block_hash + GROUP_0 for block_hash in block_hashes]

    def find(self, keys: Sequence[BlockHashWithGroupId]) -> list[KVCacheBlock | None]:
        """A block that holds what each key names, or None."""
        found = list(map(self.cached_block_hash_to_block._cache.get, keys))
        if dict in map(type, found):  # several blocks hold the same
            found = [next(iter(b.values())) if type(b) is dict else b for b in found]
        return found

    @override
    def cache_full_blocks(
        self,
        request: Request,
        blocks: list[KVCacheBlock],
        num_cached_blocks: int,
        num_full_blocks: int,
        block_size: int,
        kv_cache_group_id: int,
        block_mask: list[bool] | None = None,
    ) -> None:
        super().cache_full_blocks(
            request,
            blocks,
            num_cached_blocks,
            num_full_blocks,
            block_size,
            kv_cache_group_id,
            block_mask,
        )
        self.content_version += 1
        if self.announcer is not None and num_cached_blocks < num_full_blocks:
            self.announcer.cached(request, num_cached_blocks, num_full_blocks, kv_cache_group_id)
        if self.watchers:
            hashed = [b for b in blocks[num_cached_blocks:num_full_blocks] if b._block_hash]
            block_ids = [block.block_id for block in hashed]
            keys = [block._block_hash for block in hashed]
            for watcher in self.watchers:
                watcher.hashed(request.request_id, block_ids, keys, num_cached_blocks)

    @override
    def emit_cached_block_events(
        self, request: Request, num_cached_blocks: int, block_size: int, kv_cache_group_id: int
    ) -> None:
        """Announces a resident prefix again, for a request that asks for it."""
        super().emit_cached_block_events(request, num_cached_blocks, block_size, kv_cache_group_id)
        if self.announcer is not None and num_cached_blocks:
            self.announcer.cached(request, 0, num_cached_blocks, kv_cache_group_id)

    @override
    def _emit_block_removed_events(self, block_hashes: list[Any]) -> None:
        if self.announcer is not None:
            super()._emit_block_removed_events(self.announcer.taken_back(block_hashes))

    @override
    def touch(self, blocks: Sequence[KVCacheBlock]) -> None:
        unused = [b for b in blocks if not b.ref_cnt and b._block_hash] if self.watchers else []
        with self.free_block_queue.removing_together():
            super().touch(blocks)
        if unused:
            block_ids, keys = [b.block_id for b in unused], [b._block_hash for b in unused]
            for watcher in self.watchers:
                watcher.touched(block_ids, keys)

    @override
    def free_blocks(self, ordered_blocks: Iterable[KVCacheBlock]) -> None:
        super().free_blocks(ordered_blocks)
        freed = self.free_block_queue.take_freed()
        if freed is not None and self.watchers:
            block_ids, positions, now_s = freed
            keys = [self.blocks[block_id]._block_hash for block_id in block_ids]
            for watcher in self.watchers:
                watcher.freed(block_ids, keys, positions, now_s)

    @override
    def get_new_blocks(self, num_blocks: int) -> list[KVCacheBlock]:
        queue = self.free_block_queue
        spare = 0
        if num_blocks > queue.empty_blocks:
            self.content_version += 1
            # Most calls ask for one block: a few more leave with it, for the next ones.
            spare = min(self.num_gpu_blocks // SPARE_SHARE, MOST_SPARE, len(queue.order) // 2)
            spare = max(0, min(spare, queue.num_free_blocks - num_blocks))
            if self.metrics_collector is not None:  # it would take them for allocated
                spare = 0
        blocks = super().get_new_blocks(num_blocks + spare)
        if spare:
            for block in blocks[num_blocks:]:
                block.ref_cnt -= 1
            queue.prepend_n(blocks[num_blocks:])
            del blocks[num_blocks:]
        block_ids, keys = queue.take_evicted()
        if block_ids and self.watchers:
            last = {
                key: block_id
                for block_id, key, left in zip(block_ids, keys, self.find(keys), strict=True)
                if left is None
            }
            ids, order = list(last.values()), queue.order
            evicted = Evicted(
                ids, list(last), order.position[ids].tolist(), order.last_use_s[ids].tolist()
            )
            for watcher in self.watchers:
                watcher.evicted(block_ids, evicted)
        return blocks

    @override
    def evict_blocks(self, block_ids: set[int]) -> None:
        cached = [self.blocks[i] for i in block_ids if self.blocks[i]._block_hash is not None]
        depths = {b._block_hash: (b.block_hash_num_tokens or 0) for b in cached}
        super().evict_blocks(block_ids)
        self.content_version += 1
        self.free_block_queue.content_lost(self.blocks[block_id] for block_id in block_ids)
        if cached and self.watchers:
            keys = [k for k, left in zip(depths, self.find(list(depths)), strict=True) if not left]
            positions = [depths[key] // self.free_block_queue.block_size - 1 for key in keys]
            for watcher in self.watchers:
                watcher.content_lost([block.block_id for block in cached], keys, positions)

    @override
    def reset_prefix_cache(self) -> bool:
        if not super().reset_prefix_cache():
            return False
        self.content_version += 1
        self.free_block_queue.content_lost(self.blocks)
        if self.announcer is not None:
            self.announcer.cleared()
        for watcher in self.watchers:
            watcher.clear()
        return True
