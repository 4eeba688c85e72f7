"""Clairvoyant as `min`, but every block that is looked up must be cached, as in libCacheSim."""

from __future__ import annotations

from vllm_pensieve.analysis.policies.minimum import make_run
from vllm_pensieve.analysis.policies.policy import Policy

POLICY = Policy("belady", "clairvoyant as min, but what is looked up must be kept", make_run(False))
