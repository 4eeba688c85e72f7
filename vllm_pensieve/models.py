"""What a model's own files say of it before it is served: how long its context is, and whether it can chat."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from vllm_pensieve.demo_model import DEMO_MODEL_NAME, MAX_POSITION
from vllm_pensieve.errors import UsageError
from vllm_pensieve.kv_shape import kv_shape

CONTEXT_NAMES = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
"""What configurations call the length of the context; the smallest counts, as in vLLM."""
ALREADY_SCALED = ("default", "su", "longrope", "llama3", "yarn")
"""Kinds of rope scaling whose factor is part of that length already."""
KEEP_ALL_TOKENS = "--disable-hybrid-kv-cache-manager"
PLAIN_CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{{ m['role'] | capitalize + ':' + ('' if m['role'] == 'assistant' else ' ') + m['content'] + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""For models older than chat templates: a line for each message, with the speaker's name.

A reply stands in the next prompt right after its colon, as it was generated, so that its KV can be used again.
"""


def config_path(model: str) -> Path:
    """Return the path of a model's config.json: in its folder, or in the hub's cache.

    Raises OSError if there is none.
    """
    if Path(model).is_dir():
        return Path(model) / "config.json"
    from transformers.utils import cached_file

    return Path(cached_file(model, "config.json"))


def context_limit(model: str) -> int | None:
    """Return the longest sequence in tokens that the model was made for; None if its files do not say.

    model: "demo", a folder, or a name on the hub, whose configuration is then fetched.
    """
    if model == DEMO_MODEL_NAME:
        return MAX_POSITION
    config = _configuration(model)
    if config is None or _is_stretched(config):
        return None
    if own := getattr(config, "model_max_length", None):
        return int(own)
    lengths = [getattr(config, name, None) for name in CONTEXT_NAMES]
    return min(
        (length for length in lengths if isinstance(length, int) and length > 0), default=None
    )


def chat_options(model: str) -> tuple[str, ...]:
    """Return the options by which vLLM's server can chat with the model: a plain template if it has none.

    A model that takes more than text is left to vLLM, which knows other places where a template may be.
    """
    if model == DEMO_MODEL_NAME or _has_chat_template(model):
        return ()
    return ("--chat-template", PLAIN_CHAT_TEMPLATE)


def window_options(model: str, given: Sequence[str]) -> tuple[str, ...]:
    """Return the option with which vLLM keeps all tokens for all layers, for a model of which some have a window.

    Without it the plugin steps back there. given: vLLM's options by the user, who may have decided that already.
    """
    if any(option.replace("--no-", "--").startswith(KEEP_ALL_TOKENS) for option in given):
        return ()
    config = None if model == DEMO_MODEL_NAME else _configuration(model)
    kinds = set(getattr(config, "layer_types", None) or ())
    return (KEEP_ALL_TOKENS,) if kinds == {"full_attention", "sliding_attention"} else ()


@cache
def _has_chat_template(model: str) -> bool:
    from transformers import AutoTokenizer

    config = _configuration(model, text=False)
    if config is None or config.get_text_config() is not config:
        return True  # as far as can be seen
    return AutoTokenizer.from_pretrained(model).chat_template is not None


@cache
def _configuration(model: str, text: bool = True) -> Any:
    """The model's configuration, or that of its text part; None if transformers does not know it."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model)
    except (OSError, ValueError, KeyError):
        return None
    return config.get_text_config() if text else config


def _is_stretched(config: Any) -> bool:
    """Whether a factor lengthens the context beyond what the configuration names."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [part for part in (rope, *rope.values()) if isinstance(part, dict)]
    return any(
        part.get("factor") and part.get("rope_type", "default") not in ALREADY_SCALED
        for part in kinds
    )


def kv_gb_per_token(model: str, dtype: str | None) -> float:
    """Return the GB (10^9 bytes) that a model, given by its name, takes for a token.

    Raises UsageError if that is not known.
    """
    try:
        where = model if model == DEMO_MODEL_NAME else str(config_path(model))
        return kv_shape(where, dtype).bytes_per_token / 10**9
    except (UsageError, OSError, ValueError) as error:
        raise UsageError(
            f"how much KV {model} keeps for a token is not known ({error}); give --gpu-cache and --cpu-cache"
        ) from error
