"""The version of this package, and the vLLM that it is made for."""

from __future__ import annotations

__version__ = "0.1.0"
SUPPORTED_VLLM = "0.32"
"""Any version that begins so."""
TESTED_VLLM = f"{SUPPORTED_VLLM}.0"
