"""Which of vLLM's KV cache groups prefixes with holes can be recovered in: one group that keeps every token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


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


def block_bytes(kv_cache_config: Any) -> int:
    """Bytes of one block on one worker, all layers together.

    kv_cache_config: vLLM's KVCacheConfig, a worker's or the scheduler's copy of it. The answer comes from the
        allocation, in which the two agree whatever the layers are: all tensors lie in one of that size.
    """
    (allocated,) = {tensor.size for tensor in kv_cache_config.kv_cache_tensors}
    return allocated // kv_cache_config.num_blocks
