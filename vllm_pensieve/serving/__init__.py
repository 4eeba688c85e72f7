"""Conversations served by a vLLM engine of this process: for programs, the chat, and the self-checks."""

from vllm_pensieve.serving.options import ServerOptions
from vllm_pensieve.serving.server import Reply, Server, create_server
from vllm_pensieve.serving.statistics import Statistics

__all__ = ["Reply", "Server", "ServerOptions", "Statistics", "create_server"]
