"""How large a model and its KV blocks are, from vLLM's own configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm_pensieve.retention.cost_model import ModelShape

if TYPE_CHECKING:
    from vllm.config import ModelConfig, VllmConfig


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


def _first(config: Any, names: tuple[str, ...]) -> int | None:
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def kv_bytes_per_token(vllm_config: VllmConfig) -> int:
    """KV bytes of a token on one worker, before anything is allocated: as if all layers kept all tokens unquantized."""
    model, parallel = vllm_config.model_config, vllm_config.parallel_config
    heads = model.get_num_kv_heads(parallel) * model.get_num_layers(parallel)
    return int(2 * heads * model.get_head_size() * model.dtype.itemsize)


def block_bytes(kv_cache_config: Any) -> int:
    """Bytes of one block on one worker, all layers together.

    kv_cache_config: vLLM's KVCacheConfig, a worker's or the scheduler's copy of it. The answer comes from the
        allocation, in which the two agree whatever the layers are: all tensors lie in one of that size.
    """
    (allocated,) = {tensor.size for tensor in kv_cache_config.kv_cache_tensors}
    return allocated // kv_cache_config.num_blocks
