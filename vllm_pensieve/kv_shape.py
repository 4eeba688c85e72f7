"""How much KV a model has, read from its config.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_pensieve.demo_model import DEMO_MODEL_NAME, model_config
from vllm_pensieve.errors import UsageError

BYTES_BY_DTYPE = {"bfloat16": 2, "float16": 2, "float32": 4}
DEFAULT_DTYPE = "bfloat16"
NAMES = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"),
    "heads": (
        "num_attention_heads",
        "n_head",
        "n_heads",
        "num_heads",
        "attention_heads",
        "decoder_attention_heads",
    ),
    "kv_heads": (
        "num_key_value_heads",
        "num_kv_heads",
        "n_head_kv",
        "multi_query_group_num",
        "kv_n_heads",
    ),
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "head_dim": ("head_dim", "kv_channels"),
}
"""What configurations call a size: most models, GPT-2 and its kin, MPT, ChatGLM, encoder-decoders."""
PARTS = ("thinker_config", "text_config", "llm_config", "language_config")
"""Where a model of several modalities describes the part that keeps KV."""
WITHOUT_KV = ("linear", "mamba", "conv", "recurrent")
"""Words in the names of layer types that keep a state instead of keys and values."""


@dataclass(frozen=True)
class KvShape:
    """Layers of a model that keep keys and values, and the bytes that each keeps for a token."""

    layers: int
    layer_bytes_per_token: int

    @property
    def bytes_per_token(self) -> int:
        """Of all layers."""
        return self.layers * self.layer_bytes_per_token


def kv_shape(model: str, dtype: str | None = None) -> KvShape:
    """The shape of the demo model for "demo", or of the model whose config.json (or folder) this is.

    Keys and values are counted in `dtype`; None: in the model's own number format, 2 bytes if it names none.
    Raises UsageError if there is no such file, or it does not give the sizes of keys and values.
    """
    if model == DEMO_MODEL_NAME:
        return _shape(model_config(), model, dtype)
    path = Path(model) / "config.json" if Path(model).is_dir() else Path(model)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"--model {model}: cannot be read ({error}); give `demo` or a config.json"
        ) from error
    return _shape(config, model, dtype)


def _bytes(dtype: Any, model: str) -> int:
    if dtype not in BYTES_BY_DTYPE:
        raise UsageError(
            f"--model {model}: number format {dtype!r}; known: {', '.join(BYTES_BY_DTYPE)}"
        )
    return BYTES_BY_DTYPE[dtype]


def _shape(config: Any, model: str, dtype: str | None) -> KvShape:
    if not isinstance(config, dict):
        raise UsageError(f"--model {model}: is not the configuration of a model")
    named = _named_dtype(config)
    for part in PARTS:
        if isinstance(config.get(part), dict):
            config = config[part]
            named = _named_dtype(config) or named
    layers = _kv_layers(config)
    numbers = _latent_numbers(config) or _head_numbers(config)
    if not (layers and numbers):
        raise UsageError(
            f"--model {model}: needs num_hidden_layers, num_attention_heads, and hidden_size or head_dim "
            "(n_layer, n_head, n_embd; with kv_lora_rank, qk_rope_head_dim) as numbers above 0"
        )
    return KvShape(layers, numbers * _bytes(dtype or named or DEFAULT_DTYPE, model))


def _named_dtype(config: dict[str, Any]) -> str | None:
    dtype = config.get("dtype") or config.get("torch_dtype")
    return dtype.removeprefix("torch.") if isinstance(dtype, str) else dtype


def _kv_layers(config: dict[str, Any]) -> int:
    """Layers that keep keys and values of their own."""
    types = config.get("layer_types")
    if isinstance(types, list) and types:
        layers = sum(not any(word in str(kind) for word in WITHOUT_KV) for kind in types)
    else:
        layers = _count(config, NAMES["layers"])
    return max(0, layers - _count(config, ("num_kv_shared_layers",)))


def _latent_numbers(config: dict[str, Any]) -> int:
    """Numbers that a layer keeps for a token with multi-head latent attention: a latent vector and a rotary key."""
    rank, rotary = (_count(config, (name,)) for name in ("kv_lora_rank", "qk_rope_head_dim"))
    return rank + rotary if rank and rotary else 0


def _head_numbers(config: dict[str, Any]) -> int:
    """Numbers that a layer keeps for a token: a key and a value for each KV head."""
    attention = config.get("attn_config")  # of MPT and DBRX
    sizes = {**attention, **config} if isinstance(attention, dict) else config
    heads, kv_heads, hidden, head_dim = (
        _count(sizes, NAMES[size]) for size in ("heads", "kv_heads", "hidden", "head_dim")
    )
    if config.get("multi_query") and not config.get("new_decoder_architecture"):
        kv_heads = 1  # whatever else the configuration names
    if not head_dim and hidden and heads:
        head_dim = hidden // heads
    return 0 if config.get("kv_lora_rank") else 2 * (kv_heads or heads) * head_dim


def _count(config: dict[str, Any], names: tuple[str, ...]) -> int:
    """The first number above 0 that has one of these names, 0 if there is none."""
    values = (config.get(name) for name in names)
    return next((value for value in values if isinstance(value, int) and value > 0), 0)
