"""What is known of vLLM's versions: which are supported, and where their internals differ from what we expect."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import time
from collections.abc import Callable, Iterable
from functools import wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any

from vllm_pensieve.cache_groups import why_not_recoverable
from vllm_pensieve.config import ADDITIONAL_CONFIG_KEY
from vllm_pensieve.metrics import STATS_KEY, LogReporter, PrometheusReporter
from vllm_pensieve.retention.cost_model import ModelShape
from vllm_pensieve.trace.files import BLOCKS_SUFFIX

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from vllm.config import ModelConfig
    from vllm.engine.arg_utils import EngineArgs

SUPPORTED = "0.32"

ENGINE_CORE = "vllm.v1.engine.core"
SCHEDULER = "vllm.v1.core.sched.scheduler"
KV_MANAGER = "vllm.v1.core.kv_cache_manager"
BLOCK_POOL = "vllm.v1.core.block_pool"
CONNECTOR_BASE = "vllm.distributed.kv_transfer.kv_connector.v1.base"

# Where our own KV connector lives.
CONNECTOR = "PensieveConnector"
CONNECTOR_MODULE = "vllm_pensieve.swap.connector"

# What we override or call: module, qualified name, parameters that this relies on.
HOOKS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("vllm.engine.arg_utils", "EngineArgs.create_engine_config", ()),
    ("vllm.utils.ompmultiprocessing", "OMPProcessManager", ("config",)),
    (ENGINE_CORE, "EngineCore.add_lora", ("lora_request",)),
    (ENGINE_CORE, "EngineCore.shutdown", ()),
    (ENGINE_CORE, "EngineCoreProc._handle_shutdown", ()),
    (ENGINE_CORE, "EngineCoreProc._send_abort_outputs", ("aborted_reqs",)),
    (ENGINE_CORE, "EngineCoreProc._send_engine_dead", ()),
    ("vllm.v1.engine.utils", "CoreEngineProcManager.shutdown", ("timeout",)),
    ("vllm.v1.request", "Request.from_engine_core_request", ("request",)),
    (SCHEDULER, "Scheduler.finish_requests", ("request_ids", "finished_status")),
    (SCHEDULER, "Scheduler.add_request", ("request",)),
    (SCHEDULER, "Scheduler._mark_prefix_replay", ("request", "num_hit_tokens")),
    (
        SCHEDULER,
        "Scheduler._reserve_prefill_lookahead",
        ("request", "num_computed_tokens", "num_new_tokens"),
    ),
    (SCHEDULER, "Scheduler._make_cached_request_data", ("running_reqs", "resumed_reqs")),
    (SCHEDULER, "Scheduler._update_after_schedule", ("scheduler_output",)),
    (SCHEDULER, "Scheduler._preempt_request", ("request",)),
    (SCHEDULER, "Scheduler._free_request_blocks", ("request",)),
    (SCHEDULER, "Scheduler._free_blocks", ("request",)),
    (SCHEDULER, "Scheduler.make_stats", ()),
    (SCHEDULER, "Scheduler.schedule", ()),
    (SCHEDULER, "Scheduler.update_from_output", ()),
    (SCHEDULER, "Scheduler._build_kv_connector_meta", ("connector", "scheduler_output")),
    (SCHEDULER, "Scheduler._update_from_kv_xfer_finished", ("kv_connector_output",)),
    (
        SCHEDULER,
        "Scheduler._handle_invalid_blocks",
        ("invalid_block_ids", "num_scheduled_tokens"),
    ),
    (SCHEDULER, "Scheduler.reset_connector_cache", ()),
    (
        "vllm.v1.core.sched.output",
        "NewRequestData.from_request",
        ("request", "block_ids", "prefill_token_ids", "uses_mrope"),
    ),
    (
        "vllm.v1.metrics.stats",
        "PrefillStats.set",
        ("num_prompt_tokens", "num_local_cached_tokens", "num_external_cached_tokens"),
    ),
    (
        "vllm.v1.metrics.stats",
        "PrefixCacheStats.record",
        ("num_tokens", "num_hits", "preempted", "hits_by_source"),
    ),
    (KV_MANAGER, "KVCacheManager.get_computed_blocks", ("request",)),
    (
        "vllm.v1.core.single_type_kv_cache_manager",
        "FullAttentionManager._get_num_evictable_blocks",
        ("blocks",),
    ),
    (
        "vllm.v1.core.single_type_kv_cache_manager",
        "FullAttentionManager.add_local_computed_blocks",
        (
            "request_id",
            "new_computed_blocks",
            "num_local_computed_tokens",
            "num_external_computed_tokens",
        ),
    ),
    (
        "vllm.v1.core.kv_cache_coordinator",
        "UnitaryKVCacheCoordinator.emit_cached_block_events",
        ("request", "computed_blocks"),
    ),
    (KV_MANAGER, "KVCacheManager.record_prefix_cache_stats", ("request", "num_hits")),
    (KV_MANAGER, "KVCacheManager.prefix_cache_lookup_enabled", ("request",)),
    (KV_MANAGER, "KVCacheManager.create_kv_cache_blocks", ()),
    (KV_MANAGER, "KVCacheManager.free", ("request",)),
    (KV_MANAGER, "KVCacheManager.pop_blocks_for_free", ("request",)),
    (KV_MANAGER, "KVCacheManager.evict_blocks", ("block_ids",)),
    (KV_MANAGER, "KVCacheManager.get_block_ids", ("request_id",)),
    (
        BLOCK_POOL,
        "BlockPool.cache_full_blocks",
        (
            "request",
            "blocks",
            "num_cached_blocks",
            "num_full_blocks",
            "block_size",
            "kv_cache_group_id",
            "block_mask",
        ),
    ),
    (
        BLOCK_POOL,
        "BlockPool.emit_cached_block_events",
        ("request", "num_cached_blocks", "block_size", "kv_cache_group_id"),
    ),
    (BLOCK_POOL, "BlockPool._emit_block_removed_events", ("block_hashes",)),
    (KV_MANAGER, "KVCacheManager.take_events", ()),
    (
        "vllm.distributed.kv_events",
        "BlockStored",
        (
            "block_hashes",
            "parent_block_hash",
            "token_ids",
            "block_size",
            "lora_id",
            "medium",
            "lora_name",
            "extra_keys",
            "group_idx",
            "session_id",
        ),
    ),
    ("vllm.distributed.kv_events", "BlockRemoved", ("block_hashes", "medium", "group_idx")),
    (BLOCK_POOL, "BlockPool._insert_block_hash", ()),
    (BLOCK_POOL, "BlockPool._remove_cached_block_hashes", ()),
    (BLOCK_POOL, "BlockPool._maybe_evict_cached_block", ("block",)),
    (BLOCK_POOL, "BlockPool.touch", ("blocks",)),
    (BLOCK_POOL, "BlockPool.free_blocks", ("ordered_blocks",)),
    (BLOCK_POOL, "BlockHashToBlockMap.get_one_block", ("key",)),
    (BLOCK_POOL, "BlockPool.get_new_blocks", ("num_blocks",)),
    (BLOCK_POOL, "BlockPool.evict_blocks", ("block_ids",)),
    (BLOCK_POOL, "BlockPool.reset_prefix_cache", ()),
    ("vllm.v1.core.kv_cache_utils", "make_block_hash_with_group_id", ()),
    ("vllm.v1.core.kv_cache_utils", "generate_scheduler_kv_cache_config", ("kv_cache_configs",)),
    ("vllm.v1.kv_cache_interface", "iter_layer_specs", ("kv_cache_spec",)),
    (CONNECTOR_BASE, "KVConnectorBase_V1.register_kv_caches", ("kv_caches",)),
    (CONNECTOR_BASE, "KVConnectorBase_V1.handle_preemptions", ("kv_connector_metadata",)),
    (CONNECTOR_BASE, "KVConnectorBase_V1.start_load_kv", ("forward_context",)),
    (CONNECTOR_BASE, "KVConnectorBase_V1.wait_for_layer_load", ("layer_name",)),
    (CONNECTOR_BASE, "KVConnectorBase_V1.wait_for_save", ()),
    (CONNECTOR_BASE, "KVConnectorBase_V1.get_block_ids_with_load_errors", ()),
    (CONNECTOR_BASE, "KVConnectorBase_V1.build_connector_worker_meta", ()),
    (CONNECTOR_BASE, "KVConnectorBase_V1.get_handshake_metadata", ()),
    (CONNECTOR_BASE, "KVConnectorBase_V1.set_xfer_handshake_metadata_pp_aware", ("metadata",)),
    (CONNECTOR_BASE, "SupportsHMA.request_finished_all_groups", ("request", "block_ids")),
    ("vllm.v1.metrics.loggers", "KVConnectorProm.observe", ("transfer_stats_data", "engine_idx")),
    ("vllm.v1.metrics.loggers", "KVConnectorLogging.observe", ("transfer_stats_data",)),
    ("vllm.v1.metrics.loggers", "KVConnectorLogging.log", ("log_fn",)),
    ("vllm.v1.metrics.loggers", "PrometheusStatLogger._kv_connector_cls", ()),
)


class UnsupportedVllmError(RuntimeError):
    """The installed vLLM is not one this plugin works with."""


def check_vllm() -> None:
    """Refuse a vLLM that this plugin was not made for.

    Raises:
        UnsupportedVllmError: the version is not supported, or a hook is missing or has changed.
    """
    import vllm

    from vllm_pensieve import __version__

    if not f"{vllm.__version__}.".startswith(f"{SUPPORTED}."):
        raise UnsupportedVllmError(
            f"vllm-pensieve {__version__} works with vLLM {SUPPORTED}, but vLLM {vllm.__version__} is installed: "
            f"install vllm=={SUPPORTED}.* or a vllm-pensieve made for it, or switch the plugin off."
        )
    for module, name, parameters in HOOKS:
        missing = _missing(module, name, parameters)
        if missing:
            raise UnsupportedVllmError(
                f"vllm-pensieve {__version__} works with vLLM {SUPPORTED}, but the installed vLLM {vllm.__version__} "
                f"differs from it: {missing}."
            )


def _missing(module: str, name: str, parameters: tuple[str, ...]) -> str | None:
    found: Any = import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        return f"{module}.{name} does not exist"
    present = inspect.signature(found).parameters
    for parameter in parameters:
        if parameter not in present:
            return f"{module}.{name} has no parameter {parameter!r}"
    return None


def wrap_create_engine_config(before: Callable[[Any], None]) -> None:
    """Have `before(engine_args)` run at the start of every EngineArgs.create_engine_config. Idempotent.

    vLLM loads plugins in workers too, which make no engine arguments and must not be slowed down: where the module is
    not imported there is nothing to wrap. (EngineArgs itself loads the plugins when one is made.)
    """
    module = sys.modules.get("vllm.engine.arg_utils")
    if module is None:
        return
    engine_args_class = module.EngineArgs
    stock = engine_args_class.create_engine_config
    if getattr(stock, "wrapped_by_pensieve", False):
        return

    @wraps(stock)
    def create_engine_config(self: Any, *args: Any, **kwargs: Any) -> Any:
        before(self)
        return stock(self, *args, **kwargs)

    create_engine_config.wrapped_by_pensieve = True  # type: ignore[attr-defined]
    engine_args_class.create_engine_config = create_engine_config


def reserve_no_core_for_our_connector(engine_args: EngineArgs) -> None:
    """On a CPU, have vLLM reserve as many cores as without a KV connector, unless the user says how many.

    With any connector vLLM reserves one more for each worker, for the threads of one that sends KV to other machines.
    Ours has none: its copies are the worker's own work. Where this leaves no core, vLLM reserves none at all, and the
    worker's threads share theirs with the scheduler, which waits busily: on two cores a decoded token then takes
    several times as long.
    """
    from vllm import envs
    from vllm.platforms import CpuArchEnum, current_platform

    said = envs.VLLM_CPU_NUM_OF_RESERVED_CPU
    if not current_platform.is_cpu() or said not in (None, *_reserved_by_us):
        return
    workers = engine_args.tensor_parallel_size * engine_args.pipeline_parallel_size
    one_a_worker = (CpuArchEnum.X86, CpuArchEnum.ARM, CpuArchEnum.RISCV)
    cores = workers if current_platform.get_cpu_architecture() in one_a_worker else 1
    _reserved_by_us[:] = [cores]
    os.environ["VLLM_CPU_NUM_OF_RESERVED_CPU"] = str(cores)


def kv_cache_bytes_of_host(engine_args: EngineArgs) -> int:
    """Host memory that the KV cache itself will take on all workers, as far as it has been said; 0 on a GPU."""
    from vllm import envs
    from vllm.platforms import current_platform

    if not current_platform.is_cpu() or engine_args.num_gpu_blocks_override is not None:
        return 0
    space_gib = envs.VLLM_CPU_KVCACHE_SPACE  # vLLM lets it override the option
    said = engine_args.kv_cache_memory_bytes if space_gib is None else space_gib * 2**30
    workers = engine_args.tensor_parallel_size * engine_args.pipeline_parallel_size
    return int(said or 0) * workers


_reserved_by_us: list[int] = []
"""What this process was last set to reserve by us and not by the user."""


def announce_environment(names: Iterable[str]) -> None:
    """Tell vLLM that these environment variables are known; it warns of, or refuses, others that begin with VLLM_."""
    from vllm import envs

    for name in names:
        envs.environment_variables.setdefault(name, lambda: None)


def leave_time_for_traces(seconds: float) -> None:
    """Have vLLM's front end kill no engine process before its trace is written, within that many seconds. Idempotent.

    By default vLLM kills engine processes in the instant that it asks them to stop. They get as long as they write a
    trace; where they get time to drain their requests, they get the seconds more.
    """
    from vllm.v1.engine.utils import CoreEngineProcManager

    stock = CoreEngineProcManager.shutdown
    if getattr(stock, "leaves_time_for_traces", False):
        return

    @wraps(stock)
    def shutdown(self: Any, timeout: float | None = None) -> None:
        if timeout == 0 and self._finalizer.alive:
            wait_for_traces(self.processes, seconds)
        stock(self, timeout + seconds if timeout else timeout)

    shutdown.leaves_time_for_traces = True  # type: ignore[attr-defined]
    CoreEngineProcManager.shutdown = shutdown


def wait_for_traces(processes: Iterable[BaseProcess], seconds: float) -> None:
    """Ask processes to stop, and wait until none of them has a trace open any more, at most that many seconds."""
    alive = [process for process in processes if process.is_alive()]
    for process in alive:
        process.terminate()
    deadline_s = time.monotonic() + seconds
    while (
        any(_has_a_trace_open(process.pid) for process in alive) and time.monotonic() < deadline_s
    ):
        time.sleep(0.02)


def _has_a_trace_open(pid: int | None) -> bool:
    folder = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):  # the process has ended
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):  # that file has been closed
                path = os.readlink(f"{folder}/{name}").removesuffix(" (deleted)")
                if path.endswith(BLOCKS_SUFFIX):
                    return True
    return False


def model_shape(model_config: ModelConfig) -> ModelShape:
    """The sizes of the model's text decoder, from the names that Hugging Face configurations use for them."""
    config = model_config.hf_text_config
    hidden_size = model_config.get_hidden_size()
    query_heads = config.num_attention_heads
    experts = _first(config, ("num_experts_per_tok", "moe_topk", "top_k_experts")) or 1
    expert_size = _first(config, ("moe_intermediate_size",)) if experts > 1 else None
    feed_forward_size = expert_size or _first(
        config, ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size")
    )
    return ModelShape(
        layers=model_config.get_total_num_hidden_layers(),
        hidden_size=hidden_size,
        query_heads=query_heads,
        kv_heads=model_config.get_total_num_kv_heads(),
        head_dim=model_config.get_head_size(),
        feed_forward_size=experts * (feed_forward_size or 4 * hidden_size),
        gated_feed_forward=getattr(config, "model_type", "")
        not in ("gpt2", "opt", "gpt_neox", "gptj", "bloom", "phi"),
    )


def flops_per_copied_byte() -> float:
    """FLOPs that a model computes while one byte is copied from host memory, roughly.

    On a CPU 270 GFLOP/s and 10 GB/s (two cores with AVX-512), on a GPU 400 TFLOP/s and 50 GB/s over PCIe 5.
    """
    from vllm.platforms import current_platform

    return 27.0 if current_platform.is_cpu() else 8_000.0


def _first(config: Any, names: tuple[str, ...]) -> int | None:
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def why_plain_prefixes(vllm_config: Any, kv_cache_config: Any) -> str | None:
    """Why holes cannot be recovered with this configuration, or None when they can.

    The scheduler asks, and every worker that would hold swapped blocks.
    """
    parallel = vllm_config.parallel_config
    if not vllm_config.cache_config.enable_prefix_caching:
        return "prefix caching is off"
    if (reason := why_not_recoverable(kv_cache_config.kv_cache_groups)) is not None:
        return reason
    if kv_cache_config.needs_kv_cache_zeroing:
        return "blocks of the KV cache are zeroed before use"
    connector = vllm_config.kv_transfer_config
    if connector is not None and connector.kv_connector_module_path != CONNECTOR_MODULE:
        return "a KV connector is configured"
    if vllm_config.speculative_config is not None:
        return "speculative decoding is configured"
    if parallel.decode_context_parallel_size > 1 or parallel.prefill_context_parallel_size > 1:
        return "context parallelism is configured"
    if parallel.pipeline_parallel_size > 1:
        return "pipeline parallelism is configured"
    if parallel.use_ubatching:
        return "dual batch overlap is configured"
    if vllm_config.aux_output_config.enabled:
        return "auxiliary outputs are returned"
    if vllm_config.model_config.runner_type == "pooling":
        return "the model does not generate token by token"
    return None


def why_unusual_manager(kv_cache_manager: Any) -> str | None:
    """Why holes cannot be recovered with the manager that vLLM made for such a configuration, or None."""
    from vllm.v1.core.kv_cache_coordinator import UnitaryKVCacheCoordinator
    from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager

    coordinator = kv_cache_manager.coordinator
    if (
        type(coordinator) is not UnitaryKVCacheCoordinator
        or type(coordinator.single_type_managers[0]) is not FullAttentionManager
    ):
        return "vLLM manages the model's KV cache in a way of its own"
    if (
        coordinator.single_type_managers[0].block_size
        != kv_cache_manager.block_pool.hash_block_size
    ):
        return "the hash block size differs from the block size"
    return None


def let_vllm_scan_llvmlite() -> None:
    """Give llvmlite's library object an instance dictionary, once numba has been imported. Idempotent.

    On a CPU vLLM calls `vars` on the attributes of every module when an engine is made. llvmlite's object answers any
    attribute, so also `__dict__`, with a function of the library, on which vLLM 0.32 fails.
    """
    from llvmlite.binding import ffi

    class Library(ffi._lib_wrapper):
        pass

    if isinstance(getattr(ffi.lib, "__dict__", None), dict):
        return
    library = Library.__new__(Library)
    for name in ffi._lib_wrapper.__slots__:
        setattr(library, name, getattr(ffi.lib, name))
    ffi.lib = library


def report_pensieve_stats() -> None:
    """Have vLLM's statistics loggers of this process read the plugin's part of the scheduler statistics. Idempotent.

    vLLM hands the statistics of KV connectors to one class for Prometheus and one for the periodic log, which expect a
    connector; they are replaced by subclasses that take our part out first. Ray's loggers have a class of their own.
    """
    from vllm.v1.metrics import loggers

    if getattr(loggers.KVConnectorProm, "reads_pensieve", False):
        return
    loggers.KVConnectorLogging = _reading_log(loggers.KVConnectorLogging)
    loggers.KVConnectorProm = _reading_prometheus(loggers.KVConnectorProm)
    loggers.PrometheusStatLogger._kv_connector_cls = loggers.KVConnectorProm
    if (ray := sys.modules.get("vllm.v1.metrics.ray_wrappers")) is not None:
        ray.RayPrometheusStatLogger._kv_connector_cls = _reading_prometheus(ray.RayKVConnectorProm)


def _reading_prometheus(stock: Any) -> Any:
    class Reading(stock):
        reads_pensieve = True
        pensieve: PrometheusReporter | None = None

        def __init__(self, vllm_config: Any, labelnames: Any, per_engine_labelvalues: Any) -> None:
            super().__init__(vllm_config, labelnames, per_engine_labelvalues)
            # At once: when another engine is made in this process, vLLM takes the metrics that are there out again.
            if ADDITIONAL_CONFIG_KEY in vllm_config.additional_config:
                self.pensieve = PrometheusReporter(
                    self._counter_cls, self._gauge_cls, labelnames, per_engine_labelvalues
                )

        def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
            rest = dict(transfer_stats_data)
            report = rest.pop(STATS_KEY, None)
            if report is not None and self.pensieve is not None:
                self.pensieve.observe(report, engine_idx)
            if rest:
                super().observe(rest, engine_idx)

    return Reading


def _reading_log(stock: Any) -> Any:
    class Reading(stock):
        def __init__(self, kv_transfer_config: Any) -> None:
            super().__init__(kv_transfer_config)
            self.pensieve = LogReporter()

        def observe(self, transfer_stats_data: dict[str, Any]) -> None:
            rest = dict(transfer_stats_data)
            if (report := rest.pop(STATS_KEY, None)) is not None:
                self.pensieve.observe(report)
            if rest:
                super().observe(rest)

        def log(self, log_fn: Any = print) -> None:
            if (line := self.pensieve.line()) is not None:
                log_fn(line)
            super().log(log_fn=log_fn)

    return Reading
