"""vLLM's KV cache manager, for prefixes with holes and swapped blocks: the lookup, the block table and its hashes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from typing_extensions import override
from vllm.utils.math_utils import cdiv
from vllm.v1.core.kv_cache_manager import KVCacheBlocks, KVCacheManager
from vllm.v1.metrics.cache_hit_source import CacheHitSource

from vllm_pensieve.scheduler.block_pool import PensieveBlockPool
from vllm_pensieve.scheduler.hole_filling import HoleFillingManager
from vllm_pensieve.scheduler.made_anew import made_anew
from vllm_pensieve.space.restore_plan import (
    RestoreCosts,
    RestorePlan,
    Run,
    Source,
    compute_while_loading,
    plan_restore,
)
from vllm_pensieve.space.restoring import Restoring

if TYPE_CHECKING:
    from vllm.distributed.kv_events import KVCacheEvent
    from vllm.v1.core.kv_cache_utils import BlockHashWithGroupId, KVCacheBlock
    from vllm.v1.metrics.stats import PrefixCacheStats
    from vllm.v1.request import Request

    from vllm_pensieve.metrics import PensieveStats
    from vllm_pensieve.space.swapper import Swapper
    from vllm_pensieve.trace.recorder import TraceRecorder


@dataclass(frozen=True)
class Lookup:
    """What a lookup found, and what it depends on: a waiting request is looked up again at every step."""

    depends_on: tuple[int | None, ...]
    found: tuple[KVCacheBlocks, int, int]
    restoring: Restoring | None


class PensieveKVCacheManager(KVCacheManager):
    """A KVCacheManager that finds cached blocks after dropped ones and copies of blocks in host memory.

    loads_per_step: blocks that a step may copy from host memory; None for as many as there are.
    loads_planned: blocks that the step being built copies so far.
    restoring: the scheduler's requests that carry out a restore plan.
    """

    block_pool: PensieveBlockPool
    loads_per_step: int | None
    loads_planned: int
    restoring: dict[str, Restoring]

    @classmethod
    def adopt(
        cls,
        manager: KVCacheManager,
        stats: PensieveStats,
        costs: RestoreCosts,
        swapper: Swapper | None,
        recorder: TraceRecorder | None,
        requests: Mapping[str, Request],
        restoring: dict[str, Restoring],
        may_jump: Callable[[Request], bool],
        external_stats: Callable[[], PrefixCacheStats | None],
    ) -> PensieveKVCacheManager:
        """One of ours in place of a new one, whose pool is ours already. Nothing but a scheduler refers to the old one.

        requests: the scheduler's. restoring: the scheduler's, too; a request that is freed is taken out of it.
        may_jump: whether the model runner can compute a request's prefill in several parts.
        external_stats: what vLLM counted of lookups outside GPU memory since its last report; None without a connector.
        """
        manager = made_anew(cls, manager)
        manager.loads_per_step, manager.loads_planned = None, 0
        manager._lookups = {}  # of waiting requests
        manager._requests = requests
        manager.restoring = restoring
        manager._stats = stats
        manager._costs = costs
        manager._contiguous_costs = replace(costs, recovery=False)
        manager._swapper = swapper
        manager._recorder = recorder
        manager._may_jump = may_jump
        manager._external_stats = external_stats
        manager._attention = HoleFillingManager.adopt(manager)
        return manager

    # -- lookup

    @override
    def get_computed_blocks(self, request: Request) -> tuple[KVCacheBlocks, int, int]:
        host_version = self._swapper.host.version if self._swapper else 0
        now = (
            self.block_pool.content_version,
            host_version,
            request.num_tokens,
            self.loads_per_step,
        )
        lookup = self._lookups.get(request.request_id)
        if lookup is None or lookup.depends_on != now:
            lookup = Lookup(now, *self._look_up(request))
            self._lookups[request.request_id] = lookup
        return lookup.found

    def restoring_of(self, request: Request) -> Restoring | None:
        """What a waiting request would carry out if it were admitted now; None if its kept prefix is all resident."""
        lookup = self._lookups.get(request.request_id)
        return lookup.restoring if lookup else None

    def _look_up(self, request: Request) -> tuple[tuple[KVCacheBlocks, int, int], Restoring | None]:
        if not self.prefix_cache_lookup_enabled(request):
            return (self.empty_kv_cache_blocks, 0, 0), None
        pool, size = self.block_pool, self._costs.block_size
        costs = self._costs if self._may_have_holes(request) else self._contiguous_costs
        end = (request.num_tokens - 1) // size  # at least one token is to be computed
        keys = pool.keys(request.block_hashes[:end])
        table = pool.find(keys)
        found = bytearray(map(bool, table)) if any(table) else bytearray(len(table))
        slots: dict[int, int] = {}
        if self._swapper is not None:
            missing = [index for index, resident in enumerate(found) if not resident]
            for index, slot in zip(
                missing, self._swapper.host.find_all([keys[i] for i in missing]), strict=True
            ):
                if slot is not None:
                    slots[index] = slot
                    found[index] = Source.SWAPPED
        if self.enable_kv_cache_events:
            self._announce_hit(request, table[: first_zero(found)])
        if not costs.recovery:
            del found[first_zero(found) :]
        plan = plan_restore(bytes(found).rstrip(b"\0"), costs)
        in_stages = costs.recovery and self._exceeds_a_step(plan)
        if in_stages:
            plan = compute_while_loading(plan, costs)
            in_stages = self._exceeds_a_step(plan)
        del table[plan.end :]
        for run in chain(plan.holes, plan.loads):
            table[run.start : run.end] = [pool.null_block] * len(run)
        hit = (self.create_kv_cache_blocks((table,)), plan.end * size, 0)
        if not plan.holes and not plan.loads:
            return hit, None
        return hit, Restoring(
            plan,
            slots=[slots[index] for run in plan.loads for index in _indexes(run)],
            block_size=size,
            in_stages=in_stages,
        )

    def _exceeds_a_step(self, plan: RestorePlan) -> bool:
        return self.loads_per_step is not None and plan.blocks(Source.SWAPPED) > self.loads_per_step

    def may_load(self, restoring: Restoring) -> bool:
        """Whether the step being built may admit a request, by what it has planned to copy already."""
        return (
            restoring.in_stages
            or self.loads_per_step is None
            or not self.loads_planned
            or self.loads_planned + len(restoring.slots) <= self.loads_per_step
        )

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

    def _announce_hit(self, request: Request, resident: Sequence[KVCacheBlock]) -> None:
        """As stock: a request may ask that its resident prefix be announced again."""
        if resident and getattr(request, "kv_cache_report_mode", "incremental") == "full":
            self.coordinator.emit_cached_block_events(request, (resident,))

    @property
    def restore_costs(self) -> RestoreCosts:
        """What restore plans are made by."""
        return self._costs

    # -- allocation

    def restore(
        self, request_id: str, restoring: Restoring, resident: Sequence[KVCacheBlock]
    ) -> list[KVCacheBlock]:
        """The table of an admitted request's kept prefix: blocks for what is missing, and the swapped ones loaded.

        resident: the blocks that are there, which nothing can evict any more.
        """
        # What is evicted to make room goes to the host tier and must not take the place of what will be loaded.
        if self._swapper is not None:
            self._swapper.host.hold(restoring.slots)
        blocks = self.block_pool.get_new_blocks(restoring.missing)
        # In ascending order neighbours are often neighbours in memory, which copy faster.
        blocks.sort(key=attrgetter("block_id"))
        new, kept = iter(blocks), iter(resident)
        table: list[KVCacheBlock] = []
        for run in restoring.plan.runs:
            source = kept if run.source is Source.RESIDENT else new
            table.extend(islice(source, len(run)))
        request = self._requests[request_id]
        if self._swapper is not None:
            plan = restoring.plan
            later = chain(plan.holes, plan.loads) if restoring.in_stages else plan.holes
            self._swapper.defer_stores(_block_ids(table, later))
            if not restoring.in_stages:
                self.loads_planned += len(restoring.slots)
                restoring.begun = len(restoring.slots)
                self._swapper.load(restoring.slots, _block_ids(table, plan.loads))
                # The workers will have loaded it before anything reads it.
                self._hash(request, table, restoring.arrive())
        self.hash_chunk(request, restoring, table)
        return table

    def prefetch(self, request: Request, restoring: Restoring, count: int) -> int:
        """Have the step being built make copies that the request waits for; returns how many, `count` at most.

        Of the next blocks the first that are free to be written are loaded; the others must be stored before.
        """
        assert self._swapper is not None
        table = self._attention.req_to_blocks[request.request_id]
        waiting = restoring.loads(restoring.begun, len(restoring.slots))
        tables = (table[run.start : run.end] for run in waiting)
        block_ids = [block.block_id for block in islice(chain.from_iterable(tables), count)]
        deferred = list(filter(self._swapper.is_deferred, block_ids))
        loads = block_ids.index(deferred[0]) if deferred else len(block_ids)
        for index, slot in restoring.begin(loads):
            self._swapper.prefetch(slot, table[index].block_id)
        for block_id in deferred:
            if self._swapper.is_deferred(block_id):  # else one of the loads reads its copy
                self._swapper.store_ahead_of_writing(block_id)
        return loads + len(deferred)

    def loads_arrived(self, request: Request, restoring: Restoring) -> None:
        """What the step before loaded may be read from now on, by others, too."""
        table = self._attention.req_to_blocks[request.request_id]
        self._hash(request, table, restoring.arrive())

    def _hash(self, request: Request, table: list[KVCacheBlock], runs: Iterable[Run]) -> None:
        for run in runs:
            self.block_pool.cache_full_blocks(
                request, table, run.start, run.end, self._costs.block_size, 0
            )

    def hash_chunk(
        self, request: Request, restoring: Restoring, table: list[KVCacheBlock] | None = None
    ) -> None:
        """Hash the blocks that this step completes, when it is scheduled: as stock does after the kept prefix."""
        if not restoring.holes:
            return
        size = self._costs.block_size
        start, end = (tokens // size for tokens in restoring.chunk)
        if table is None:
            table = self._attention.req_to_blocks[request.request_id]
        self.block_pool.cache_full_blocks(request, table, start, end, size, 0)
        if self._swapper is not None:
            written = table[start : cdiv(restoring.chunk[1], size)]
            self._swapper.will_be_written(block.block_id for block in written)
        if self.block_pool.announcer is not None and restoring.chunk[1] == restoring.holes[0][1]:
            following = restoring.holes[1][0] if len(restoring.holes) > 1 else restoring.end
            self.block_pool.announcer.reached(request, end, following // size, 0)

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
        restoring = self.restoring.pop(request_id, None)
        if restoring is not None and self._swapper is not None:
            self._swapper.host.release(restoring.slots[restoring.begun :])
            table = self._attention.req_to_blocks[request_id]
            self._swapper.will_be_written(block.block_id for block in table)
        self._lookups.pop(request_id, None)

    @override
    def record_prefix_cache_stats(self, request: Request, num_hits: int) -> None:
        """Called once when a request is admitted; the holes in its prefix are no hits."""
        lookup = self._lookups.pop(request.request_id, None)
        plan = lookup.restoring.plan if lookup and lookup.restoring else None
        block_size = self._costs.block_size
        recovered = plan.blocks(Source.RECOMPUTED) * block_size if plan else 0
        swapped = plan.blocks(Source.SWAPPED) * block_size if plan else 0
        resident = num_hits - recovered - swapped
        super().record_prefix_cache_stats(request, resident)
        self._count_external_hits(swapped, recovered, request.num_preemptions > 0)
        if request.num_preemptions == 0:
            self._stats.count_prompt(request.num_prompt_tokens, resident, swapped, recovered)
            if self._recorder is not None:
                self._recorder.admitted(request.request_id, resident, swapped, recovered)
                keys = self.prompt_keys(request)[: num_hits // block_size]
                for hole in reversed(plan.holes if plan else ()):
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

    def correct_prefill_stats(self, request: Request, plan: RestorePlan) -> None:
        """Called before a request is admitted, when vLLM takes the whole kept prefix for cached in GPU memory: what is
        swapped comes from outside it, and what is recovered is not cached.
        """
        stats = request.prefill_stats
        if not stats or request.num_preemptions > 0:
            return
        block_size = self._costs.block_size
        stats.set(
            num_prompt_tokens=stats.num_prompt_tokens,
            num_local_cached_tokens=plan.blocks(Source.RESIDENT) * block_size,
            num_external_cached_tokens=plan.blocks(Source.SWAPPED) * block_size,
        )

    def prompt_keys(self, request: Request) -> list[BlockHashWithGroupId]:
        """The keys of the full blocks of a request's prompt."""
        full = request.num_prompt_tokens // self._costs.block_size
        return self.block_pool.keys(request.block_hashes[:full])


def _block_ids(table: Sequence[KVCacheBlock], runs: Iterable[Run]) -> list[int]:
    return [block.block_id for run in runs for block in table[run.start : run.end]]


def first_zero(found: bytearray) -> int:
    """The index of the first dropped block, or how many blocks there are."""
    index = found.find(0)
    return len(found) if index < 0 else index


def _indexes(run: Run) -> range:
    return range(run.start, run.end)
