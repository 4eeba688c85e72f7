"""Which of vLLM's KV cache groups prefixes with holes can be recovered in: one group that keeps every token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def why_not_recoverable(groups: Sequence[Any]) -> str | None:
    """Why holes cannot be recovered in the KV cache groups of a model, or None when they can.

    groups: vLLM's KVCacheGroupSpec of each.
    """
    from vllm.v1.kv_cache_interface import FullAttentionSpec, MLAAttentionSpec, SlidingWindowSpec

    kinds = {type(group.kv_cache_spec) for group in groups}
    if len(groups) == 1 and kinds <= {FullAttentionSpec, MLAAttentionSpec}:
        return None
    if kinds == {FullAttentionSpec, SlidingWindowSpec}:
        return (
            "layers with a sliding window keep other tokens than those of full attention; holes are recovered where "
            "vLLM keeps all tokens for every layer (--disable-hybrid-kv-cache-manager)"
        )
    return "the model has other cache groups than one of full attention (sliding window, Mamba or hybrid)"


def keeps_windows_whole(groups: Sequence[Any]) -> bool:
    """Whether layers with a sliding window keep all tokens, as those of full attention in their group do."""
    return any(getattr(group.kv_cache_spec, "sliding_window", None) for group in groups)
