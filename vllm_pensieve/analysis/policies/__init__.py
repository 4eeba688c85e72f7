"""Cache policies for simulation, one file each; loading one compiles it, or takes what was compiled before."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from vllm_pensieve.errors import UsageError

if TYPE_CHECKING:
    from vllm_pensieve.analysis.policies.policy import Policy

FILES = {
    "lru": "lru",
    "lru-head-first": "lru_head_first",
    "fifo": "fifo",
    "fifo-as-served": "fifo_as_served",
    "lfu": "lfu",
    "arc": "arc",
    "s3-fifo": "s3_fifo",
    "sieve": "sieve",
    "w-tinylfu": "w_tinylfu",
    "gdsf": "gdsf",
    "retention": "retention",
    "workload-aware-lru": "workload_aware_lru",
    "min": "minimum",
    "belady": "belady",
}
"""File of each policy, by its name."""


def load_policy(name: str) -> Policy:
    """The policy of this name. UsageError if there is none."""
    if name not in FILES:
        raise UsageError(f"unknown policy {name!r}; choose one of: {', '.join(FILES)}")
    policy: Policy = import_module(f"{__name__}.{FILES[name]}").POLICY
    assert policy.name == name, (policy.name, name)
    return policy
