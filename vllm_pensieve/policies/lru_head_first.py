"""Least recently used first; of blocks used together the leading one first."""

from __future__ import annotations

from dataclasses import replace

from vllm_pensieve.policies import lru

POLICY = replace(lru.POLICY, deepest_first=False)
