"""Tiny random models in folders of the originals' names, with the context lengths and chat templates of the real ones.

One byte is one token, and only printable ASCII is generated, so that a reply that is sent again as text is
tokenised to as many tokens as it was generated with, as is nearly so with a real model.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vllm_pensieve.testing.models import VOCABULARY, save_tokenizer

PRINTABLE = range(ord(" "), ord("~") + 1)
WIDTH = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
LLAMA_TEMPLATE = (
    "{% for m in messages %}{{ '<' + m['role'] + '> ' + m['content'] + ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"
)
GEMMA_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ '<start_of_turn>' + m['role'] + ' ' + m['content'] + '<end_of_turn> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model ' }}{% endif %}"
)
"""Like the real one, it takes no system message."""


def make_models(folder: Path, names: Iterable[str] | None = None) -> None:
    """Make the models in `folder`, each in a folder of its name; those that are there are left as they are.

    names: of `NAMES`; None: all.
    """
    for name in NAMES if names is None else names:
        if not (folder / name / "config.json").is_file():
            (folder / name).mkdir(parents=True, exist_ok=True)
            _save(folder / name, *NAMES[name]())


def _gpt2() -> tuple[Any, str | None]:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 128, "n_layer": 4, "n_head": 4, "n_positions": 1024}
    return GPT2LMHeadModel(GPT2Config(**sizes, **VOCABULARY)), None


def _opt() -> tuple[Any, str | None]:
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(
        **WIDTH,
        **VOCABULARY,
        ffn_dim=256,
        word_embed_proj_dim=128,
        max_position_embeddings=2048,
    )
    return OPTForCausalLM(config), None


def _llama3() -> tuple[Any, str | None]:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        **WIDTH,
        **VOCABULARY,
        intermediate_size=256,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
    )
    return LlamaForCausalLM(config), None


def _llama3_instruct() -> tuple[Any, str | None]:
    return _llama3()[0], LLAMA_TEMPLATE


def _gemma2() -> tuple[Any, str | None]:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        **WIDTH,
        **VOCABULARY,
        intermediate_size=256,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=8192,
        sliding_window=4096,
        query_pre_attn_scalar=32,
    )
    return Gemma2ForCausalLM(config), GEMMA_TEMPLATE


NAMES = {
    "gpt2": _gpt2,
    "facebook/opt-125m": _opt,
    "facebook/opt-350m": _opt,
    "meta-llama/Meta-Llama-3-8B": _llama3,
    "meta-llama/Meta-Llama-3-8B-Instruct": _llama3_instruct,
    "google/gemma-2-27b-it": _gemma2,
}
"""Every model that a line of the originals names, and what makes its stand-in."""


def _save(folder: Path, model: Any, chat_template: str | None) -> None:
    import torch

    torch.manual_seed(3)
    model.init_weights()
    with torch.no_grad():
        _generate_printable_ascii_only(model)
    model.to(torch.bfloat16).save_pretrained(folder)
    save_tokenizer(folder)
    if chat_template is not None:
        (folder / "chat_template.jinja").write_text(chat_template)


def _generate_printable_ascii_only(model: Any) -> None:
    """Channel 0 of the hidden state is the same for every printable token that is read, no layer writes it, and it
    pushes all other tokens far down in the output.
    """
    embedding = model.get_input_embeddings().weight
    head = model.get_output_embeddings().weight
    # The id of a byte-level character is its place among the sorted ones.
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    allowed = [alphabet.index("Ġ"), *(alphabet.index(chr(code)) for code in PRINTABLE[1:])]
    # Norms behind each part, as in Gemma 2, make what the layers write much larger than the embedding.
    factor = 40 if hasattr(model.config, "final_logit_softcapping") else 8
    spread = factor * float(embedding.std())
    for weight in (embedding, head):
        weight[:, 0] = -spread
        weight[allowed, 0] = spread
    for name, parameter in model.named_parameters():
        if "position" in name or ".wpe." in name:
            parameter[:, 0] = 0.0
        elif ".c_proj." in name:  # of GPT-2, whose weights are [inputs, outputs]
            parameter[..., 0] = 0.0
        elif any(f".{writes}." in name for writes in ("out_proj", "fc2", "o_proj", "down_proj")):
            parameter[0] = 0.0
