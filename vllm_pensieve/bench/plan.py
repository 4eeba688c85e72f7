"""What one comparison does, decided before anything is started."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vllm_pensieve.bench.server import ServerCommand
from vllm_pensieve.machine import GIB
from vllm_pensieve.modes import BLOCK_TOKENS, Mode
from vllm_pensieve.workloads.conversations import Conversation

RECORDED_VARIABLES = (
    "VLLM_PENSIEVE",
    "VLLM_CPU_",
    "VLLM_USE_",
    "VLLM_ENABLE_",
    "OMP_",
    "CUDA_VISIBLE_DEVICES",
)


@dataclass(frozen=True)
class ComparePlan:
    """All inputs of a comparison.

    Every mode gets the same conversations, model, memory and server options.
    """

    model: str
    """As named by the user; also the served name."""
    model_path: str
    modes: tuple[Mode, ...]
    conversations: tuple[Conversation, ...]
    workload: dict[str, object]
    """Description for the summary."""
    classes: Mapping[str, str]
    """Class of the user by session; empty where users have no classes."""
    concurrency: int
    seed: int
    repeat: int
    port: int
    max_model_len: int
    kv_cache_gib: float | None
    eager: bool
    environment: Mapping[str, str]
    """What each mode's own environment is made from."""
    server_options: tuple[str, ...]
    out: Path
    sheet: Path | None

    notes: tuple[str, ...] = ()
    """What is otherwise than asked for, a line each."""

    @property
    def requests(self) -> int:
        """Requests of one mode in one repeat."""
        return sum(len(conversation.turns) for conversation in self.conversations)


def server_arguments(plan: ComparePlan, mode: Mode) -> tuple[str, ...]:
    """Return the command line of a mode's server; the user's own options come last, so that they
    win.
    """
    options = [
        "--model",
        plan.model_path,
        "--served-model-name",
        plan.model,
        "--host",
        "127.0.0.1",
        "--port",
        str(plan.port),
    ]
    options += [
        "--max-model-len",
        str(plan.max_model_len),
        "--block-size",
        str(BLOCK_TOKENS),
        "--seed",
        str(plan.seed),
    ]
    options += ["--enable-prompt-tokens-details"]
    if plan.kv_cache_gib is not None:
        options += ["--kv-cache-memory-bytes", str(round(plan.kv_cache_gib * GIB))]
    if plan.eager:
        options += ["--enforce-eager"]
    program = (sys.executable, "-m", "vllm.entrypoints.openai.api_server")
    return (*program, *options, *mode.options(), *plan.server_options)


def server_command(plan: ComparePlan, mode: Mode, repeat: int) -> ServerCommand:
    """Return everything that starts a mode's server; `repeat` counts from 0 and names the log."""
    environment = mode.environment(dict(plan.environment))
    environment.pop("VLLM_API_KEY", None)
    environment.pop("VLLM_CPU_KVCACHE_SPACE", None)
    log = (
        plan.out
        / "logs"
        / (f"{mode.name}.log" if repeat == 0 else f"{mode.name}-repeat-{repeat + 1}.log")
    )
    return ServerCommand(server_arguments(plan, mode), environment, plan.port, log)


def recorded_environment(environment: dict[str, str]) -> dict[str, str]:
    """Return the variables of a server's environment that a reader needs to repeat the measurement."""
    return {
        name: value
        for name, value in sorted(environment.items())
        if name.startswith(RECORDED_VARIABLES)
    }


def needed_context_tokens(
    conversations: Sequence[Conversation], message_overhead_tokens: int
) -> int:
    """Return the longest conversation's tokens at its end."""
    return max(
        conversation.context_tokens(message_overhead_tokens) for conversation in conversations
    )
