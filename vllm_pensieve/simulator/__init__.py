"""vLLM without a model: `--distributed-executor-backend vllm_pensieve.simulator.SimulatedExecutor`."""

from vllm_pensieve.simulator.executor import SimulatedExecutor

__all__ = ["SimulatedExecutor"]
