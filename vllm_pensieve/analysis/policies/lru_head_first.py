"""Least recently used first; of blocks used together the leading one first."""

from __future__ import annotations

from vllm_pensieve.analysis.policies.kernel import make_run
from vllm_pensieve.analysis.policies.lru import evict, insert, new_state, remove
from vllm_pensieve.analysis.policies.policy import Policy

POLICY = Policy(
    "lru-head-first",
    "least recently used, the leading block of a request first",
    make_run(remove, evict, insert, new_state, deepest_first=False),
)
