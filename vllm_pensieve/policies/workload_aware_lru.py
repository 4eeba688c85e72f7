"""LRU for chosen workloads; requests of the others look up and leave the cache as it is."""

from __future__ import annotations

from dataclasses import replace

from vllm_pensieve.policies import lru

POLICY = replace(lru.POLICY, keeps_chosen_workloads=True)
