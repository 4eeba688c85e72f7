"""vllm-pensieve: a vLLM plugin that serves conversations instead of requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm_pensieve.serving import Server

__version__ = "0.1.0"
__all__ = ["create_server"]


def create_server(mode: str = "pensieve", model: str = "demo", **options: Any) -> Server:
    """Make a server of conversations in this process; see `vllm_pensieve.serving.create_server`."""
    from vllm_pensieve import serving

    return serving.create_server(mode, model, **options)
