"""PensieveConnector: the way by which the scheduler's plans reach the workers, and their troubles come back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from typing_extensions import override
from vllm.config import CUDAGraphMode
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorHandshakeMetadata,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorWorkerMetadata,
    SupportsHMA,
)
from vllm.logger import init_logger
from vllm.v1.core.kv_cache_utils import generate_scheduler_kv_cache_config

from vllm_pensieve.config import ADDITIONAL_CONFIG_KEY, ConfigError, PensieveConfig
from vllm_pensieve.space.swap_plan import SwapPlan
from vllm_pensieve.vllm_hooks.reasons import why_not_recoverable, why_plain_prefixes
from vllm_pensieve.vllm_hooks.sizes import block_bytes

if TYPE_CHECKING:
    import torch
    from vllm.config import VllmConfig
    from vllm.forward_context import ForwardContext
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.request import Request

    from vllm_pensieve.swap.host_memory import Workers
    from vllm_pensieve.swap.worker import SwapWorker

logger = init_logger("vllm.pensieve")


class HostTierMismatchError(RuntimeError):
    """The scheduler and a worker do not hold the same number of blocks in host memory."""


@dataclass
class HostTierOfWorker(KVConnectorHandshakeMetadata):
    """What a worker reports to the scheduler once at start.

    num_slots: blocks that its host memory holds. plain_because: why it takes prefixes for plain, or None.
    load_bytes_per_s: how fast it copies from there, measured; None if it was not.
    """

    num_slots: int
    plain_because: str | None
    load_bytes_per_s: float | None = None


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


def why_no_host_tier(vllm_config: VllmConfig, kv_cache_config: KVCacheConfig) -> str | None:
    """Why there is nothing to keep in host memory, whatever was asked for; None if there is.

    A worker judges by the copy of its configuration that vLLM makes for the scheduler, which decides: what follows from
    layers that the copy lacks, such as zeroing where number formats differ, does not happen. That all of its layers can
    be recovered it sees for itself.
    """
    of_scheduler = generate_scheduler_kv_cache_config([kv_cache_config])
    return why_plain_prefixes(vllm_config, of_scheduler) or why_not_recoverable(
        kv_cache_config.kv_cache_groups
    )


def host_slots(vllm_config: VllmConfig, kv_cache_config: KVCacheConfig) -> int:
    """Blocks that fit into the host memory asked for; every worker holds its part of each.

    0 when prefixes are plain, so that no memory is taken that could not be used. The scheduler and every worker ask,
    each with its own copy of the configuration; at start their answers are compared.

    Raises:
        ConfigError: not a single block fits.
    """
    settings = vllm_config.additional_config.get(ADDITIONAL_CONFIG_KEY) or {}
    host_cache_gib = PensieveConfig.from_mapping(settings).host_cache_gib
    if not host_cache_gib or why_no_host_tier(vllm_config, kv_cache_config) is not None:
        return 0
    block = block_bytes(kv_cache_config) * vllm_config.parallel_config.world_size
    slots = int(host_cache_gib * 2**30) // block
    if not slots:
        raise ConfigError(
            f"pensieve: host_cache_gib={host_cache_gib} holds no block: one takes {block / 2**30:.6f} GiB."
        )
    return slots


def _workers_here(world_size: int) -> Workers:
    """The workers of this engine on this worker's machine: with a host tier all parallelism is that of tensors."""
    from vllm_pensieve.swap.host_memory import ALONE, Workers

    if world_size == 1:
        return ALONE
    from vllm.distributed.parallel_state import get_node_count, get_tp_group

    return Workers(-(-world_size // get_node_count()), get_tp_group().barrier)


class PensieveConnector(KVConnectorBase_V1, SupportsHMA):
    """Carries plans. What is looked up, kept and moved is decided in the scheduler, which finds swapped blocks itself.

    num_slots: blocks that host memory holds.
    load_bytes_per_s: how fast the slowest worker copies from host memory; None before all have reported.
    """

    load_bytes_per_s: float | None = None

    def __init__(
        self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig
    ) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self.num_slots = host_slots(vllm_config, kv_cache_config)
        self.worker: SwapWorker | None = None
        # Of plans that came to a worker without host memory.
        self._undone_loads: set[int] = set()
        self._undone_slots: set[int] = set()

    @property
    @override
    def requires_kv_delivery(self) -> bool:
        return False  # a cache: what is not stored is computed again

    # -- worker

    @override
    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        if not self.num_slots:
            return
        from vllm_pensieve.swap.layers import by_announcement
        from vllm_pensieve.swap.worker import SwapWorker

        settings = self._vllm_config.additional_config[ADDITIONAL_CONFIG_KEY]
        self.worker = SwapWorker.over(
            *by_announcement(
                kv_caches, self._vllm_config.compilation_config.static_forward_context
            ),
            self._kv_cache_config.num_blocks,
            self.num_slots,
            verify=PensieveConfig.from_mapping(settings).verify_swaps,
            workers=_workers_here(self._vllm_config.parallel_config.world_size),
        )

    @override
    def get_handshake_metadata(self) -> KVConnectorHandshakeMetadata:
        """vLLM asks every worker when its KV cache is there, and hands the answers to the scheduler's connector."""
        because = why_no_host_tier(self._vllm_config, self._kv_cache_config)
        measured = self.worker.load_bytes_per_s if self.worker is not None else None
        return HostTierOfWorker(self.num_slots, because, measured)

    @override
    def handle_preemptions(self, kv_connector_metadata: KVConnectorMetadata) -> None:
        assert isinstance(kv_connector_metadata, SwapMetadata), type(kv_connector_metadata)
        if self.worker is not None:
            self.worker.begin_step(kv_connector_metadata.plan)
        elif kv_connector_metadata.plan:
            self._leave_undone(kv_connector_metadata.plan)

    def _leave_undone(self, plan: SwapPlan) -> None:
        """A plan without host memory to carry it out: every load of it has failed, and no slot holds anything."""
        logger.error(
            "Pensieve: a worker has no host memory and was to store %d blocks in it and to load %d; "
            "those are computed again",
            len(plan.stores) + len(plan.ahead),
            len(plan.loads) + len(plan.prefetches),
        )
        loads = (*plan.loads, *plan.prefetches)
        self._undone_loads |= {block for _, block in loads}
        self._undone_slots |= {slot for _, slot in (*plan.stores, *plan.ahead)}
        self._undone_slots |= {slot for slot, _ in loads}

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
        if self.worker is not None:
            return self.worker.take_bad_blocks()
        undone, self._undone_loads = self._undone_loads, set()
        return undone

    @override
    def build_connector_worker_meta(self) -> KVConnectorWorkerMetadata | None:
        if self.worker is None:
            bad_slots, self._undone_slots = self._undone_slots, set()
            return SwapReport(bad_slots) if bad_slots else None
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
    def set_xfer_handshake_metadata_pp_aware(
        self, metadata: dict[tuple[int, int], KVConnectorHandshakeMetadata]
    ) -> None:
        """What every worker reported, by its pipeline and tensor parallel ranks; the engine is about to be ready.

        Raises:
            HostTierMismatchError: a worker holds another number of blocks than the scheduler counts on.
        """
        expected = self._vllm_config.parallel_config.world_size if self.num_slots else 0
        if len(metadata) < expected:
            raise HostTierMismatchError(
                f"pensieve: {len(metadata)} of {expected} workers said how many blocks their host memory holds; "
                "start without host_cache_gib."
            )
        for (pipeline_rank, tensor_rank), told in metadata.items():
            assert isinstance(told, HostTierOfWorker), type(told)
            if told.num_slots != self.num_slots:
                raise HostTierMismatchError(
                    f"pensieve: the scheduler counts on {self.num_slots} blocks in host memory, the worker of "
                    f"pipeline rank {pipeline_rank} and tensor rank {tensor_rank} holds {told.num_slots}"
                    f"{f', because {told.plain_because}' if told.plain_because else ''}; start without host_cache_gib."
                )
        measured = [told.load_bytes_per_s for told in metadata.values() if told.load_bytes_per_s]
        self.load_bytes_per_s = min(measured, default=None)

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
