"""What routers hear of this engine's blocks: vLLM's KV events, for prefixes with holes and for copies in host memory.

A router counts how many leading blocks of a prompt it has heard of. So nothing may be announced that the engine would
not use, and nothing in an order that a router cannot follow.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from typing_extensions import override
from vllm.distributed.kv_events import MEDIUM_CPU, BlockRemoved, BlockStored
from vllm.v1.core.kv_cache_utils import (
    get_block_hash,
    get_group_id,
    make_block_hash_with_group_id,
    maybe_convert_block_hash,
)

from vllm_pensieve.space.host_tier import SlotWatcher

if TYPE_CHECKING:
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.request import Request


@dataclass(frozen=True)
class _Description:
    """A block as the index-th of vLLM's event for the blocks that were cached together with it."""

    parent: Hashable | None
    event: BlockStored
    index: int

    def stored(self, key: Hashable, medium: str) -> BlockStored:
        """The event for this block alone."""
        event, size = self.event, self.event.block_size
        return BlockStored(
            block_hashes=[_external(key)],
            parent_block_hash=None if self.parent is None else _external(self.parent),
            token_ids=event.token_ids[self.index * size : (self.index + 1) * size],
            block_size=size,
            lora_id=event.lora_id,
            medium=medium,
            lora_name=event.lora_name,
            extra_keys=event.extra_keys[self.index : self.index + 1] if event.extra_keys else None,
            group_idx=event.group_idx,
            session_id=event.session_id,
        )


class Announcer(SlotWatcher):
    """Decides which blocks are announced, by their keys, in GPU and in host memory.

    - A block is announced only while the one before it is, in either memory. What stands after a hole is announced,
      or announced again, when the hole has been computed.
    - A block is taken back when the last copy in that memory is gone.
    - A copy in host memory is announced only where loading it is cheaper than computing it, since the engine computes
      it elsewhere.
    """

    def __init__(self, pool: BlockPool) -> None:
        """pool: to whose queue events are added."""
        self._pool = pool
        self._worth_loading_from = 0
        self._descriptions: dict[Hashable, _Description] = {}
        self._in_gpu: set[Hashable] = set()
        self._in_host: set[Hashable] = set()
        # Since events were last taken: copies in host memory and their positions, and blocks that lost one of theirs.
        self._new_copies: dict[Hashable, int] = {}
        self._lost: set[Hashable] = set()

    def load_from(self, position: int) -> None:
        """Blocks with fewer blocks before them are computed rather than loaded."""
        self._worth_loading_from = position

    def _is_announced(self, key: Hashable | None) -> bool:
        return key is None or key in self._in_gpu or key in self._in_host

    # -- GPU memory

    def cached(self, request: Request, start: int, end: int, group: int) -> None:
        """The pool has just put an event for the request's blocks [start, end) into its queue."""
        event = self._pool.kv_event_queue[-1]
        assert isinstance(event, BlockStored) and len(event.block_hashes) == end - start, event
        keys = _keys(request, start, end, group)
        parent = _keys(request, start - 1, start, group)[0] if start else None
        for index, key in enumerate(keys):
            self._descriptions[key] = _Description(
                keys[index - 1] if index else parent, event, index
            )
        if self._is_announced(parent):
            self._in_gpu.update(keys)
        else:
            self._pool.kv_event_queue.pop()

    def reached(self, request: Request, start: int, end: int, group: int) -> None:
        """The hole before the request's blocks [start, end) is being computed; a router may have forgotten them."""
        for key in _keys(request, start, end, group):
            description = self._descriptions.get(key)
            is_here = self._pool.cached_block_hash_to_block.get_one_block(key) is not None
            if description is None or not is_here or not self._is_announced(description.parent):
                return  # it may still have to be loaded
            self._in_gpu.add(key)
            self._pool.kv_event_queue.append(description.stored(key, self._pool.medium))

    def taken_back(self, keys: Iterable[Hashable]) -> list[Hashable]:
        """Of keys that a block of the pool has just lost, those to be taken back."""
        gone = [k for k in keys if self._pool.cached_block_hash_to_block.get_one_block(k) is None]
        self._lost.update(gone)
        announced = [key for key in gone if key in self._in_gpu]
        self._in_gpu.difference_update(announced)
        return announced

    def cleared(self) -> None:
        """Everything has been taken back with one event."""
        for table in (
            self._descriptions, self._in_gpu, self._in_host, self._new_copies, self._lost
        ):  # fmt: skip
            table.clear()

    # -- host memory

    @override
    def filled(self, keys: Sequence[Hashable], positions: Sequence[int]) -> None:
        self._new_copies.update(zip(keys, positions, strict=True))

    @override
    def emptied(self, key: Hashable) -> None:
        self._new_copies.pop(key, None)
        self._lost.add(key)
        if key in self._in_host:
            self._in_host.remove(key)
            self._pool.kv_event_queue.append(
                BlockRemoved([_external(key)], MEDIUM_CPU, get_group_id(key))
            )

    def announce_copies(self) -> None:
        """Events are about to be taken: announce what came into host memory, parents first."""
        for key, position in sorted(self._new_copies.items(), key=lambda copy: copy[1]):
            description = self._descriptions.get(key)
            if (
                key not in self._in_host
                and position >= self._worth_loading_from
                and description is not None
                and self._is_announced(description.parent)
            ):
                self._in_host.add(key)
                self._pool.kv_event_queue.append(description.stored(key, MEDIUM_CPU))
        self._new_copies.clear()
        for key in self._lost - self._in_host:
            if self._pool.cached_block_hash_to_block.get_one_block(key) is None:
                self._descriptions.pop(key, None)
        self._lost.clear()

    def check_integrity(self) -> None:
        """AssertionError if something is announced that is nowhere, or remembered without need. For tests."""
        cached = self._pool.cached_block_hash_to_block
        assert all(cached.get_one_block(key) is not None for key in self._in_gpu)
        for key in self._descriptions.keys() - self._in_host - self._lost - self._new_copies.keys():
            assert cached.get_one_block(key) is not None, "a description of a block that is gone"


def _keys(request: Request, start: int, end: int, group: int) -> list[Hashable]:
    return [make_block_hash_with_group_id(h, group) for h in request.block_hashes[start:end]]


def _external(key: Any) -> Any:
    """As vLLM's events name a block."""
    return maybe_convert_block_hash(get_block_hash(key))
