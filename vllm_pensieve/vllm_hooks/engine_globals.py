"""What vLLM has once in a process, kept for each of several engines in it: they take turns with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib import import_module
from typing import Any

ONCE_A_PROCESS = (
    # The worker's end of the KV connector: an engine that is made next would take it for its own.
    ("vllm.distributed.kv_transfer.kv_transfer_state", "_KV_CONNECTOR_AGENT"),
    # Scratch memory on GPUs, which captured CUDA graphs point into.
    ("vllm.v1.worker.workspace", "_manager"),
)
"""Module and name of what belongs to one engine and is looked up by name."""


class EngineGlobals:
    """What one engine of this process has put under vLLM's names; vLLM finds it there inside `in_place` only."""

    def __init__(self) -> None:
        self._own: dict[tuple[str, str], Any] = dict.fromkeys(ONCE_A_PROCESS)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """This engine's things under vLLM's names; what was there before stands there again afterwards."""
        modules = {place: import_module(place[0]) for place in ONCE_A_PROCESS}
        before = {place: getattr(module, place[1]) for place, module in modules.items()}
        for place, module in modules.items():
            setattr(module, place[1], self._own[place])
        try:
            yield
        finally:
            for place, module in modules.items():
                self._own[place] = getattr(module, place[1])
                setattr(module, place[1], before[place])


def has_process_groups() -> bool:
    """Whether an engine of this process has made torch's process groups, which all engines in it share."""
    from vllm.distributed.parallel_state import model_parallel_is_initialized

    return bool(model_parallel_is_initialized())


@contextlib.contextmanager
def process_groups_kept() -> Iterator[None]:
    """An engine that ends in here leaves the process groups to the others: vLLM's would take them along."""
    core: Any = import_module("vllm.v1.engine.core")
    destroy = core.cleanup_dist_env_and_memory
    core.cleanup_dist_env_and_memory = lambda: None
    try:
        yield
    finally:
        core.cleanup_dist_env_and_memory = destroy
