"""The queue of blocks nobody uses, with the interface of vLLM's FreeKVCacheBlockQueue and an order of our own."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vllm_pensieve.policies.order import Order

if TYPE_CHECKING:
    from vllm.v1.core.kv_cache_utils import KVCacheBlock


class RetentionFreeQueue:
    """Free blocks: empty ones leave first (the last freed first), then cached ones as the eviction order says.

    Stands in for vLLM's queue: vLLM's block pool calls it and it calls nothing back. A block is cached while it has a
    hash. When a block last fell out of use, and the blocks before it, stand in the order.
    """

    def __init__(
        self,
        blocks: Sequence[KVCacheBlock],
        free: Sequence[KVCacheBlock],
        order: Order,
        block_size: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """blocks: all blocks, by id. free: those that are free now, none of them cached, the first to leave first."""
        self.order = order
        self.block_size = block_size
        self.evicted_blocks = 0
        self.num_free_blocks = 0
        self._blocks = blocks
        self._clock = clock
        self._removing: list[int] | None = None
        self._freed: tuple[list[int], list[int], float] | None = None
        self._evicted: tuple[list[int], list[Hashable]] = ([], [])
        self._empty: OrderedDict[int, None] = OrderedDict()  # the last leaves first
        self.prepend_n(list(free))

    @property
    def empty_blocks(self) -> int:
        """Free blocks without content."""
        return len(self._empty)

    def popleft(self) -> KVCacheBlock:
        """The next block to leave. ValueError if there is none."""
        return self.popleft_n(1)[0]

    def popleft_n(self, n: int) -> list[KVCacheBlock]:
        """The next n blocks to leave, cached ones with their hash still on. ValueError if there are fewer."""
        if n > self.num_free_blocks:
            raise ValueError(f"{n} blocks asked for, but only {self.num_free_blocks} are free")
        from_empty = min(n, len(self._empty))
        popped = [self._blocks[self._empty.popitem()[0]] for _ in range(from_empty)]
        if n > from_empty:
            evicted = self.order.evict(n - from_empty, self._clock())
            self.evicted_blocks += len(evicted)
            blocks = [self._blocks[block_id] for block_id in evicted]
            self._evicted = (evicted, [block._block_hash for block in blocks])
            popped += blocks
        self.num_free_blocks -= n
        return popped

    def take_evicted(self) -> tuple[list[int], list[Hashable]]:
        """Blocks that left with content since the last call, and what they held."""
        evicted, self._evicted = self._evicted, ([], [])
        return evicted

    def remove(self, block: KVCacheBlock) -> None:
        """Take a block out because it is used again. KeyError if it is not free."""
        if block.block_id in self._empty:
            del self._empty[block.block_id]
        elif self._removing is not None:
            self._removing.append(block.block_id)
        else:
            self.order.remove([block.block_id])
        self.num_free_blocks -= 1

    @contextmanager
    def removing_together(self) -> Iterator[None]:
        """Cached blocks that are removed within it leave the order in one call at its end."""
        self._removing = []
        try:
            yield
        finally:
            removed, self._removing = self._removing, None
            self.order.remove(removed)

    def prepend_n(self, blocks: list[KVCacheBlock]) -> None:
        """Add blocks without content; the first of them leaves next."""
        for block in reversed(blocks):
            self._empty[block.block_id] = None
        self.num_free_blocks += len(blocks)

    def append(self, block: KVCacheBlock) -> None:
        """Add one cached block."""
        self.append_n([block])

    def append_n(self, blocks: list[KVCacheBlock]) -> None:
        """Add cached blocks that fell out of use now, the deepest of their sequence first."""
        if not blocks:
            return
        size = self.block_size
        block_ids = [block.block_id for block in blocks]
        positions = [(block._block_hash_num_tokens or size) // size - 1 for block in blocks]
        now_s = self._clock()
        self.order.insert(block_ids, positions, now_s)
        self._freed = (block_ids, positions, now_s)
        self.num_free_blocks += len(blocks)

    def take_freed(self) -> tuple[list[int], list[int], float] | None:
        """Ids and positions of the cached blocks that were added last, and when; None if there were none since."""
        freed, self._freed = self._freed, None
        return freed

    def content_lost(self, blocks: Iterable[KVCacheBlock]) -> None:
        """These blocks lost their hash: those that are free are now empty ones."""
        block_ids = [block.block_id for block in blocks]
        for block_id in block_ids:
            if block_id in self.order:
                self._empty[block_id] = None
        self.order.forget(block_ids)

    def get_all_free_blocks(self) -> list[KVCacheBlock]:
        """All free blocks, the first to leave first. Changes nothing."""
        cached = self.order.peek(len(self.order), self._clock())
        return [self._blocks[block_id] for block_id in [*reversed(self._empty), *cached]]

    def check_integrity(self) -> None:
        """AssertionError if a block is in two places, in use, or a cached one among the empty. For tests."""
        self.order.check_integrity()
        free = self.get_all_free_blocks()
        assert len({block.block_id for block in free}) == len(free) == self.num_free_blocks
        assert all(block.ref_cnt == 0 and not block.is_null for block in free)
        assert all(self._blocks[block_id].block_hash is None for block_id in self._empty)
