"""A profile made by hand."""

from datetime import UTC, datetime
from typing import Any

from vllm_pensieve.retention import ModelShape
from vllm_pensieve.retention.profile import SCHEMA, Point, Profile, ProfileKey, Provenance

KEY = ProfileKey(
    shape=ModelShape(
        layers=4,
        hidden_size=128,
        query_heads=4,
        kv_heads=2,
        head_dim=32,
        feed_forward_size=256,
        gated_feed_forward=True,
    ),
    architecture="LlamaForCausalLM",
    dtype="bfloat16",
    quantization="",
    kv_cache_dtype="bfloat16",
    tensor_parallel_size=1,
    device="a processor",
    logical_cpus=8,
    compute_threads=7,
    eager=False,
)


def a_profile(**fields: Any) -> Profile:
    """A token costs 0.1 ms at the start, twice that at 1,024 tokens."""
    given: dict[str, Any] = {
        "schema": SCHEMA,
        "date": datetime(2026, 11, 21, tzinfo=UTC),
        "key": KEY,
        "points": (Point(0, 1e-4), Point(1024, 2e-4)),
        "step_s": 5e-3,
        "step_s_per_context_token": 1e-6,
        "store_bytes_per_s": 8e9,
        "load_bytes_per_s": 1e10,
        "measured": Provenance("tiny", {"vllm": "0.32.0"}, 32, (128, 512), 7, 0.02),
    }
    return Profile(**given | fields)
