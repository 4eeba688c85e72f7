"""Clairvoyant as `min`, but every block that is looked up must be cached, as in libCacheSim."""

from __future__ import annotations

from vllm_pensieve.policies.policy import Clairvoyant

POLICY = Clairvoyant(bypass=False)
