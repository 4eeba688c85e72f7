"""PensieveScheduler: vLLM's scheduler hooks, each a few lines that delegate."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from typing_extensions import override
from vllm.logger import init_logger
from vllm.utils.math_utils import cdiv
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.diffusion_scheduler import DiffusionAsyncScheduler, DiffusionScheduler
from vllm.v1.core.sched.output import NewRequestData
from vllm.v1.core.sched.request_queue import SchedulingPolicy
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import RequestStatus

from vllm_pensieve.config import ADDITIONAL_CONFIG_KEY, PensieveConfig
from vllm_pensieve.metrics import STATS_KEY, PensieveStats
from vllm_pensieve.policies.order import Order, make_order
from vllm_pensieve.policies.policy import Cache
from vllm_pensieve.retention.cost_model import block_costs
from vllm_pensieve.scheduler.adapters import AdaptersMixin
from vllm_pensieve.scheduler.block_pool import PensieveBlockPool
from vllm_pensieve.scheduler.choices import parent_of
from vllm_pensieve.scheduler.costs import Costs
from vllm_pensieve.scheduler.kv_cache_manager import PensieveKVCacheManager
from vllm_pensieve.space.block_watcher import BlockWatcher
from vllm_pensieve.space.clock import StepClock
from vllm_pensieve.space.sessions import SessionTable
from vllm_pensieve.swap.connector import PensieveConnector
from vllm_pensieve.vllm_hooks.patches import keep_external_ids
from vllm_pensieve.vllm_hooks.reasons import why_plain_prefixes, why_unusual_manager

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.core.sched.output import CachedRequestData, SchedulerOutput
    from vllm.v1.metrics.stats import SchedulerStats
    from vllm.v1.request import Request

    from vllm_pensieve.space.restoring import Restoring

logger = init_logger("vllm.pensieve")


class PensieveMixin(AdaptersMixin, Scheduler):
    """Keeps the blocks of conversations by retention value and recovers prefixes with holes.

    A request that recovers is a member of `running` like any other; only its position moves differently
    (space/restoring.py).

    restoring: requests that run and whose position still has to follow a restore plan; while a step is built, also
        those that may be admitted.
    plain_prefixes_because: why holes are not recovered with this model and configuration, or None when they are.
    costs: what decides evictions and restore plans; there are none with plain prefixes.
    """

    costs: Costs | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings = self.vllm_config.additional_config.get(ADDITIONAL_CONFIG_KEY)
        config = PensieveConfig.from_mapping(settings or {})
        self.pensieve_stats = PensieveStats()
        self.sessions = SessionTable(config.max_sessions)
        keep_external_ids()
        self._report_stats = False
        self.restoring: dict[str, Restoring] = {}
        # Under priority policy: the tokens that the step being built computes, by request.
        self._chunks: dict[str, tuple[int, int]] = {}
        self._notes_chunks = self.policy == SchedulingPolicy.PRIORITY
        self._clock = StepClock()
        self.plain_prefixes_because = why_plain_prefixes(
            self.vllm_config, self.kv_cache_config
        ) or why_unusual_manager(self.kv_cache_manager)
        if self.plain_prefixes_because is None:
            self._adopt(config)
            # Only a process whose plugin is on stands ready to read them.
            self._report_stats = settings is not None
        else:
            logger.info(
                "Pensieve: plain prefixes in vLLM's own order%s, because %s",
                " and no trace" if config.trace_prefix else "",
                self.plain_prefixes_because,
            )

    def _adopt(self, config: PensieveConfig) -> None:
        """Give the new, unused block pool and KV cache manager our classes."""
        manager = self.kv_cache_manager
        block_size = manager.coordinator.single_type_managers[0].block_size
        self.costs = Costs.of(config, self.vllm_config)
        cost_model = self.costs.cost_model

        longest = cdiv(self.max_model_len, block_size)
        prices = block_costs(cost_model, block_size, longest)

        def new_order(ids: int) -> Order:
            cache = Cache(ids, ids, prices, config.cost_bucket_ratio)
            return make_order(config.eviction_policy, cache)

        stock = manager.block_pool
        pool = PensieveBlockPool.adopt(
            stock,
            (manager, manager.coordinator, *manager.coordinator.single_type_managers),
            new_order(stock.num_gpu_blocks),
            block_size,
            self._clock,
        )
        watchers: list[BlockWatcher] = []
        load_bytes = 0
        if isinstance(self.connector, PensieveConnector) and self.connector.num_slots:
            watchers += self._add_host_tier(
                self.connector.num_slots, new_order, config, self._dropped_from_host
            )
            load_bytes = self._block_bytes
        if config.trace_prefix:
            watchers.append(self._start_trace(config, block_size, self._is_in_host_memory))
        watchers += self._follow_adapters()
        pool.follow(watchers)
        restore_costs = self.costs.of_restoring(config, block_size, load_bytes)
        if pool.announcer is not None:
            pool.announcer.load_from(restore_costs.first_worth_loading(longest))
        self.kv_cache_manager = PensieveKVCacheManager.adopt(
            manager,
            self.pensieve_stats,
            restore_costs,
            self.swapper,
            self._recorder,
            self.requests,
            self.restoring,
            self.may_jump,
            lambda: self.connector_prefix_cache_stats,
        )
        if self.connector is not None:
            self.connector.bind_kv_cache_manager(self.kv_cache_manager)
        if not config.recovery:
            self.plain_prefixes_because = "recovery is switched off"
        logger.info(
            "Pensieve: %d blocks of %d tokens in %s order and %d in host memory, recovery %s%s; "
            "at a depth of %.0f tokens a token costs twice as much as the first",
            pool.num_gpu_blocks,
            block_size,
            config.eviction_policy,
            self.swapper.host.num_slots if self.swapper else 0,
            "on" if config.recovery else "off",
            ", every layer keeps all tokens, also those with a sliding window"
            if self.vllm_config.model_config.get_sliding_window() is not None
            else "",
            cost_model.depth_of_double_cost(),
        )

    # -- sessions and traces

    @override
    def add_request(self, request: Request) -> None:
        is_new = request.request_id not in self.requests
        super().add_request(request)
        if is_new:
            turn = self.sessions.begin(
                request.request_id,
                request.session_id,
                request.block_hashes,
                time.monotonic(),
                parent_of(request),
            )
            if self._recorder is not None:
                self._recorder.arrived(request.request_id, turn)

    @override
    def _free_blocks(self, request: Request) -> None:
        self.sessions.end(request.request_id, request.block_hashes, time.monotonic())
        reason = request.get_finished_reason()
        self._record(request, None if reason is None else str(reason))
        super()._free_blocks(request)

    # -- recovery: admission, every chunk, after the step

    @override
    def _mark_prefix_replay(
        self, request: Request, num_hit_tokens: int, *args: Any, **kwargs: Any
    ) -> int:
        """Stock takes the result off the position at admission and asks for no slots for these tokens."""
        replay = super()._mark_prefix_replay(request, num_hit_tokens, *args, **kwargs)
        if not isinstance(self.kv_cache_manager, PensieveKVCacheManager):
            return replay
        restoring = self.kv_cache_manager.restoring_of(request)
        if restoring is None:
            return replay
        self.kv_cache_manager.correct_prefill_stats(request, restoring.plan)
        self.restoring[request.request_id] = restoring
        return num_hit_tokens - restoring.start

    @override
    def _reserve_prefill_lookahead(
        self, request: Request, num_computed_tokens: int, num_new_tokens: int
    ) -> int:
        """Called for every request before its allocation."""
        if not self.restoring and not self._seeded and not self._notes_chunks:  # most steps
            if self.num_prefill_lookahead:
                return Scheduler._reserve_prefill_lookahead(
                    self, request, num_computed_tokens, num_new_tokens
                )
            return num_new_tokens if num_new_tokens > 0 else 0  # as stock does without drafts
        num_new_tokens = super()._reserve_prefill_lookahead(
            request, num_computed_tokens, num_new_tokens
        )
        restoring = self.restoring.get(request.request_id)
        if restoring is not None:
            if request.status != RequestStatus.RUNNING and not self.kv_cache_manager.may_load(
                restoring
            ):
                return 0  # the next step
            num_new_tokens = restoring.clip(num_computed_tokens, num_new_tokens)
            if num_new_tokens and request.status == RequestStatus.RUNNING:  # it has the blocks
                self.kv_cache_manager.hash_chunk(request, restoring)
        if self._notes_chunks:
            end = num_computed_tokens + num_new_tokens
            self._chunks[request.request_id] = (num_computed_tokens, end)
        return num_new_tokens

    @override
    def _make_cached_request_data(
        self, running_reqs: list[Request], resumed_reqs: list[Request], *args: Any, **kwargs: Any
    ) -> CachedRequestData:
        # The V2 model runner keeps positions on the GPU and only counts up: a request that jumped is sent anew.
        if self.restoring and self.use_v2_model_runner:
            running_reqs = [r for r in running_reqs if not self._must_resend(r.request_id)]
        return super()._make_cached_request_data(running_reqs, resumed_reqs, *args, **kwargs)

    def _must_resend(self, request_id: str) -> bool:
        restoring = self.restoring.get(request_id)
        return restoring is not None and restoring.must_resend

    @override
    def _update_after_schedule(self, scheduler_output: SchedulerOutput) -> None:
        scheduled = scheduler_output.num_scheduled_tokens
        for request_id in self.restoring:
            if request_id in scheduled and self._must_resend(request_id):
                request = self.requests[request_id]
                scheduler_output.scheduled_new_reqs.append(self._as_new(request))
                self.restoring[request_id].must_resend = False
        super()._update_after_schedule(scheduler_output)
        self._chunks.clear()
        for request_id, restoring in list(self.restoring.items()):
            request = self.requests[request_id]
            if request_id in scheduled:
                self._move_on(request, restoring)
            if restoring.done or request.status != RequestStatus.RUNNING:
                del self.restoring[request_id]

    def _move_on(self, request: Request, restoring: Restoring) -> None:
        position = restoring.jump(request.num_computed_tokens)
        if position is not None:
            request.num_computed_tokens = position
            restoring.must_resend = self.use_v2_model_runner

    def _as_new(self, request: Request) -> NewRequestData:
        return NewRequestData.from_request(
            request,
            self.kv_cache_manager.get_block_ids(request.request_id),
            list(request.all_token_ids),
            uses_mrope=self.model_uses_mrope,
        )

    # -- taken back

    @override
    def _preempt_request(self, request: Request, *args: Any, **kwargs: Any) -> None:
        # Under priority policy a request may lose its place in the step being built. What that step was to compute
        # for it is hashed already and never will be there.
        chunk = self._chunks.pop(request.request_id, None)
        if chunk is not None and isinstance(self.kv_cache_manager, PensieveKVCacheManager):
            self.kv_cache_manager.evict_blocks(
                self.kv_cache_manager.hashed_blocks(request.request_id, *chunk)
            )
        super()._preempt_request(request, *args, **kwargs)

    # -- time

    @override
    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        self._clock.tick()
        self._begin_loads()
        return super().schedule(*args, **kwargs)

    # -- statistics

    @override
    def make_stats(self, *args: Any, **kwargs: Any) -> SchedulerStats | None:
        stats = super().make_stats(*args, **kwargs)
        if (
            stats is not None
            and self._report_stats
            and self.pensieve_stats.report_due(time.monotonic(), idle=not self.requests)
        ):
            self._count_evictions()
            self._count_lost_records()
            stats.kv_connector_stats = {
                **(stats.kv_connector_stats or {}),
                STATS_KEY: self._report(),
            }
        return stats

    def _count_evictions(self) -> None:
        if self.swapper is None:
            queue = self.kv_cache_manager.block_pool.free_block_queue
            self.pensieve_stats.evictions["dropped"] = queue.evicted_blocks
        else:
            self._count_swaps(self.pensieve_stats)

    def _report(self) -> dict[str, Any]:
        pool = self.kv_cache_manager.block_pool
        empty = pool.free_block_queue.empty_blocks
        resident = pool.num_gpu_blocks - 1 - empty  # all but the null block
        swapped = self.swapper.host.only_copies if self.swapper else 0
        return self.pensieve_stats.report(
            self.parallel_config.data_parallel_index,
            {"resident": resident, "swapped": swapped, "free": empty},
            self.swapper.host.num_slots if self.swapper else 0,
            len(self.sessions),
            time.monotonic(),
        )


class PensieveScheduler(PensieveMixin, Scheduler):
    """For synchronous scheduling."""


class AsyncPensieveScheduler(PensieveMixin, AsyncScheduler):
    """For asynchronous scheduling: a step is built while the one before it still runs."""


def make_scheduler(vllm_config: VllmConfig, **kwargs: Any) -> Scheduler:
    """The scheduler that the configuration asks for; vLLM calls what scheduler_cls names with keywords only.

    A diffusion model has schedulers of its own in vLLM, which are left in place.
    """
    asynchronous = vllm_config.scheduler_config.async_scheduling
    if vllm_config.diffusion_config is not None:
        logger.info("Pensieve: vLLM's own scheduler, because the model is a diffusion model")
        cls = DiffusionAsyncScheduler if asynchronous else DiffusionScheduler
    else:
        cls = AsyncPensieveScheduler if asynchronous else PensieveScheduler
    return cls(vllm_config=vllm_config, **kwargs)
