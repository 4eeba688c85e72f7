"""How much KV memory a token takes of a model that a benchmark serves by its name."""

from __future__ import annotations

from vllm_pensieve.bench.model_files import config_path
from vllm_pensieve.demo_model import DEMO_MODEL_NAME
from vllm_pensieve.kv_shape import kv_shape
from vllm_pensieve.workloads.errors import UsageError


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
