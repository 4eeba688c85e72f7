"""KV caches as a worker has them: layers of one size or of two, in blocks of 16 tokens or others."""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    KVCacheSpec,
    KVCacheTensor,
    UniformTypeKVCacheSpecs,
)

BLOCK_TOKENS = 16


def attention_spec(block_tokens: int = BLOCK_TOKENS, **sizes: Any) -> FullAttentionSpec:
    """Of a layer with one head of size 1 in float32, or of other sizes."""
    sizes = {"num_kv_heads": 1, "head_size": 1, "dtype": torch.float32} | sizes
    return FullAttentionSpec(block_size=block_tokens, **sizes)


def layers_of_two_sizes() -> UniformTypeKVCacheSpecs:
    """What vLLM has on a worker for layers of full attention whose blocks differ in size, and in number format."""
    large = attention_spec(head_size=3, dtype=torch.bfloat16)
    specs = {"small": attention_spec(), "large": large}
    return UniformTypeKVCacheSpecs(block_size=BLOCK_TOKENS, kv_cache_specs=specs)


def worker_kv_cache_config(blocks: int, spec: KVCacheSpec) -> KVCacheConfig:
    """One group. As in vLLM every tensor has the size of the allocation they share."""
    layers = getattr(spec, "kv_cache_specs", {"layer": spec})
    size, offset, tensors = spec.page_size_bytes * blocks, 0, []
    for name, layer in layers.items():
        page = layer.page_size_bytes
        tensors.append(KVCacheTensor(size, [name], page * blocks, page, offset))
        offset += page * blocks
    return KVCacheConfig(
        num_blocks=blocks,
        kv_cache_tensors=tensors,
        kv_cache_groups=[KVCacheGroupSpec(list(layers), spec)],
    )
