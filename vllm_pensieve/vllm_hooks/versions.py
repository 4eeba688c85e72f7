"""Which versions of vLLM are supported, and which of its internals the plugin relies on."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

from vllm_pensieve.version import SUPPORTED_VLLM, __version__

ENGINE_CORE = "vllm.v1.engine.core"
SCHEDULER = "vllm.v1.core.sched.scheduler"
KV_MANAGER = "vllm.v1.core.kv_cache_manager"
BLOCK_POOL = "vllm.v1.core.block_pool"
CONNECTOR_BASE = "vllm.distributed.kv_transfer.kv_connector.v1.base"

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

    if not f"{vllm.__version__}.".startswith(f"{SUPPORTED_VLLM}."):
        raise UnsupportedVllmError(
            f"vllm-pensieve {__version__} works with vLLM {SUPPORTED_VLLM}, but vLLM {vllm.__version__} is installed: "
            f"install vllm=={SUPPORTED_VLLM}.* or a vllm-pensieve made for it, or switch the plugin off."
        )
    for module, name, parameters in HOOKS:
        missing = _missing(module, name, parameters)
        if missing:
            raise UnsupportedVllmError(
                f"vllm-pensieve {__version__} works with vLLM {SUPPORTED_VLLM}, but the installed vLLM "
                f"{vllm.__version__} differs from it: {missing}."
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
