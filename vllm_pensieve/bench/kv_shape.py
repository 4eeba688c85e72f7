"""How much KV a model has, read from its config.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_pensieve import demo_model
from vllm_pensieve.bench.model_files import config_path
from vllm_pensieve.demo_model import DEMO_MODEL_NAME
from vllm_pensieve.workloads.errors import UsageError

BYTES_BY_DTYPE = {"bfloat16": 2, "float16": 2, "float32": 4}
DEFAULT_DTYPE = "bfloat16"
NAMES = {
    "layers": ("num_hidden_layers", "n_layer"),
    "heads": ("num_attention_heads", "n_head"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads"),
    "hidden": ("hidden_size", "n_embd"),
    "head_dim": ("head_dim",),
}
"""What configurations call a size; the second names are those of GPT-2 and its kin."""


@dataclass(frozen=True)
class KvShape:
    """Layers of a model, and bytes of keys and values that each keeps for a token."""

    layers: int
    layer_bytes_per_token: int

    @property
    def bytes_per_token(self) -> int:
        """Of all layers."""
        return self.layers * self.layer_bytes_per_token


def kv_shape(model: str, dtype: str | None = None) -> KvShape:
    """The shape of the demo model for "demo", or of the model whose config.json (or folder) this is.

    Keys and values are counted in `dtype`; None: in the model's own number format, 2 bytes if it names none.
    Raises UsageError if there is no such file, or it does not describe a model with keys and values by head.
    """
    if model == DEMO_MODEL_NAME:
        in_bfloat16 = demo_model.KV_BYTES_PER_TOKEN // demo_model.LAYERS
        return KvShape(demo_model.LAYERS, in_bfloat16 * _bytes(dtype or DEFAULT_DTYPE, model) // 2)
    path = Path(model) / "config.json" if Path(model).is_dir() else Path(model)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--model {model}: cannot be read ({error}); give `demo` or a config.json"
        ) from error
    return _shape(config, model, dtype)


def kv_gb_per_token(model: str, dtype: str | None) -> float:
    """Return the GB that a model, given by its name, takes for a token. Raises UsageError if that is not known."""
    try:
        where = model if model == DEMO_MODEL_NAME else str(config_path(model))
        return kv_shape(where, dtype).bytes_per_token / 10**9
    except (UsageError, OSError, ValueError) as error:
        raise UsageError(
            f"how much KV {model} keeps for a token cannot be told ({error}); "
            "give --gpu-cache and --cpu-cache"
        ) from error


def _bytes(dtype: str, model: str) -> int:
    if dtype not in BYTES_BY_DTYPE:
        raise UsageError(
            f"--model {model}: number format {dtype!r}; known: {', '.join(BYTES_BY_DTYPE)}"
        )
    return BYTES_BY_DTYPE[dtype]


def _shape(config: Any, model: str, dtype: str | None) -> KvShape:
    if isinstance(config, dict) and isinstance(config.get("text_config"), dict):
        config = config["text_config"]
    if not isinstance(config, dict) or config.get("kv_lora_rank"):
        raise UsageError(f"--model {model}: not the configuration of a model with KV heads")
    layers, heads, kv_heads, hidden, head_dim = (_count(config, NAMES[size]) for size in NAMES)
    if config.get("multi_query") and not config.get("new_decoder_architecture"):
        kv_heads = 1  # whatever else the configuration names
    kv_heads = kv_heads or heads
    if not head_dim and hidden and heads:
        head_dim = hidden // heads
    if not (layers and kv_heads and head_dim):
        raise UsageError(
            f"--model {model}: needs num_hidden_layers, num_attention_heads, and hidden_size or head_dim "
            "(n_layer, n_head, n_embd) as numbers above 0"
        )
    dtype = dtype or config.get("dtype") or config.get("torch_dtype") or DEFAULT_DTYPE
    return KvShape(layers, 2 * kv_heads * head_dim * _bytes(dtype, model))


def _count(config: dict[str, Any], names: tuple[str, ...]) -> int:
    """The first number above 0 that has one of these names, 0 if there is none."""
    values = (config.get(name) for name in names)
    return next((value for value in values if isinstance(value, int) and value > 0), 0)
