"""LoRA adapters that are loaded again: what was cached with their old weights is dropped, in both memories.

vLLM keys a block by its adapter's name and path. When the files at that path change and the adapter is loaded again,
blocks of the old weights are found under the same key; vLLM leaves that to a reset of the whole cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from typing_extensions import override
from vllm.logger import init_logger

from vllm_pensieve.scheduler.swapping import SwappingMixin
from vllm_pensieve.scheduler.tracing import TracingMixin
from vllm_pensieve.space.block_watcher import BlockWatcher, Evicted
from vllm_pensieve.vllm_hooks.patches import tell_of_loaded_adapters

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest

logger = init_logger("vllm.pensieve")

Adapter: TypeAlias = tuple[str, str]
"""Name and path."""


class AdapterBlocks(BlockWatcher):
    """Which blocks, in either memory, were computed with which adapter, by the blocks' keys."""

    def __init__(
        self,
        adapter_of: Callable[[str], Adapter | None],
        in_host_memory: Callable[[Hashable], bool],
    ) -> None:
        """adapter_of: of a request, by its id."""
        self._adapter_of = adapter_of
        self._in_host_memory = in_host_memory
        self._adapters: dict[Hashable, Adapter] = {}

    def of(self, adapter: Adapter) -> list[Hashable]:
        """The keys of the adapter's blocks."""
        return [key for key, of_key in self._adapters.items() if of_key == adapter]

    @override
    def hashed(
        self, request_id: str, block_ids: Sequence[int], keys: Sequence[Hashable], first: int
    ) -> None:
        adapter = self._adapter_of(request_id)
        if adapter is not None:
            self._adapters.update(dict.fromkeys(keys, adapter))

    @override
    def evicted(self, given_out: Sequence[int], last: Evicted) -> None:
        self._left(last.keys)

    @override
    def content_lost(
        self, block_ids: Sequence[int], keys: Sequence[Hashable], positions: Sequence[int]
    ) -> None:
        self._left(keys)

    def _left(self, keys: Sequence[Hashable]) -> None:
        for key in keys:
            if not self._in_host_memory(key):
                self.dropped(key)

    def dropped(self, key: Hashable) -> None:
        """There is no copy of the block any more."""
        self._adapters.pop(key, None)

    @override
    def clear(self) -> None:
        self._adapters.clear()

    def __len__(self) -> int:
        return len(self._adapters)


class AdaptersMixin(SwappingMixin, TracingMixin):
    """Forgets the blocks of an adapter that is loaded. Does nothing where no adapters are served."""

    adapter_blocks: AdapterBlocks | None = None

    def _follow_adapters(self) -> list[BlockWatcher]:
        """What must follow the pool's blocks, after the host tier."""
        if self.lora_config is None:
            return []
        self.adapter_blocks = AdapterBlocks(self._adapter_of, self._is_in_host_memory)
        tell_of_loaded_adapters()
        return [self.adapter_blocks]

    def _adapter_of(self, request_id: str) -> Adapter | None:
        request = self.requests.get(request_id)
        return _adapter(request.lora_request) if request and request.lora_request else None

    @override
    def _dropped_from_host(self, key: Hashable) -> None:
        super()._dropped_from_host(key)
        if self.adapter_blocks is not None:
            self.adapter_blocks.dropped(key)

    def adapter_loaded(self, lora_request: LoRARequest) -> None:
        """An adapter has been loaded on demand, maybe with other weights than before.

        Requests under way with it begin again: as with vLLM's own reset, what they have put out stays and its KV is
        computed again.
        """
        if self.adapter_blocks is None:
            return
        adapter = _adapter(lora_request)
        requests = [r for r in self.running if self._adapter_of(r.request_id) == adapter]
        for request in reversed(requests):
            self.running.remove(request)
            self._preempt_request(request, time.monotonic(), drop_stale_output=True)
            self.prev_step_scheduled_req_ids.discard(request.request_id)
        keys = self.adapter_blocks.of(adapter)
        for key in keys:
            self._forget_content(key)
        if keys:
            logger.info(
                "Pensieve: adapter %s was loaded again; its %d cached blocks are dropped, %d requests begin again",
                lora_request.lora_name,
                len(keys),
                len(requests),
            )

    def _forget_content(self, key: Any) -> None:
        pool = self.kv_cache_manager.block_pool
        if self.swapper is not None and (slot := self.swapper.host.find(key)) is not None:
            self._discard([slot])
        while (block := pool.cached_block_hash_to_block.get_one_block(key)) is not None:
            pool.evict_blocks({block.block_id})


def _adapter(lora_request: LoRARequest) -> Adapter:
    return lora_request.lora_name, lora_request.lora_path
