"""Tiny random models with a byte-level tokenizer, made on disk in a second, nothing downloaded."""

from pathlib import Path

SHAPE = {
    "vocab_size": 264,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 4096,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
}


def make_llama(folder: Path) -> Path:
    """Full attention in all layers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return _save(folder, LlamaForCausalLM, LlamaConfig(**SHAPE))


def make_sliding_window_mistral(folder: Path, window_tokens: int) -> Path:
    """Attention over the last `window_tokens` in all layers."""
    from transformers import MistralConfig, MistralForCausalLM

    return _save(folder, MistralForCausalLM, MistralConfig(**SHAPE, sliding_window=window_tokens))


def _save(folder: Path, model_class: type, config) -> Path:
    import torch
    from transformers import PreTrainedTokenizerFast

    torch.manual_seed(3)
    model_class(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=_byte_tokenizer(), bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)
    return folder


def _byte_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    vocabulary = [*sorted(byte_level.alphabet()), "<s>", "</s>", "<pad>"]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(vocabulary)}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = byte_level, decoders.ByteLevel()
    return tokenizer
