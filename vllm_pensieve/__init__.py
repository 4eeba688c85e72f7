"""vllm-pensieve: a vLLM plugin that serves conversations instead of requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm_pensieve.version import __version__

if TYPE_CHECKING:
    from vllm_pensieve.serving import Server

__all__ = ["__version__", "create_server"]


def create_server(mode: str = "pensieve", model: str = "demo", **options: Any) -> Server:
    """Make a server of conversations in this process; see `vllm_pensieve.serving.create_server`."""
    from vllm_pensieve import serving

    return serving.create_server(mode, model, **options)
