"""Engines of this process that are served: how one is started, run and ended alongside others."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from vllm_pensieve.config import SWITCH
from vllm_pensieve.demo_model import resolve_model
from vllm_pensieve.device import VISIBLE, device_environment
from vllm_pensieve.errors import UsageError
from vllm_pensieve.machine import GB, GIB, is_cpu_build, require_vllm
from vllm_pensieve.models import context_limit
from vllm_pensieve.modes import BLOCK_TOKENS, CPU_KV_CACHE_GIB
from vllm_pensieve.serving.interrupts import interrupts_kept_from_children
from vllm_pensieve.serving.options import ServerOptions
from vllm_pensieve.serving.starting import (
    MULTIPROCESSING,
    WITHOUT_EFFECT,
    is_switched_off,
    parse_engine_arguments,
    prepare_environment,
    start_engine,
)
from vllm_pensieve.vllm_hooks.engine_globals import (
    EngineGlobals,
    has_process_groups,
    process_groups_kept,
)

if TYPE_CHECKING:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

_found: dict[str, str | None] = {}
"""What this process had of the environment before an engine changed it."""


FREE_GPU_SHARE = 0.9
"""Of what other engines have left of a GPU, this share is for one that is made alongside them."""


class Engine:
    """One engine of this process, as `options` say. Several may run, if only one at a time: whoever calls locks.

    notes: what one should know of how it was started.
    """

    _running: ClassVar[set[Engine]] = set()
    _made_groups: ClassVar[bool] = False
    """Whether the process groups were made by one of these engines, so that the last to end takes them along."""

    def __init__(self, options: ServerOptions) -> None:
        """Start it.

        Raises:
            UsageError: vLLM is not installed, there is no such device or not that much memory, or vLLM refuses the
                model or an option.
        """
        require_vllm()
        _check_memory(options)
        if options.served_as.pensieve is not None and is_switched_off(os.environ):
            raise UsageError(f"mode {options.mode} needs the plugin, but {SWITCH}=0 keeps it off")
        _choose_device(options.device)
        self._globals = EngineGlobals()
        with _prepared() as self.notes:
            Engine._made_groups |= not has_process_groups()
            self.vllm = self._start(options)
        Engine._running.add(self)

    def _start(self, options: ServerOptions) -> LLMEngine:
        others = len(Engine._running)
        share = _share_of_gpu() if others else None
        hint = f" ({others} more running in this process; close what is not needed)"
        made: list[LLMEngine] = []
        try:
            with (
                self._globals.in_place(),
                interrupts_kept_from_children(),
                _switched(options.served_as.pensieve is not None),
            ):
                engine = start_engine(
                    f"model {options.model!r}",
                    lambda: engine_arguments(options, share),
                    hint=hint if others else "",
                )
                made.append(engine)
        except BaseException:  # a Ctrl-C meanwhile is raised when the engine is there
            for engine in made:
                self._end(engine)
            raise
        return made[0]

    def step(self) -> list[Any]:
        """One step; what came of it."""
        with self._globals.in_place():
            return list(self.vllm.step())

    def may_have_seed(self, tokens: int) -> bool:
        """Whether a request may have a generator of its own while those under way have that many tokens with it.

        On a CPU vLLM ends the engine when such a request is computed in parts, so a step must hold all of them. What
        has none draws from the engine's, which begins with the same seed.
        """
        scheduler = self.vllm.vllm_config.scheduler_config
        whole = scheduler.max_num_batched_tokens
        whole = min(whole, scheduler.long_prefill_token_threshold or whole)
        return not is_cpu_build() or tokens <= whole

    def reset(self) -> bool:
        """Drop what is cached, in GPU and in host memory; whether vLLM did."""
        with self._globals.in_place():
            return bool(self.vllm.reset_prefix_cache(reset_connector=True))

    def stop(self) -> None:
        """End it and free what it holds; other engines of the process go on."""
        Engine._running.discard(self)
        self._end(self.vllm)

    def _end(self, engine: LLMEngine) -> None:
        shared = bool(Engine._running) or not Engine._made_groups
        kept = process_groups_kept() if shared else contextlib.nullcontext()
        with self._globals.in_place(), kept:
            engine.engine_core.shutdown()
        Engine._made_groups &= shared


def _check_memory(options: ServerOptions) -> None:
    """UsageError if more main memory is asked for than there is, before anything is loaded."""
    from vllm_pensieve.swap.host_memory import available_bytes

    sizes = {"cpu_cache_gb (--cpu-cache)": options.cpu_cache_gb}
    if is_cpu_build():
        sizes["gpu_cache_gb (--gpu-cache)"] = options.gpu_cache_gb or 0.0
    available_gb = available_bytes() / GB
    for name, size_gb in sizes.items():
        if size_gb > available_gb:
            raise UsageError(
                f"{name} is {size_gb:g} GB, and {available_gb:.2f} GB of main memory are available; ask for less, or "
                "free some"
            )


def _share_of_gpu() -> float | None:
    """Share of the GPU's memory that another engine besides those of this process may use; None on a CPU."""
    if is_cpu_build():
        return None
    import torch

    free_bytes, all_bytes = torch.cuda.mem_get_info()
    return FREE_GPU_SHARE * free_bytes / all_bytes


@contextlib.contextmanager
def _prepared() -> Iterator[list[str]]:
    """The environment prepared for an engine; what was taken out, or would change other engines, is put back after."""
    names = (*WITHOUT_EFFECT, MULTIPROCESSING)
    before = {name: os.environ[name] for name in names if name in os.environ}
    try:
        yield prepare_environment(os.environ)
    finally:
        os.environ.pop(MULTIPROCESSING, None)
        os.environ.update(before)


def _choose_device(device: str) -> None:
    """Make the device the one that vLLM will see; of GPUs, as the process found them when it first asked.

    Raises:
        UsageError: there is no such device, or this process uses another one already.
    """
    given = dict(os.environ)
    given.pop(VISIBLE, None)
    if (first := _found.setdefault(VISIBLE, os.environ.get(VISIBLE))) is not None:
        given[VISIBLE] = first
    wanted = device_environment(device, given).get(VISIBLE)
    if wanted == os.environ.get(VISIBLE):
        return
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise UsageError(
            f"--device {device}: this process uses {VISIBLE}={os.environ.get(VISIBLE, '(all)')} already, and CUDA "
            "does not change it; choose the device before anything uses a GPU"
        )
    if wanted is None:
        del os.environ[VISIBLE]
    else:
        os.environ[VISIBLE] = wanted


def engine_arguments(options: ServerOptions, share_of_gpu: float | None = None) -> EngineArgs:
    """The options as vLLM's engine arguments; those of `vllm_options` win.

    share_of_gpu: of its memory, for weights, KV cache and all; None: vLLM's own choice.

    Raises:
        UsageError: vLLM knows no such option or value.
    """
    return parse_engine_arguments(_command_line(options, share_of_gpu))


def _command_line(options: ServerOptions, share_of_gpu: float | None) -> list[str]:
    cache_bytes = None if options.gpu_cache_gb is None else round(options.gpu_cache_gb * GB)
    if cache_bytes is None and is_cpu_build():
        cache_bytes = round(CPU_KV_CACHE_GIB * GIB)
    return [
        *("--model", resolve_model(options.model)),
        *("--block-size", str(BLOCK_TOKENS)),
        *("--max-model-len", "auto"),  # what the model has, as far as the KV cache holds it
        *("--seed", str(options.seed)),
        *(() if cache_bytes is None else ("--kv-cache-memory-bytes", str(cache_bytes))),
        *(("--enforce-eager",) if is_cpu_build() else ()),
        *(() if share_of_gpu is None else ("--gpu-memory-utilization", f"{share_of_gpu:.4f}")),
        *_whole_prompts(options),
        *options.served_as.options(),
        *options.vllm_options,
    ]


def _whole_prompts(options: ServerOptions) -> tuple[str, ...]:
    """On a CPU vLLM computes the prompt of a request with a seed in one step or ends: steps as long as the context."""
    context = context_limit(options.model)
    if not (options.temperature and is_cpu_build() and context):
        return ()
    return ("--max-num-batched-tokens", str(context))


@contextlib.contextmanager
def _switched(on: bool) -> Iterator[None]:
    """The plugin off by the environment while an engine is made that shall not have it."""
    before = os.environ.get(SWITCH)
    if not on:
        os.environ[SWITCH] = "0"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(SWITCH, None)
        else:
            os.environ[SWITCH] = before
