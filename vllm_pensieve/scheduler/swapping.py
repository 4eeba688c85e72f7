"""The host tier in vLLM's scheduler: plans go out with each step, and what failed is taken back."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Hashable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from typing_extensions import override
from vllm.logger import init_logger
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import RequestStatus

from vllm_pensieve.config import PensieveConfig
from vllm_pensieve.metrics import PensieveStats
from vllm_pensieve.policies.order import Order
from vllm_pensieve.scheduler.hash_log import HashLog, tainted
from vllm_pensieve.scheduler.seeds import SeedsMixin
from vllm_pensieve.space.block_watcher import BlockWatcher
from vllm_pensieve.space.clock import StepClock
from vllm_pensieve.space.host_tier import HostTier
from vllm_pensieve.space.swapper import Swapper
from vllm_pensieve.swap.connector import SwapMetadata, SwapReport
from vllm_pensieve.vllm_hooks.sizes import block_bytes

if TYPE_CHECKING:
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.outputs import KVConnectorOutput

    from vllm_pensieve.space.restoring import Restoring

logger = init_logger("vllm.pensieve")

# Of idle blocks copied ahead of time during one step: a burst would hold up the next step.
AHEAD_BLOCKS_PER_STEP = 64
ASSUMED_LOAD_BYTES_PER_S = 5e9
"""Where it was not measured."""


class SwappingMixin(SeedsMixin, Scheduler):
    """Sends swap plans to the workers and hears of copies that failed. Does nothing without a host tier.

    swapper: keeps copies of blocks in host memory, or None where there is no host tier.
    restoring: requests that run and whose position still has to follow a restore plan.
    """

    kv_cache_manager: Any
    restoring: dict[str, Restoring]

    swapper: Swapper | None = None
    pensieve_stats: PensieveStats
    _clock: StepClock
    _hash_log: HashLog
    _block_bytes: int
    _wanted_clean: int
    _load_s_per_step: float

    def _add_host_tier(
        self,
        num_slots: int,
        new_order: Callable[[int], Order],
        config: PensieveConfig,
        on_dropped: Callable[[Hashable], None],
    ) -> list[BlockWatcher]:
        """Begin to use host memory; returns what must follow the pool's blocks, in this order.

        new_order: for that many ids. on_dropped: called with the key of every block whose only copy is given up.
        """
        num_blocks = self.kv_cache_manager.block_pool.num_gpu_blocks
        announcer = self.kv_cache_manager.block_pool.announcer
        host = HostTier(num_slots, new_order(num_slots), on_dropped, announcer)
        self.swapper = Swapper(host, new_order(num_blocks), self._clock)
        self._hash_log = HashLog()
        self._block_bytes = block_bytes(self.kv_cache_config)
        self._load_s_per_step = config.load_ms_per_step / 1e3
        self._wanted_clean = int(config.ahead_of_time_threshold * num_blocks)
        reserve = int(config.admission_reserve * num_blocks)
        manager = self.kv_cache_manager
        manager.watermark_blocks = max(manager.watermark_blocks, reserve)
        return [self.swapper, self._hash_log]

    def _is_in_host_memory(self, key: Hashable) -> bool:
        return self.swapper is not None and self.swapper.host.find(key) is not None

    @override
    def _build_kv_connector_meta(
        self, connector: Any, scheduler_output: SchedulerOutput
    ) -> KVConnectorMetadata:
        if self.swapper is None:
            return super()._build_kv_connector_meta(connector, scheduler_output)
        self._prefetch()
        pool = self.kv_cache_manager.block_pool
        clean = pool.free_block_queue.num_free_blocks - self.swapper.dirty_blocks
        most = min(self._loads_per_step or AHEAD_BLOCKS_PER_STEP, AHEAD_BLOCKS_PER_STEP)
        ahead = min(self._wanted_clean - clean, most)
        if self.swapper.is_loading:  # what is copied ahead of time would make the step longer still
            ahead = 0
        plan = self.swapper.take_plan(ahead)
        # Without this vLLM would have the loads begin after the forward pass.
        scheduler_output.has_sync_kv_loads |= bool(plan.loads)
        self._hash_log.step_scheduled()
        return SwapMetadata(plan)

    # -- loads in stages

    def _begin_loads(self) -> None:
        """A step is about to be built: take note of what the one before loaded, and of what this one may load."""
        if self.swapper is None:
            return
        manager = self.kv_cache_manager
        waiting = 0
        for request_id, restoring in self.restoring.items():
            if restoring.arrived < restoring.begun:
                manager.loads_arrived(self.requests[request_id], restoring)
            waiting += not restoring.all_arrived
        others_run = len(self.running) > waiting
        manager.loads_per_step = self._loads_per_step if others_run else None
        manager.loads_planned = 0

    @cached_property
    def _loads_per_step(self) -> int | None:
        """Blocks whose copies take as long as a step may last because of them; None without a limit."""
        if not self._load_s_per_step:
            return None
        measured = self.connector.load_bytes_per_s or ASSUMED_LOAD_BYTES_PER_S
        return max(1, int(self._load_s_per_step * measured / self._block_bytes))

    def _prefetch(self) -> None:
        """The step is complete, so that nobody loses its place in it any more: begin loads for later ones.

        At least half of what a step may load is kept for them, whatever the requests load that it admits.
        """
        manager = self.kv_cache_manager
        limit = manager.loads_per_step
        left = sys.maxsize if limit is None else max(limit - manager.loads_planned, limit // 2, 1)
        for request_id, restoring in self.restoring.items():
            request = self.requests[request_id]
            if restoring.in_stages and request.status == RequestStatus.RUNNING:
                left -= manager.prefetch(request, restoring, left)

    def _discard(self, slots: Iterable[int]) -> set[str]:
        """These copies are not good; requests that have not loaded them yet begin again. Returns the requests."""
        lost = set(slots)
        assert self.swapper is not None
        self.swapper.host.discard(lost)
        affected = {
            request_id
            for request_id, restoring in self.restoring.items()
            if not lost.isdisjoint(restoring.slots[restoring.arrived :])
        }
        self._begin_again(affected)
        return affected

    def _begin_again(self, request_ids: Collection[str]) -> None:
        """Preempt these running requests, and drop what is still to come from steps under way."""
        for request in [r for r in reversed(self.running) if r.request_id in request_ids]:
            self.running.remove(request)
            self._preempt_request(request, time.monotonic(), drop_stale_output=True)
            self._forget_sample(request)
            self.prev_step_scheduled_req_ids.discard(request.request_id)

    @override
    def update_from_output(self, *args: Any, **kwargs: Any) -> Any:
        outputs = super().update_from_output(*args, **kwargs)
        if self.swapper is not None:
            self._hash_log.step_done()
        return outputs

    @override
    def _handle_invalid_blocks(
        self, invalid_block_ids: set[int], *args: Any, **kwargs: Any
    ) -> set[str]:
        """Some blocks could not be loaded: take back whatever rests on them, and begin those requests again."""
        if self.swapper is None:
            return super()._handle_invalid_blocks(invalid_block_ids, *args, **kwargs)
        self.pensieve_stats.failed_loads += len(invalid_block_ids)
        manager = self.kv_cache_manager
        pool = manager.block_pool
        tables = {r.request_id: manager.get_block_ids(r.request_id)[0] for r in self.running}
        requests, entries = tainted(invalid_block_ids, self._hash_log.entries(), tables)
        slots: set[int] = set()
        for entry in entries:
            if pool.blocks[entry.block_id].block_hash == entry.key:
                pool.evict_blocks({entry.block_id})
            slot = self.swapper.host.find(entry.key)
            if slot is not None:
                slots.add(slot)
        requests |= self._discard(slots)
        # Of a request that was preempted already it is not known whether what is still to come from it is good.
        for request in self.requests.values():
            if request.num_stale_output_tokens > 0:
                request.drop_stale_output = True
        self._begin_again(requests)
        logger.warning(
            "Pensieve: %d blocks could not be loaded from host memory; %d requests begin again without them",
            len(invalid_block_ids),
            len(requests),
        )
        return requests

    @override
    def _update_from_kv_xfer_finished(self, kv_connector_output: KVConnectorOutput) -> None:
        super()._update_from_kv_xfer_finished(kv_connector_output)
        report = kv_connector_output.kv_connector_worker_meta
        if self.swapper is not None and isinstance(report, SwapReport):
            self._discard(report.bad_slots)
            self.pensieve_stats.checksum_failures += len(report.changed_slots)
            self.pensieve_stats.load_wait_seconds += report.load_wait_s

    @override
    def reset_connector_cache(self) -> bool:
        if self.swapper is not None:
            self.swapper.host.clear()
        return super().reset_connector_cache()

    def check_host_tier(self, idle: bool = False) -> None:
        """AssertionError if what is known of copies contradicts itself or the block pool. For tests.

        idle: no request is left, no step is being built or in flight.
        """
        if self.swapper is None:
            return
        blocks = self.kv_cache_manager.block_pool.blocks
        self.swapper.check_integrity(
            {b.block_id for b in blocks if b.ref_cnt == 0 and b.block_hash}, idle
        )
        assert not idle or self._hash_log.steps_in_flight == 0

    def _count_swaps(self, stats: PensieveStats) -> None:
        swapper = self.swapper
        assert swapper is not None
        stats.evictions["host"] = swapper.evicted_to_host
        stats.evictions["dropped"] = swapper.evicted_to_nowhere + swapper.host.dropped_blocks
        block = self._block_bytes * self.parallel_config.world_size
        stats.copied_bytes["store"] = swapper.stored_blocks * block
        stats.copied_bytes["load"] = swapper.loaded_blocks * block
