"""Why the plugin steps back with a configuration, a model or a manager of vLLM's: holes cannot be recovered there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllm_pensieve.vllm_hooks.names import CONNECTOR_MODULE


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


def why_not_recoverable(groups: Sequence[Any]) -> str | None:
    """Why holes cannot be recovered in the KV cache groups of a model, or None when they can.

    groups: vLLM's KVCacheGroupSpec of each. A group of layers that need different amounts of memory has one
        specification for each layer on a worker; the scheduler's copy of it has the first layer's only.
    """
    from vllm.v1.kv_cache_interface import (
        FullAttentionSpec,
        MLAAttentionSpec,
        SlidingWindowSpec,
        iter_layer_specs,
    )

    kinds = {type(spec) for group in groups for spec in iter_layer_specs(group.kv_cache_spec)}
    if len(groups) == 1 and kinds <= {FullAttentionSpec, MLAAttentionSpec}:
        return None
    if kinds == {FullAttentionSpec, SlidingWindowSpec}:
        return (
            "layers with a sliding window keep other tokens than those of full attention; holes are recovered where "
            "vLLM keeps all tokens for every layer (--disable-hybrid-kv-cache-manager)"
        )
    return "the model has other cache groups than one of full attention (sliding window, Mamba or hybrid)"


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
