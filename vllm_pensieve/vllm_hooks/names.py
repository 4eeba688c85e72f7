"""The names by which vLLM finds what is ours."""

from __future__ import annotations

SCHEDULER = "vllm_pensieve.scheduler.make_scheduler"
SIMULATOR = "vllm_pensieve.simulator.SimulatedExecutor"
CONNECTOR = "PensieveConnector"
CONNECTOR_MODULE = "vllm_pensieve.swap.connector"
