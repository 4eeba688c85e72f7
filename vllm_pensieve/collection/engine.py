"""The vLLM engine of this process that a trace is recorded from."""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import PurePath
from typing import TYPE_CHECKING

from vllm_pensieve.collection.recording import Recording
from vllm_pensieve.config import ADDITIONAL_CONFIG_KEY, NO_PROFILE, PLAIN, SWITCH
from vllm_pensieve.demo_model import resolve_model
from vllm_pensieve.errors import UsageError
from vllm_pensieve.machine import GIB
from vllm_pensieve.serving.starting import is_switched_off, prepare_environment, start_engine
from vllm_pensieve.vllm_hooks.names import SIMULATOR

if TYPE_CHECKING:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

SIMULATOR_KEY = "pensieve_simulator"
CPU_BLOCK_MULTIPLE = 32
"""vLLM's attention on the CPU takes blocks of this many tokens or multiples."""


def prepare_recording_environment(environment: MutableMapping[str, str]) -> list[str]:
    """Set up the environment for an engine in this process, before vLLM is imported; return what one should know."""
    if is_switched_off(environment):
        raise UsageError(f"{SWITCH}=0 keeps the plugin off, and without it nothing is recorded")
    return prepare_environment(environment)


def needs_simulation(block_tokens: int) -> bool:
    """Whether no model can be run here with blocks of this size."""
    from vllm.platforms import current_platform

    return current_platform.is_cpu() and block_tokens % CPU_BLOCK_MULTIPLE != 0


def _name(recording: Recording) -> str:
    """What the trace says was served."""
    name = PurePath(recording.model).name
    return f"{name} (tokens made up)" if recording.simulate else name


def start_recording(recording: Recording) -> LLMEngine:
    """An engine that writes the recording's trace; without a model if that is simulated.

    Raises:
        UsageError: vLLM refuses the model or an option.
    """
    return start_engine(
        f"model {recording.model!r} and blocks of {recording.block_tokens} tokens",
        lambda: _arguments(recording),
        hint=" (see --kv-cache-gib and --max-prompt-tokens)",
    )


def _arguments(recording: Recording) -> EngineArgs:
    from vllm.engine.arg_utils import EngineArgs

    settings = {
        "trace_prefix": str(recording.prefix),
        "trace_workload": recording.workload,
        "trace_session_ids": PLAIN,  # of a data set
    }
    if recording.simulate:  # the same trace on every machine, whatever was measured there
        settings["cost_profile"] = NO_PROFILE
    options = {"distributed_executor_backend": SIMULATOR} if recording.simulate else {}
    return EngineArgs(
        model=resolve_model(recording.model),
        served_model_name=_name(recording),
        block_size=recording.block_tokens,
        max_model_len=recording.max_model_tokens,
        kv_cache_memory_bytes=int(recording.kv_cache_gib * GIB),
        enforce_eager=True,
        seed=0,
        additional_config={
            ADDITIONAL_CONFIG_KEY: settings,
            SIMULATOR_KEY: {"tokens": recording.simulated_tokens},
        },
        **options,
    )
