"""PensieveConnector: the way by which the scheduler's plans reach the workers, and their troubles come back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from typing_extensions import override
from vllm.config import CUDAGraphMode
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorWorkerMetadata,
    SupportsHMA,
)

from vllm_pensieve.compat import why_plain_prefixes
from vllm_pensieve.config import ADDITIONAL_CONFIG_KEY, ConfigError, PensieveConfig
from vllm_pensieve.space.swap_plan import SwapPlan

if TYPE_CHECKING:
    import torch
    from vllm.config import VllmConfig
    from vllm.forward_context import ForwardContext
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.request import Request

    from vllm_pensieve.swap.worker import SwapWorker


@dataclass
class SwapMetadata(KVConnectorMetadata):
    """One step's plan, on its way to the workers."""

    plan: SwapPlan


@dataclass
class SwapReport(KVConnectorWorkerMetadata):
    """How a worker's copies went, on its way to the scheduler.

    bad_slots: slots whose content is not good. changed_slots: those of them that did not have their checksum any more.
    load_wait_s: seconds that the worker's own thread waited for loads.
    """

    bad_slots: set[int]
    changed_slots: set[int] = field(default_factory=set)
    load_wait_s: float = 0.0

    @override
    def aggregate(self, other: KVConnectorWorkerMetadata) -> SwapReport:
        assert isinstance(other, SwapReport), type(other)
        return SwapReport(
            self.bad_slots | other.bad_slots,
            self.changed_slots | other.changed_slots,
            max(self.load_wait_s, other.load_wait_s),  # workers wait at the same time
        )


def block_bytes(kv_cache_config: KVCacheConfig) -> int:
    """Bytes of one block on one worker, all layers together."""
    return sum(
        group.kv_cache_spec.page_size_bytes * len(group.layer_names)
        for group in kv_cache_config.kv_cache_groups
    )


def host_slots(vllm_config: VllmConfig, kv_cache_config: KVCacheConfig) -> int:
    """Blocks that fit into the host memory asked for; every worker holds its part of each.

    0 when prefixes are plain, so that no memory is taken that could not be used.

    Raises:
        ConfigError: not a single block fits.
    """
    settings = vllm_config.additional_config.get(ADDITIONAL_CONFIG_KEY) or {}
    host_cache_gib = PensieveConfig.from_mapping(settings).host_cache_gib
    if not host_cache_gib or why_plain_prefixes(vllm_config, kv_cache_config) is not None:
        return 0
    block = block_bytes(kv_cache_config) * vllm_config.parallel_config.world_size
    slots = int(host_cache_gib * 2**30) // block
    if not slots:
        raise ConfigError(
            f"pensieve: host_cache_gib={host_cache_gib} holds no block: one takes {block / 2**30:.6f} GiB."
        )
    return slots


class PensieveConnector(KVConnectorBase_V1, SupportsHMA):
    """Carries plans. What is looked up, kept and moved is decided in the scheduler, which finds swapped blocks itself.

    num_slots: blocks that host memory holds.
    """

    def __init__(
        self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig
    ) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self.num_slots = host_slots(vllm_config, kv_cache_config)
        self.worker: SwapWorker | None = None

    @property
    @override
    def requires_kv_delivery(self) -> bool:
        return False  # a cache: what is not stored is computed again

    # -- worker

    @override
    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        if not self.num_slots:
            return
        from vllm_pensieve.swap.worker import SwapWorker

        settings = self._vllm_config.additional_config[ADDITIONAL_CONFIG_KEY]
        self.worker = SwapWorker.over(
            kv_caches,
            self._kv_cache_config.num_blocks,
            self.num_slots,
            verify=PensieveConfig.from_mapping(settings).verify_swaps,
        )

    @override
    def handle_preemptions(self, kv_connector_metadata: KVConnectorMetadata) -> None:
        if self.worker is not None:
            assert isinstance(kv_connector_metadata, SwapMetadata), type(kv_connector_metadata)
            self.worker.begin_step(kv_connector_metadata.plan)

    @override
    def start_load_kv(self, forward_context: ForwardContext, **kwargs: Any) -> None:
        if self.worker is not None:
            # A full CUDA graph is replayed without calling `wait_for_layer_load`; the V2 model runner shows it by a
            # context without attention metadata, the V1 runner by the mode.
            whole_graph = (
                forward_context.attn_metadata is None
                or forward_context.cudagraph_runtime_mode == CUDAGraphMode.FULL
            )
            self.worker.begin_loads(layer_by_layer=not whole_graph)

    @override
    def wait_for_layer_load(self, layer_name: str) -> None:
        if self.worker is not None:
            self.worker.wait_for_layer(layer_name)

    @override
    def save_kv_layer(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is saved layer by layer."""

    @override
    def wait_for_save(self) -> None:
        if self.worker is not None:
            self.worker.end_step()

    @override
    def get_block_ids_with_load_errors(self) -> set[int]:
        return self.worker.take_bad_blocks() if self.worker is not None else set()

    @override
    def build_connector_worker_meta(self) -> KVConnectorWorkerMetadata | None:
        if self.worker is None:
            return None
        report = SwapReport(
            self.worker.take_bad_slots(),
            self.worker.take_changed_slots(),
            self.worker.take_load_wait(),
        )
        return report if report.bad_slots or report.load_wait_s else None

    @override
    def shutdown(self) -> None:
        if self.worker is not None:
            self.worker.close()
            self.worker = None

    # -- scheduler

    @override
    def get_num_new_matched_tokens(
        self, request: Request, num_computed_tokens: int
    ) -> tuple[int, bool]:
        return 0, False  # the scheduler's own lookup has found them

    @override
    def update_state_after_alloc(
        self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int
    ) -> None:
        """Nothing is kept for a request."""

    @override
    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> KVConnectorMetadata:
        """An empty plan; our scheduler puts its own in."""
        return SwapMetadata(SwapPlan())

    @override
    def request_finished_all_groups(
        self, request: Request, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        return False, None

    @override
    def reset_cache(self) -> bool:
        """The scheduler clears the tier with the prefix cache."""
        return True
