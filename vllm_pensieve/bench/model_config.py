"""Where a model's config.json is, and how long a context it allows."""

from __future__ import annotations

import json
from pathlib import Path

from vllm_pensieve.demo_model import DEMO_MODEL_NAME, MAX_POSITION

CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
SCALING_KEYS = ("rope_scaling", "rope_parameters")
PLAIN_ROPE = (None, "default")


def config_path(model: str) -> Path:
    """Return the path of a model's config.json: in its folder, or in the hub's cache.

    Raises OSError if there is none.
    """
    if Path(model).is_dir():
        return Path(model) / "config.json"
    from transformers.utils import cached_file

    return Path(cached_file(model, "config.json"))


def context_limit(model: str) -> int | None:
    """Return the most tokens that a model's positions allow; None if its configuration does not tell.

    It does not where positions are scaled: how far is for vLLM to say.
    """
    if model == DEMO_MODEL_NAME:
        return MAX_POSITION
    try:
        config = json.loads(config_path(model).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    config = config.get("text_config") or config
    for key in SCALING_KEYS:
        rope = config.get(key) or {}
        if rope.get("rope_type", rope.get("type")) not in PLAIN_ROPE:
            return None
    limits = [config[key] for key in CONTEXT_KEYS if isinstance(config.get(key), int)]
    return min(limits) if limits else None
