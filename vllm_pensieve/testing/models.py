"""Tiny random models with a byte-level tokenizer, made on disk in a second, nothing downloaded."""

import random
from pathlib import Path
from typing import Any

VOCABULARY = {
    "vocab_size": 264,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
}
SHARP = {"initializer_range": 0.1}
"""Weights so large that attention picks few positions: an answer then depends on every block."""
SHAPE = {
    **VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 4096,
}


def make_llama(folder: Path, context_tokens: int = 4096) -> Path:
    """Full attention in all layers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = SHAPE | {"max_position_embeddings": context_tokens}
    return _save(folder, LlamaForCausalLM, LlamaConfig(**shape))


KV_HEAVY_TOKEN_BYTES = 2 * 8 * 16 * 64 * 4
"""Keys and values of 8 layers of 16 heads of 64 numbers in float32."""


def make_kv_heavy_llama(folder: Path, context_tokens: int) -> Path:
    """Much KV for each token and little to compute: copies take about as long as those of a long context on a GPU."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = SHAPE | {
        "num_hidden_layers": 8,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 64,
        "max_position_embeddings": context_tokens,
    }
    return _save(folder, LlamaForCausalLM, LlamaConfig(**shape))


def make_sliding_window_mistral(folder: Path, window_tokens: int) -> Path:
    """Attention over the last `window_tokens` in all layers."""
    from transformers import MistralConfig, MistralForCausalLM

    return _save(folder, MistralForCausalLM, MistralConfig(**SHAPE, sliding_window=window_tokens))


def make_llama3(folder: Path) -> Path:
    """Llama 3.1's: grouped-query attention, a large rope base, and rope scaling from an original context."""
    from transformers import LlamaConfig, LlamaForCausalLM

    scaling = {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 512,
    }
    return _save(folder, LlamaForCausalLM, LlamaConfig(**SHAPE, **SHARP, rope_parameters=scaling))


def make_gpt2(folder: Path) -> Path:
    """Learned absolute positions, a feed-forward part of four times the hidden size that has no name of its own."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 128, "n_layer": 4, "n_head": 4, "n_positions": 1024}
    return _save(folder, GPT2LMHeadModel, GPT2Config(**sizes, **VOCABULARY, **SHARP))


def make_opt(folder: Path) -> Path:
    """Learned absolute positions with an offset of two; embeddings of half the hidden size, as in OPT-350M."""
    from transformers import OPTConfig, OPTForCausalLM

    sizes = {
        "hidden_size": 128,
        "ffn_dim": 384,
        "word_embed_proj_dim": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": 1024,
    }
    config = OPTConfig(**sizes, **VOCABULARY, init_std=SHARP["initializer_range"])
    return _save(folder, OPTForCausalLM, config)


def make_gemma2(folder: Path, window_tokens: int) -> Path:
    """Every other layer attends to the last `window_tokens` only; attention scores and logits are soft-capped."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(**SHAPE, **SHARP, sliding_window=window_tokens, query_pre_attn_scalar=32)
    return _save(folder, Gemma2ForCausalLM, config)


CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
THOUGHTS = ("<think>", "</think>")


def make_bpe_llama(folder: Path, merges: int = 500) -> Path:
    """A tokenizer whose tokens are pieces of words: what it generates is often other tokens when it is read again.

    Has a chat template, and the tokens around thoughts that a reasoning parser looks for.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from vllm_pensieve.workloads.text import write_text

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = byte_level, decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>", *THOUGHTS]
    alphabet = sorted(byte_level.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + len(alphabet) + merges,
        special_tokens=special,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator([write_text(random.Random(0), 50_000)], trainer)
    ids = {f"{name}_token_id": number for number, name in enumerate(("bos", "eos", "pad"))}
    shape = {**SHAPE, **SHARP, **ids, "vocab_size": tokenizer.get_vocab_size()}
    made = _save(folder, LlamaForCausalLM, LlamaConfig(**shape))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    return made


def make_gemma4(folder: Path, window_tokens: int) -> Path:
    """Every other layer has a window; the others have heads of twice the size, so their blocks do as well."""
    from transformers import Gemma4ForCausalLM, Gemma4TextConfig

    config = Gemma4TextConfig(
        **SHAPE,
        **SHARP,
        sliding_window=window_tokens,
        layer_types=["sliding_attention", "full_attention"] * 2,
        global_head_dim=64,
        num_global_key_value_heads=2,
        num_kv_shared_layers=0,
        hidden_size_per_layer_input=0,
        attention_k_eq_v=False,
        enable_moe_block=False,
    )
    return _save(folder, Gemma4ForCausalLM, config)


def save_tokenizer(folder: Path) -> None:
    """One byte is one token; no chat template."""
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(
        tokenizer_object=_byte_tokenizer(), bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)


def _save(folder: Path, model_class: Any, config: Any) -> Path:
    import torch

    torch.manual_seed(3)
    model_class(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def _byte_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    vocabulary = [*sorted(byte_level.alphabet()), "<s>", "</s>", "<pad>"]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(vocabulary)}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = byte_level, decoders.ByteLevel()
    return tokenizer


def make_adapter(folder: Path, seed: int) -> Path:
    """A LoRA adapter of rank 4 for queries and values of `make_llama`'s model, as PEFT saves it; random weights."""
    import json

    import torch
    from safetensors.torch import save_file

    rank, hidden = 4, SHAPE["hidden_size"]
    sizes = {
        "q_proj": SHAPE["num_attention_heads"] * SHAPE["head_dim"],
        "v_proj": SHAPE["num_key_value_heads"] * SHAPE["head_dim"],
    }
    random = torch.Generator().manual_seed(seed)
    weights = {}
    for layer in range(SHAPE["num_hidden_layers"]):
        for name, size in sizes.items():
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            weights[f"{prefix}.lora_A.weight"] = torch.randn(rank, hidden, generator=random)
            weights[f"{prefix}.lora_B.weight"] = torch.randn(size, rank, generator=random)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": sorted(sizes),
        "base_model_name_or_path": "",
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
