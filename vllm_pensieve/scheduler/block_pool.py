"""vLLM's block pool with our free queue, which reports when a cached block comes, goes or loses its content."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import override
from vllm.v1.core.block_pool import BlockPool
from vllm.v1.core.kv_cache_utils import BlockHash, make_block_hash_with_group_id

from vllm_pensieve.retention.eviction_order import EvictionOrder
from vllm_pensieve.scheduler.events import Announcer
from vllm_pensieve.space.block_watcher import BlockWatcher
from vllm_pensieve.space.free_queue import RetentionFreeQueue

if TYPE_CHECKING:
    from vllm.v1.core.kv_cache_utils import BlockHashWithGroupId, KVCacheBlock
    from vllm.v1.request import Request

GROUP_0 = make_block_hash_with_group_id(BlockHash(b""), 0)
"""What vLLM appends to a block's hash for its first cache group."""


class PensieveBlockPool(BlockPool):
    """A BlockPool whose free queue follows an eviction order.

    content_version: changes whenever a lookup by hash could give another answer than before.
    announcer: decides which KV events routers hear; None while there are none.
    """

    free_block_queue: RetentionFreeQueue
    content_version: int
    announcer: Announcer | None

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
        pool.announcer = Announcer(pool) if pool.enable_kv_cache_events else None

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
        if self.announcer is not None:
            self.announcer.cleared()
        return True


class WatchedBlockPool(PensieveBlockPool):
    """A pool that notifies watchers of its cached blocks, in their order."""

    watchers: tuple[BlockWatcher, ...]
    _leaving: list[tuple[int, Any]]

    @classmethod
    def attach(cls, pool: PensieveBlockPool, watchers: Iterable[BlockWatcher]) -> None:
        """Have the watchers follow the blocks of a new, unused pool."""
        assert type(pool) is PensieveBlockPool, type(pool)
        pool.__class__ = cls
        assert isinstance(pool, cls)
        pool.watchers = tuple(watchers)
        pool._leaving = []  # blocks that lose their hash in the call under way, and their keys

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
        for index in range(num_cached_blocks, num_full_blocks):
            block = blocks[index]
            key = block.block_hash
            if key is not None:
                for watcher in self.watchers:
                    watcher.cached(request.request_id, block.block_id, key, index * block_size)

    @override
    def touch(self, blocks: Sequence[KVCacheBlock]) -> None:
        idle = [block for block in blocks if block.ref_cnt == 0 and block.block_hash is not None]
        super().touch(blocks)
        for watcher in self.watchers:
            for block in idle:
                watcher.in_use(block.block_id, block.block_hash)

    @override
    def free_blocks(self, ordered_blocks: Iterable[KVCacheBlock]) -> None:
        freed = list(ordered_blocks)
        super().free_blocks(freed)
        idle = [block for block in freed if block.ref_cnt == 0 and block.block_hash is not None]
        if not idle:
            return
        queue = self.free_block_queue
        block_ids = [block.block_id for block in idle]
        keys = [block.block_hash for block in idle]
        positions = [queue.position[block_id] for block_id in block_ids]
        for watcher in self.watchers:
            watcher.idle(block_ids, keys, positions, queue.last_use_s[block_ids[0]])

    @override
    def get_new_blocks(self, num_blocks: int) -> list[KVCacheBlock]:
        self._leaving = []
        blocks = super().get_new_blocks(num_blocks)
        if self._leaving:
            position, last_use_s = self.free_block_queue.position, self.free_block_queue.last_use_s
            evicted = [
                (block_id, key, position[block_id], last_use_s[block_id])
                for block_id, key in self._leaving
                if self._is_gone(key)
            ]
            for watcher in self.watchers:
                watcher.evicted(evicted)
        return blocks

    @override
    def _maybe_evict_cached_block(self, block: KVCacheBlock) -> bool:
        """Called for each block that is handed out, and for each whose hash is taken off."""
        key = block.block_hash
        if key is not None:
            self._leaving.append((block.block_id, key))
            for watcher in self.watchers:
                watcher.overwritten(block.block_id)
        return super()._maybe_evict_cached_block(block)

    @override
    def evict_blocks(self, block_ids: set[int]) -> None:
        self._leaving = []
        super().evict_blocks(block_ids)
        for _, key in self._leaving:
            if self._is_gone(key):
                for watcher in self.watchers:
                    watcher.content_lost(key)

    def _is_gone(self, key: Any) -> bool:
        return self.cached_block_hash_to_block.get_one_block(key) is None

    @override
    def reset_prefix_cache(self) -> bool:
        if not super().reset_prefix_cache():
            return False
        for watcher in self.watchers:
            watcher.clear()
        return True
