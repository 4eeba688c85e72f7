"""Clairvoyant MIN (Belady 1966), which need not cache what it is given: no policy has more hits."""

from __future__ import annotations

from vllm_pensieve.policies.policy import Clairvoyant

POLICY = Clairvoyant(bypass=True)
