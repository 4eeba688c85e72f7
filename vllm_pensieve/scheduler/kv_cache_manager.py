"""vLLM's KV cache manager, for prefixes with holes: the lookup, the block table and its hashes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from typing_extensions import override
from vllm.utils.math_utils import cdiv
from vllm.v1.core.kv_cache_manager import KVCacheBlocks, KVCacheManager

from vllm_pensieve.recovery import Walk
from vllm_pensieve.scheduler.block_pool import PensieveBlockPool
from vllm_pensieve.space.restore_plan import plan_restore

if TYPE_CHECKING:
    from vllm.v1.core.kv_cache_utils import KVCacheBlock
    from vllm.v1.request import Request

    from vllm_pensieve.metrics import PensieveStats
    from vllm_pensieve.retention.cost_model import CostModel


@dataclass(frozen=True)
class Lookup:
    """What a lookup found, and what it depends on: a waiting request is looked up again at every step."""

    content_version: int
    num_tokens: int
    found: tuple[KVCacheBlocks, int, int]
    walk: Walk | None


class PensieveKVCacheManager(KVCacheManager):
    """A KVCacheManager that finds cached blocks behind dropped ones and has the dropped ones computed again.

    walks: requests whose prefix has holes, from their lookup until the position has passed the last hole.
    """

    block_pool: PensieveBlockPool
    walks: dict[str, Walk]

    @classmethod
    def adopt(
        cls,
        manager: KVCacheManager,
        stats: PensieveStats,
        cost_model: CostModel,
        step_cost_tokens: int,
        recovery: bool,
    ) -> None:
        """Turn a new manager, whose pool is ours already, into one of ours in place."""
        assert type(manager) is KVCacheManager, type(manager)
        manager.__class__ = cls
        manager = cast(PensieveKVCacheManager, manager)
        manager.walks = {}
        manager._lookups = {}
        manager._stats = stats
        manager._recovery = recovery
        manager._cost_model = cost_model
        manager._step_cost_tokens = step_cost_tokens
        manager._attention = manager.coordinator.single_type_managers[0]

    # -- lookup

    @override
    def get_computed_blocks(self, request: Request) -> tuple[KVCacheBlocks, int, int]:
        request_id = request.request_id
        lookup = self._lookups.get(request_id)
        now = (self.block_pool.content_version, request.num_tokens)
        if lookup is None or (lookup.content_version, lookup.num_tokens) != now:
            lookup = self._lookups[request_id] = Lookup(*now, *self._look_up(request))
        if lookup.walk is None:
            self.walks.pop(request_id, None)
        else:
            self.walks[request_id] = lookup.walk
        return lookup.found

    def _look_up(self, request: Request) -> tuple[tuple[KVCacheBlocks, int, int], Walk | None]:
        found = super().get_computed_blocks(request)
        blocks, _, boundary = found
        if not self._may_have_holes(request):
            return found, None
        table = self._resident_blocks(request, list(blocks.blocks[0]))
        block_size = self._attention.block_size
        plan = plan_restore(
            [not block.is_null for block in table],
            self._cost_model,
            block_size,
            self._step_cost_tokens,
        )
        if not plan.holes:
            return found, None
        for hole in plan.holes:
            table[hole.start : hole.end] = [self.block_pool.null_block] * (hole.end - hole.start)
        interleaved = self.create_kv_cache_blocks((table[: plan.end],))
        return (interleaved, plan.end * block_size, boundary), Walk.over(plan, block_size)

    def _may_have_holes(self, request: Request) -> bool:
        sampling = request.sampling_params
        return (
            self._recovery
            and self.prefix_cache_lookup_enabled(request)
            and not request.mm_features
            and request.prompt_embeds is None
            and (sampling is None or sampling.prompt_logprobs is None)
        )

    def _resident_blocks(self, request: Request, table: list[KVCacheBlock]) -> list[KVCacheBlock]:
        """The table up to the last block that holds only known tokens; a null block where one is not resident."""
        pool = self.block_pool
        last = (request.num_tokens - 1) // self._attention.block_size
        for block_hash in request.block_hashes[len(table) : last]:
            hit = pool.get_cached_block(block_hash, [0])
            table.append(hit[0] if hit else pool.null_block)
        return table

    # -- allocation

    @override
    def allocate_slots(
        self, request: Request, num_new_tokens: int, *args: Any, **kwargs: Any
    ) -> KVCacheBlocks | None:
        walk = self.walks.get(request.request_id)
        if walk is None:
            return super().allocate_slots(request, num_new_tokens, *args, **kwargs)
        holes: list[int] = []
        if not walk.filled:
            table = kwargs["new_computed_blocks"].blocks[0]
            holes = [index for index, block in enumerate(table) if block.is_null]
            # To stock code a null block is one that needs no memory.
            if not self._fits(request, table, kwargs):
                return None
            kwargs["reserved_blocks"] = kwargs.get("reserved_blocks", 0) + len(holes)
        new_blocks = super().allocate_slots(request, num_new_tokens, *args, **kwargs)
        if new_blocks is None:
            return None
        if not walk.filled:
            self._fill(request, holes)
            walk.filled = True
        self._hash_chunk(request, walk)
        return new_blocks

    def _fits(self, request: Request, table: list[KVCacheBlock], kwargs: dict[str, Any]) -> bool:
        """Stock's admission gate for the full sequence, with the holes counted."""
        if not kwargs.get("full_sequence_must_fit"):
            return True
        total = cdiv(min(request.num_tokens, self.max_model_len), self._attention.block_size)
        in_use = sum(not block.is_null and block.ref_cnt > 0 for block in table)
        watermark = self.watermark_blocks if kwargs.get("has_scheduled_reqs", True) else 0
        return total - in_use + watermark <= self.block_pool.get_num_free_blocks()

    def _fill(self, request: Request, holes: list[int]) -> None:
        table = self._attention.req_to_blocks[request.request_id]
        for index, block in zip(holes, self.block_pool.get_new_blocks(len(holes)), strict=True):
            table[index] = block
        self.block_pool.null_block.ref_cnt -= len(holes)  # stock code touched it once for each

    def _hash_chunk(self, request: Request, walk: Walk) -> None:
        """Hash the blocks that this step completes, when it is scheduled: as stock does behind the kept prefix."""
        block_size = self._attention.block_size
        start, end = (tokens // block_size for tokens in walk.chunk)
        table = self._attention.req_to_blocks[request.request_id]
        self.block_pool.cache_full_blocks(request, table, start, end, block_size, 0)

    def hashed_blocks(self, request_id: str, start: int, end: int) -> set[int]:
        """Ids of the request's blocks that have a hash and hold at least one of the tokens [start, end)."""
        block_size = self._attention.block_size
        table = self._attention.req_to_blocks.get(request_id, [])
        blocks = table[start // block_size : cdiv(end, block_size)]
        return {block.block_id for block in blocks if block.block_hash is not None}

    # -- the end, and statistics

    @override
    def free(self, request: Request) -> None:
        self._drop_plan(request.request_id)
        super().free(request)

    @override
    def pop_blocks_for_free(self, request: Request) -> Any:
        self._drop_plan(request.request_id)
        return super().pop_blocks_for_free(request)

    def _drop_plan(self, request_id: str) -> None:
        self.walks.pop(request_id, None)
        self._lookups.pop(request_id, None)

    @override
    def record_prefix_cache_stats(self, request: Request, num_hits: int) -> None:
        """Called once when a request is admitted; the holes in its prefix are no hits."""
        self._lookups.pop(request.request_id, None)
        walk = self.walks.get(request.request_id)
        recovered = walk.hole_tokens if walk else 0
        super().record_prefix_cache_stats(request, num_hits - recovered)
        if request.num_preemptions == 0:
            self._stats.count_prompt(request.num_prompt_tokens, num_hits - recovered, recovered)
