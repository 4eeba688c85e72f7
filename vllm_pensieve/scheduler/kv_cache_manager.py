"""vLLM's KV cache manager, for prefixes with holes and swapped blocks: the lookup, the block table and its hashes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from typing_extensions import override
from vllm.utils.math_utils import cdiv
from vllm.v1.core.kv_cache_manager import KVCacheBlocks, KVCacheManager
from vllm.v1.core.kv_cache_utils import make_block_hash_with_group_id
from vllm.v1.metrics.cache_hit_source import CacheHitSource

from vllm_pensieve.recovery import Walk
from vllm_pensieve.scheduler.block_pool import PensieveBlockPool
from vllm_pensieve.space.restore_plan import RestoreCosts, RestorePlan, Source, plan_restore

if TYPE_CHECKING:
    from vllm.distributed.kv_events import KVCacheEvent
    from vllm.v1.core.kv_cache_utils import BlockHashWithGroupId, KVCacheBlock
    from vllm.v1.metrics.stats import PrefixCacheStats
    from vllm.v1.request import Request

    from vllm_pensieve.metrics import PensieveStats
    from vllm_pensieve.space.swapper import Swapper
    from vllm_pensieve.trace.recorder import TraceRecorder


@dataclass(frozen=True)
class Restore:
    """A prefix that is not all resident: blocks must be allocated for what is missing, and filled.

    missing: indexes of the blocks to allocate. slots: of those, the ones to load, index -> slot of host memory.
    """

    plan: RestorePlan
    missing: list[int]
    slots: dict[int, int]

    def tokens(self, source: Source, block_size: int) -> int:
        """Tokens of the prefix that come from this source."""
        return sum(map(len, self.plan.of(source))) * block_size


@dataclass(frozen=True)
class Lookup:
    """What a lookup found, and what it depends on: a waiting request is looked up again at every step."""

    depends_on: tuple[int, int, int]
    found: tuple[KVCacheBlocks, int, int]
    restore: Restore | None


class PensieveKVCacheManager(KVCacheManager):
    """A KVCacheManager that finds cached blocks after dropped ones and copies of blocks in host memory.

    walks: requests whose prefix has holes, from their lookup until the position has passed the last hole.
    """

    block_pool: PensieveBlockPool
    walks: dict[str, Walk]

    @classmethod
    def adopt(
        cls,
        manager: KVCacheManager,
        stats: PensieveStats,
        costs: RestoreCosts,
        swapper: Swapper | None,
        recorder: TraceRecorder | None,
        may_jump: Callable[[Request], bool],
        external_stats: Callable[[], PrefixCacheStats | None],
    ) -> None:
        """Turn a new manager, whose pool is ours already, into one of ours in place.

        may_jump: whether the model runner can compute a request's prefill in several parts.
        external_stats: what vLLM counted of lookups outside GPU memory since its last report; None without a connector.
        """
        assert type(manager) is KVCacheManager, type(manager)
        manager.__class__ = cls
        manager = cast(PensieveKVCacheManager, manager)
        manager.walks = {}
        manager._restores = {}  # from a request's lookup until its blocks are allocated
        manager._lookups = {}
        manager._stats = stats
        manager._costs = costs
        manager._contiguous_costs = replace(costs, recovery=False)
        manager._swapper = swapper
        manager._recorder = recorder
        manager._may_jump = may_jump
        manager._external_stats = external_stats
        manager._attention = manager.coordinator.single_type_managers[0]

    # -- lookup

    @override
    def get_computed_blocks(self, request: Request) -> tuple[KVCacheBlocks, int, int]:
        request_id = request.request_id
        host_version = self._swapper.host.version if self._swapper else 0
        now = (self.block_pool.content_version, host_version, request.num_tokens)
        lookup = self._lookups.get(request_id)
        if lookup is None or lookup.depends_on != now:
            lookup = self._lookups[request_id] = Lookup(now, *self._look_up(request))
        self.walks.pop(request_id, None)
        self._restores.pop(request_id, None)
        if lookup.restore is not None:
            self._restores[request_id] = lookup.restore
            if lookup.restore.plan.holes:
                self.walks[request_id] = Walk.over(lookup.restore.plan, self._costs.block_size)
        return lookup.found

    def _look_up(self, request: Request) -> tuple[tuple[KVCacheBlocks, int, int], Restore | None]:
        found = super().get_computed_blocks(request)
        blocks, _, boundary = found
        if not self.prefix_cache_lookup_enabled(request):
            return found, None
        costs = self._costs if self._may_have_holes(request) else self._contiguous_costs
        if not costs.recovery and self._swapper is None:
            return found, None
        table = list(blocks.blocks[0])
        sources: list[Source | None] = [Source.RESIDENT] * len(table)
        slots: dict[int, int] = {}
        for source, block, slot in self._behind(request, len(table), costs.recovery):
            if slot is not None:
                slots[len(table)] = slot
            table.append(block)
            sources.append(source)
        plan = plan_restore(sources, costs)
        if not plan.holes and not plan.loads:
            return found, None
        del table[plan.end :]
        for run in (*plan.holes, *plan.loads):
            table[run.start : run.end] = [self.block_pool.null_block] * len(run)
        restore = Restore(
            plan,
            missing=[index for index, block in enumerate(table) if block.is_null],
            slots={
                index: slots[index] for run in plan.loads for index in range(run.start, run.end)
            },
        )
        interleaved = self.create_kv_cache_blocks((table,))
        return (interleaved, plan.end * self._costs.block_size, boundary), restore

    @override
    def prefix_cache_lookup_enabled(self, request: Request) -> bool:
        """Not for a request that gets something back for each token of its prompt, whatever it says: there is nothing
        for tokens that are not computed, and vLLM would return memory that nobody wrote.
        """
        sampling = request.sampling_params
        return super().prefix_cache_lookup_enabled(request) and (
            sampling is None
            or (sampling.prompt_logprobs is None and sampling.prompt_logprob_token_ids is None)
        )

    def _may_have_holes(self, request: Request) -> bool:
        """Whether the request may jump: its prompt must be tokens, and the model runner able to compute it in parts."""
        return self._may_jump(request) and not request.mm_features and request.prompt_embeds is None

    def _behind(
        self, request: Request, start: int, recovery: bool
    ) -> Iterator[tuple[Source | None, KVCacheBlock, int | None]]:
        """Where each block from `start` on is, up to the last one that holds only known tokens."""
        pool, swapper = self.block_pool, self._swapper
        end = (request.num_tokens - 1) // self._costs.block_size
        for block_hash in request.block_hashes[start:end]:
            key = make_block_hash_with_group_id(block_hash, 0)
            block = pool.cached_block_hash_to_block.get_one_block(key)
            slot = swapper.host.find(key) if swapper is not None and block is None else None
            if block is not None:
                yield Source.RESIDENT, block, None
            elif slot is not None:
                yield Source.SWAPPED, pool.null_block, slot
            elif recovery:
                yield None, pool.null_block, None
            else:
                return

    @property
    def restore_costs(self) -> RestoreCosts:
        """What restore plans are made by."""
        return self._costs

    # -- allocation

    @override
    def allocate_slots(
        self, request: Request, num_new_tokens: int, *args: Any, **kwargs: Any
    ) -> KVCacheBlocks | None:
        if not self.walks and not self._restores:  # most steps, for every running request
            return super().allocate_slots(request, num_new_tokens, *args, **kwargs)
        restore = self._restores.get(request.request_id)
        if restore is None:
            new_blocks = super().allocate_slots(request, num_new_tokens, *args, **kwargs)
        else:
            new_blocks = self._allocate_prefix(request, restore, num_new_tokens, args, kwargs)
        walk = self.walks.get(request.request_id)
        if walk is not None and new_blocks is not None:
            self._hash_chunk(request, walk)
        return new_blocks

    def _allocate_prefix(
        self,
        request: Request,
        restore: Restore,
        num_new_tokens: int,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> KVCacheBlocks | None:
        # To stock code a null block is one that needs no memory.
        if not self._fits(request, len(restore.missing), kwargs):
            return None
        kwargs["reserved_blocks"] = kwargs.get("reserved_blocks", 0) + len(restore.missing)
        # What is evicted to make room goes to the host tier and must not take the place of what will be loaded.
        if self._swapper is not None:
            self._swapper.host.hold(restore.slots.values())
        new_blocks = super().allocate_slots(request, num_new_tokens, *args, **kwargs)
        if new_blocks is not None:
            self._fill(request, restore)
            del self._restores[request.request_id]
        elif self._swapper is not None:
            self._swapper.host.release(restore.slots.values())
        return new_blocks

    def _fits(self, request: Request, missing: int, kwargs: dict[str, Any]) -> bool:
        """Stock's admission gates, with the missing blocks counted."""
        table = kwargs["new_computed_blocks"].blocks[0]
        in_use = sum(not block.is_null and block.ref_cnt > 0 for block in table)
        watermark = self.watermark_blocks if kwargs.get("has_scheduled_reqs", True) else 0
        needed = len(table) - in_use + kwargs.get("reserved_blocks", 0)
        if kwargs.get("full_sequence_must_fit"):
            total = cdiv(min(request.num_tokens, self.max_model_len), self._costs.block_size)
            needed = max(needed, total - in_use)
        return needed + watermark <= self.block_pool.get_num_free_blocks()

    def _fill(self, request: Request, restore: Restore) -> None:
        """Give the request blocks for what is missing, and have the swapped ones loaded."""
        pool = self.block_pool
        table = self._attention.req_to_blocks[request.request_id]
        blocks = pool.get_new_blocks(len(restore.missing))
        # In ascending order neighbours are often neighbours in memory, which copy faster.
        blocks.sort(key=lambda block: block.block_id)
        for index, block in zip(restore.missing, blocks, strict=True):
            table[index] = block
        pool.null_block.ref_cnt -= len(restore.missing)  # stock code touched it once for each
        for run in restore.plan.loads:
            # The workers will have loaded it before anything reads it.
            pool.cache_full_blocks(request, table, run.start, run.end, self._costs.block_size, 0)
        if self._swapper is not None:
            for index, slot in restore.slots.items():
                self._swapper.load(slot, table[index].block_id)

    def _hash_chunk(self, request: Request, walk: Walk) -> None:
        """Hash the blocks that this step completes, when it is scheduled: as stock does after the kept prefix."""
        block_size = self._costs.block_size
        start, end = (tokens // block_size for tokens in walk.chunk)
        table = self._attention.req_to_blocks[request.request_id]
        self.block_pool.cache_full_blocks(request, table, start, end, block_size, 0)
        if self.block_pool.announcer is not None and walk.chunk[1] == walk.holes[0][1]:
            next_hole = walk.holes[1][0] if len(walk.holes) > 1 else walk.end
            self.block_pool.announcer.reached(request, end, next_hole // block_size, 0)

    @override
    def take_events(self) -> list[KVCacheEvent]:
        if self.block_pool.announcer is not None:
            self.block_pool.announcer.announce_copies()
        return super().take_events()

    def hashed_blocks(self, request_id: str, start: int, end: int) -> set[int]:
        """Ids of the request's blocks that have a hash and hold at least one of the tokens [start, end)."""
        block_size = self._costs.block_size
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
        self._restores.pop(request_id, None)
        self._lookups.pop(request_id, None)

    @override
    def record_prefix_cache_stats(self, request: Request, num_hits: int) -> None:
        """Called once when a request is admitted; the holes in its prefix are no hits."""
        lookup = self._lookups.pop(request.request_id, None)
        restore = lookup.restore if lookup else None
        block_size = self._costs.block_size
        recovered = restore.tokens(Source.RECOMPUTED, block_size) if restore else 0
        swapped = restore.tokens(Source.SWAPPED, block_size) if restore else 0
        resident = num_hits - recovered - swapped
        super().record_prefix_cache_stats(request, resident)
        self._count_external_hits(swapped, recovered, request.num_preemptions > 0)
        if request.num_preemptions == 0:
            self._stats.count_prompt(request.num_prompt_tokens, resident, swapped, recovered)
            if self._recorder is not None:
                self._recorder.admitted(request.request_id, resident, swapped, recovered)
                keys = self.prompt_keys(request)[: num_hits // block_size]
                holes = restore.plan.holes if restore else ()
                for hole in reversed(holes):
                    del keys[hole.start : hole.end]
                self._recorder.used(keys)

    def _count_external_hits(self, swapped: int, recovered: int, preempted: bool) -> None:
        """vLLM has just counted this request as one that asked the connector for what follows `num_hits` and got
        nothing; it asked for what is not resident and got what is swapped. All in tokens.
        """
        stats = self._external_stats()
        if stats is None or not swapped + recovered:
            return
        hits_by_source = {CacheHitSource.HOST: swapped} if swapped else None
        stats.record(swapped + recovered, swapped, preempted, hits_by_source)
        if preempted:
            stats.preempted_requests -= 1
        else:
            stats.requests -= 1

    def correct_prefill_stats(self, request: Request) -> None:
        """Called before a request is admitted, when vLLM takes the whole kept prefix for cached in GPU memory: what is
        swapped comes from outside it, and what is recovered is not cached.
        """
        restore = self._restores.get(request.request_id)
        stats = request.prefill_stats
        if restore is None or not stats or request.num_preemptions > 0:
            return
        block_size = self._costs.block_size
        stats.set(
            num_prompt_tokens=stats.num_prompt_tokens,
            num_local_cached_tokens=restore.tokens(Source.RESIDENT, block_size),
            num_external_cached_tokens=restore.tokens(Source.SWAPPED, block_size),
        )

    def prompt_keys(self, request: Request) -> list[BlockHashWithGroupId]:
        """The keys of the full blocks of a request's prompt."""
        full = request.num_prompt_tokens // self._costs.block_size
        return [make_block_hash_with_group_id(h, 0) for h in request.block_hashes[:full]]
