"""vllm-pensieve: a vLLM plugin that serves conversations instead of requests."""

__version__ = "0.1.0"
