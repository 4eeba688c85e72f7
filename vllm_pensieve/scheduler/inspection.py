"""Looking into the scheduler of an engine of this process, vLLM's own or ours; nothing is changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vllm.sampling_params import SamplingParams
from vllm.v1.core.kv_cache_utils import make_block_hash_with_group_id
from vllm.v1.request import Request

from vllm_pensieve.scheduler.scheduler import PensieveMixin
from vllm_pensieve.space.restore_plan import RestoreCosts, RestorePlan, Source, plan_restore
from vllm_pensieve.vllm_hooks.sizes import block_bytes

if TYPE_CHECKING:
    from vllm.v1.core.kv_cache_utils import BlockHashWithGroupId
    from vllm.v1.engine.llm_engine import LLMEngine

    from vllm_pensieve.space.host_tier import HostTier


class Inspection:
    """The engine's blocks and counters, at the time they are asked for."""

    def __init__(self, engine: LLMEngine) -> None:
        self._core = engine.engine_core.engine_core
        self.scheduler: Any = self._core.scheduler

    @property
    def adopted(self) -> bool:
        """Whether the plugin serves; otherwise it is off, or prefixes are plain."""
        return isinstance(self.scheduler, PensieveMixin) and hasattr(
            self.scheduler.kv_cache_manager.block_pool.free_block_queue, "evicted_blocks"
        )

    @property
    def block_bytes(self) -> int:
        """Bytes of one block on all workers together."""
        world_size: int = self.scheduler.parallel_config.world_size
        return block_bytes(self.scheduler.kv_cache_config) * world_size

    @property
    def gpu_blocks(self) -> int:
        """Blocks that GPU memory can hold; one of vLLM's is the null block."""
        return int(self.scheduler.kv_cache_manager.block_pool.num_gpu_blocks) - 1

    @property
    def free_blocks(self) -> int:
        """Blocks that no request uses, cached or empty."""
        return int(self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks())

    @property
    def used_gpu_blocks(self) -> int:
        """Blocks of GPU memory that are cached or that a request uses."""
        blocks = self.scheduler.kv_cache_manager.block_pool.blocks
        return sum(
            not block.is_null and (block.ref_cnt > 0 or block.block_hash is not None)
            for block in blocks
        )

    @property
    def cpu_blocks(self) -> int:
        """Blocks that host memory can hold."""
        return self._host.num_slots if self._host is not None else 0

    @property
    def used_cpu_blocks(self) -> int:
        """Blocks that host memory holds, whether GPU memory has them too or not."""
        return len(self._host) if self._host is not None else 0

    @property
    def _host(self) -> HostTier | None:
        swapper = self.scheduler.swapper if self.adopted else None
        return swapper.host if swapper is not None else None

    @property
    def stateless(self) -> bool:
        """Whether nothing is kept from one request to the next."""
        return not self.scheduler.cache_config.enable_prefix_caching

    def prompt_tokens(self) -> dict[str, int] | None:
        """Prompt tokens by where their KV came from, or None where the plugin does not count them."""
        return dict(self.scheduler.pensieve_stats.prompt_tokens) if self.adopted else None

    def recoveries(self) -> int:
        """Requests that computed a hole in their prefix again."""
        return self.scheduler.pensieve_stats.recoveries if self.adopted else 0

    def evictions(self) -> dict[str, int] | None:
        """Blocks that left GPU memory, by where they went; None where the plugin does not count them."""
        if not self.adopted:
            return None
        self.scheduler._count_evictions()
        return dict(self.scheduler.pensieve_stats.evictions)

    def keys(self, token_ids: Sequence[int]) -> list[BlockHashWithGroupId]:
        """The key of every full block of these tokens; none where prefixes are not cached."""
        hasher = self._core.request_block_hasher
        if hasher is None or not token_ids:
            return []
        probe = Request(
            request_id="inspection",
            prompt_token_ids=list(token_ids),
            sampling_params=SamplingParams(max_tokens=1),
            pooling_params=None,
            block_hasher=hasher,
        )
        return [make_block_hash_with_group_id(block_hash, 0) for block_hash in probe.block_hashes]

    def block_states(self, token_ids: Sequence[int]) -> list[str]:
        """Where each full block of these tokens is: resident, swapped or dropped."""
        size = self.scheduler.kv_cache_manager.coordinator.single_type_managers[0].block_size
        keys = self.keys(token_ids)
        if not keys:
            return ["dropped"] * (len(token_ids) // size)
        return [self._state(key) for key in keys]

    def restore_plan(self, token_ids: Sequence[int]) -> RestorePlan:
        """What a prompt that begins with these tokens would do with their full blocks, as things stand now."""
        if not self.adopted:
            return RestorePlan()
        sources = {
            "resident": Source.RESIDENT,
            "swapped": Source.SWAPPED,
            "dropped": Source.RECOMPUTED,
        }
        found = bytes(sources[state] for state in self.block_states(token_ids))
        return plan_restore(found, self.restore_costs)

    @property
    def restore_costs(self) -> RestoreCosts:
        """What restore plans are made by; for schedulers of the plugin only."""
        costs: RestoreCosts = self.scheduler.kv_cache_manager.restore_costs
        return costs

    @property
    def costs_in_seconds(self) -> bool:
        """Whether those costs are seconds of a cost profile; else they are FLOPs."""
        return self.scheduler.costs.profile is not None

    def _state(self, key: BlockHashWithGroupId) -> str:
        cached = self.scheduler.kv_cache_manager.block_pool.cached_block_hash_to_block
        if cached.get_one_block(key) is not None:
            return "resident"
        if self.adopted and self.scheduler._is_in_host_memory(key):
            return "swapped"
        return "dropped"

    def blocks_in_use(self) -> dict[str, list[int]]:
        """Ids of the blocks that each request of the scheduler holds now, by its id there."""
        manager = self.scheduler.kv_cache_manager
        return {
            request_id: list(manager.get_block_ids(request_id)[0])
            for request_id in self.scheduler.requests
        }

    def users_and_keys(self, block_ids: Sequence[int]) -> list[tuple[int, object]]:
        """Of each block: requests that use it, and the key of what it caches (None: nothing yet)."""
        blocks = self.scheduler.kv_cache_manager.block_pool.blocks
        return [(blocks[i].ref_cnt, blocks[i].block_hash) for i in block_ids]

    def cached_block_ids(self, token_ids: Sequence[int]) -> list[int | None]:
        """Id of the resident block of every full block of these tokens; None where it is not resident."""
        cached = self.scheduler.kv_cache_manager.block_pool.cached_block_hash_to_block
        blocks = [cached.get_one_block(key) for key in self.keys(token_ids)]
        return [None if block is None else block.block_id for block in blocks]
