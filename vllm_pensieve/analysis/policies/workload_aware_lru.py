"""LRU for chosen workloads; requests of the others look up and leave the cache as it is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vllm_pensieve.analysis.policies.kernel import make_run
from vllm_pensieve.analysis.policies.lru import evict, insert, new_state, remove
from vllm_pensieve.analysis.policies.policy import Policy, Replay


def chosen(replay: Replay) -> NDArray[np.bool_]:
    """[workloads], whether it was chosen."""
    return np.isin(replay.workloads, replay.parameters.cached_workloads)


POLICY = Policy(
    "workload-aware-lru",
    "LRU that keeps blocks of chosen workloads only",
    make_run(remove, evict, insert, new_state, deepest_first=True, keeps=chosen),
)
