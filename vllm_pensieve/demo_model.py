"""The demo model: a Llama of 25 million random parameters, made once into the user's cache folder,
no download.

Its replies are meaningless, its arithmetic and its KV cache are those of any Llama. Two properties
are built in, because conversations are measured with it:

- One byte is one token, in both directions, so token counts are exact without loading a tokenizer.
- Only lower-case letters, space, comma and full stop can be generated (hidden channel 0 is a
  constant that no layer writes, and `lm_head` uses it to push every other token far down, at any
  temperature). Text made of these, sent back as history, is tokenised to exactly the ids that were
  generated, so the KV of a reply can be used again in the next turn.
"""

from __future__ import annotations

import json
import shutil
import string
import tempfile
from pathlib import Path

from vllm_pensieve.config import cache_folder, temporary_folder
from vllm_pensieve.errors import UsageError

DEMO_MODEL_NAME = "demo"
DEMO_MODEL_VERSION = 1
"""Part of the folder's name: raise it whenever the generated files change."""

SEED = 20250401
HIDDEN = 512
INTERMEDIATE = 1536
LAYERS = 8
HEADS = 8
KV_HEADS = 4
HEAD_DIM = HIDDEN // HEADS
MAX_POSITION = 32768

BYTES = 256
SPECIAL_TOKENS = ("<|begin|>", "<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>")
VOCAB = 264
GENERATED_TEXT = string.ascii_lowercase + " ,."
"""The characters that the model can generate."""

CHAT_TEMPLATE = (
    "{{ '<|begin|>' }}{% for m in messages %}"
    "{% set role = m['role'] if m['role'] in ('system', 'assistant') else 'user' %}"
    "{{ '<|' + role + '|>' + m['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def named(model: str) -> str:
    """A model's name for a line of output; of the demo model with a warning of what it says."""
    return (
        f"{model} (a random model: its answers mean nothing)" if model == DEMO_MODEL_NAME else model
    )


def resolve_model(name: str) -> str:
    """Return the path of the demo model for the name "demo" (made if missing), and any other name
    unchanged.
    """
    return str(ensure_demo_model()) if name == DEMO_MODEL_NAME else name


def ensure_demo_model() -> Path:
    """Return the demo model's folder; make it first if it is not there.

    It lies in the cache folder, or among temporary files where that cannot be written.

    Raises:
        UsageError: neither can be written.
    """
    name = f"demo-model-{DEMO_MODEL_VERSION}"
    try:
        return _ensure_model(cache_folder() / name)
    except OSError as error:
        try:
            return _ensure_model(temporary_folder() / name)
        except OSError as second:
            raise UsageError(
                f"the demo model cannot be written: {error}; {second}. Set XDG_CACHE_HOME to a folder that can be"
            ) from second


def _ensure_model(target: Path) -> Path:
    """`target`, with the model in it.

    It is written next to its place and renamed, so a folder with this name is always complete, also
    when two processes make it at once. Raises OSError if it cannot be written.
    """
    if (target / "config.json").is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        write_demo_model(work)
        work.chmod(0o755)
        try:
            work.rename(target)
        except OSError:
            if not (target / "config.json").is_file():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def write_demo_model(folder: Path) -> None:
    """Write config, tokenizer and weights (bfloat16, the same bits for the same torch) into the
    existing `folder`.
    """
    from safetensors.torch import save_file

    _write_tokenizer(folder)
    save_file(_weights(), str(folder / "model.safetensors"), metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(model_config(), indent=1))
    generation = {"bos_token_id": BYTES, "eos_token_id": BYTES + 1, "pad_token_id": BYTES + 2}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=1))


def model_config() -> dict[str, object]:
    """What its config.json says."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "max_position_embeddings": MAX_POSITION,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "bos_token_id": BYTES,
        "eos_token_id": BYTES + 1,
        "pad_token_id": BYTES + 2,
        "torch_dtype": "bfloat16",
    }


def _byte_characters() -> list[str]:
    """The printable stand-in of every byte, in byte order, as byte-level tokenizers write them."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(BYTES) if byte not in plain]
    stand_in = {byte: chr(byte) for byte in plain} | {
        byte: chr(BYTES + i) for i, byte in enumerate(others)
    }
    return [stand_in[byte] for byte in range(BYTES)]


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocab = {character: byte for byte, character in enumerate(_byte_characters())}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL_TOKENS[0],
        "eos_token": SPECIAL_TOKENS[1],
        "pad_token": SPECIAL_TOKENS[2],
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": MAX_POSITION,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))


def _weights() -> dict[str, object]:
    """Random weights by their Hugging Face names, bfloat16; channel 0 of the hidden state is 1
    before the last norm, always.

    Queries and keys are drawn larger than usual: attention then picks few positions, and the text
    depends on what was said.
    """
    import torch

    generator = torch.Generator().manual_seed(SEED)

    def normal(rows: int, columns: int, scale: float) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) * scale

    embedding = normal(VOCAB, HIDDEN, 1.0)
    embedding[:, 0] = 1.0
    head = normal(VOCAB, HIDDEN, HIDDEN**-0.5) * 2.0
    head[:, 0] = -1000.0
    head[[ord(character) for character in GENERATED_TEXT], 0] = 0.0
    weights = {
        "model.embed_tokens.weight": embedding,
        "model.norm.weight": torch.ones(HIDDEN),
        "lm_head.weight": head,
    }
    for layer in range(LAYERS):
        name = f"model.layers.{layer}"
        kv = KV_HEADS * HEAD_DIM
        for projection, rows, factor in (
            ("q", HIDDEN, 2),
            ("k", kv, 2),
            ("v", kv, 1),
            ("o", HIDDEN, 1),
        ):
            weights[f"{name}.self_attn.{projection}_proj.weight"] = normal(
                rows, HIDDEN, factor * HIDDEN**-0.5
            )
        for projection in ("gate", "up"):
            weights[f"{name}.mlp.{projection}_proj.weight"] = normal(
                INTERMEDIATE, HIDDEN, HIDDEN**-0.5
            )
        weights[f"{name}.mlp.down_proj.weight"] = normal(HIDDEN, INTERMEDIATE, INTERMEDIATE**-0.5)
        for writes_hidden in (f"{name}.self_attn.o_proj.weight", f"{name}.mlp.down_proj.weight"):
            weights[writes_hidden][0] = 0.0
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{name}.{norm}.weight"] = torch.ones(HIDDEN)
    return {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in weights.items()}
