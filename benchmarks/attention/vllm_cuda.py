"""vLLM's flash attention over paged KV, called as its backend does (vllm/v1/attention/backends/flash_attn.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from benchmarks.attention.contract import UnavailableError
from benchmarks.attention.problem import ScatteredKv

if TYPE_CHECKING:
    from benchmarks.attention.vllm_paged import Metadata

DTYPES = (torch.float16, torch.bfloat16)
BLOCK_MULTIPLE = 16


def cuda_kernel(
    kv: ScatteredKv, metadata: Metadata
) -> tuple[Callable[[torch.Tensor], torch.Tensor], str]:
    """The kernel over the pool as it is. Raises UnavailableError if it does not take these sizes."""
    case = kv.case
    if kv.keys.dtype not in DTYPES:
        raise UnavailableError(
            f"vLLM's flash attention takes float16 and bfloat16, not {case.dtype}"
        )
    if case.block_tokens % BLOCK_MULTIPLE:
        raise UnavailableError(
            f"vLLM's flash attention needs blocks of a multiple of {BLOCK_MULTIPLE} tokens, not {case.block_tokens}"
        )
    try:
        from vllm.v1.attention.backends import fa_utils

        version = fa_utils.get_flash_attn_version(head_size=case.head_dim)
        flash_attention = fa_utils.flash_attn_varlen_func
    except (ImportError, AttributeError, AssertionError) as error:
        raise UnavailableError(f"the installed vLLM has no flash attention ({error})") from error
    if version is None:
        raise UnavailableError("the installed vLLM has no flash attention for this GPU")

    def attend(query: torch.Tensor) -> torch.Tensor:
        output = torch.empty_like(query)
        flash_attention(
            q=query,
            k=kv.keys,
            v=kv.values,
            out=output,
            cu_seqlens_q=metadata.query_starts,
            max_seqlen_q=metadata.most_queries,
            seqused_k=metadata.key_tokens,
            max_seqlen_k=metadata.most_keys,
            softmax_scale=case.head_dim**-0.5,
            causal=True,
            block_table=metadata.block_tables,
            fa_version=version,
        )
        return output

    return attend, f"vLLM's flash attention {version}"
