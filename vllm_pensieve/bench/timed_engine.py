"""An engine of this process whose prefills are timed one by one, with blocks dropped in between."""

from __future__ import annotations

import random
import time
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm_pensieve.config import ADDITIONAL_CONFIG_KEY, SWITCH
from vllm_pensieve.demo_model import resolve_model
from vllm_pensieve.errors import UsageError
from vllm_pensieve.serving.starting import (
    is_switched_off,
    parse_engine_arguments,
    prepare_environment,
    start_engine,
)

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

ROOM_TOKENS = 16384
"""KV memory beyond one context: for all that is timed after the same context."""
LARGEST_TOKEN = 256
"""Prompts are made of the token ids below this and below the size of the vocabulary."""


@dataclass(frozen=True)
class EngineOptions:
    """How the engine is made.

    max_context: longest prompt in tokens; None: what the model allows, at most `most_context`.
    vllm_options: as on vLLM's command line.
    """

    model: str
    dtype: str = "auto"
    tensor_parallel_size: int = 1
    max_context: int | None = None
    most_context: int = 16384
    vllm_options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prefill:
    """One prompt up to its first token. recovered_tokens: computed again in the middle of its prefix."""

    seconds: float
    cached_tokens: int
    recovered_tokens: int


OWN_OPTIONS = {
    "--model": "--model",
    "--dtype": "--dtype",
    "--tensor-parallel-size": "--tensor-parallel-size",
    "-tp": "--tensor-parallel-size",
    "--max-model-len": "--max-context",
}
"""Options of vLLM that the command has itself, and their names there."""


def check_vllm_options(options: Sequence[str]) -> None:
    """UsageError for an option of vLLM that would be overridden."""
    for option in options:
        name = option.split("=")[0]
        if name in OWN_OPTIONS:
            raise UsageError(f"-- {name}: give it before `--`, as {OWN_OPTIONS[name]}")
        if name == "--additional-config":
            raise UsageError(f"-- {name}: the plugin's settings are the command's; leave it out")


def prepare_timing_environment(environment: MutableMapping[str, str]) -> None:
    """Before vLLM is imported: the engine in this process, its workers as a server's are."""
    if is_switched_off(environment):
        raise UsageError(f"{SWITCH}=0 keeps the plugin off; unset it to measure its costs")
    prepare_environment(environment, as_in_a_server=True)


def start_timed(options: EngineOptions, settings: dict[str, Any]) -> TimedEngine:
    """An engine with the plugin on and KV memory for its longest prompt and more.

    Raises:
        UsageError: vLLM refuses the model or an option.
    """
    return TimedEngine(
        start_engine(
            f"model {options.model!r}",
            lambda: engine_arguments(options, settings),
            lambda arguments, config: _fit(options, arguments, config),
        )
    )


def engine_arguments(options: EngineOptions, settings: dict[str, Any]) -> EngineArgs:
    """The options as vLLM's. UsageError: vLLM knows no such option or value."""
    from vllm.platforms import current_platform

    # The model is among the options, else vLLM would look up a default one of its own, on the hub.
    arguments = parse_engine_arguments(
        ("--model", resolve_model(options.model), *options.vllm_options)
    )
    arguments.dtype = options.dtype
    arguments.tensor_parallel_size = options.tensor_parallel_size
    arguments.max_model_len = options.max_context
    if current_platform.is_cpu() and arguments.distributed_executor_backend is None:
        arguments.distributed_executor_backend = "mp"  # as in a server, which binds its threads
    arguments.additional_config = {ADDITIONAL_CONFIG_KEY: settings}
    return arguments


def _fit(options: EngineOptions, arguments: EngineArgs, config: VllmConfig) -> None:
    """A context no longer than is timed, and KV memory for it, unless the user said what there is to be."""
    from vllm_pensieve.vllm_hooks.host import kv_cache_size_is_said
    from vllm_pensieve.vllm_hooks.sizes import kv_bytes_per_token

    model = config.model_config
    if options.max_context is None and model.max_model_len > options.most_context:
        model.max_model_len = options.most_context
        config.scheduler_config.max_model_len = options.most_context
    if not kv_cache_size_is_said(arguments):
        tokens = model.max_model_len + ROOM_TOKENS
        config.cache_config.kv_cache_memory_bytes = tokens * kv_bytes_per_token(config)


class TimedEngine:
    """Serves single prompts and times them. Nothing else is served meanwhile."""

    def __init__(self, engine: LLMEngine) -> None:
        from vllm import SamplingParams

        self.engine = engine
        self.core = engine.engine_core.engine_core
        self.scheduler = self.core.scheduler
        self.config = self.core.vllm_config
        self.block_size = self.scheduler.cache_config.block_size
        self.context = self.config.model_config.max_model_len
        self._pool = self.scheduler.kv_cache_manager.block_pool
        self._parameters = SamplingParams(
            temperature=0, max_tokens=1, ignore_eos=True, detokenize=False
        )
        self._random = random.Random(0)
        self._tokens = range(1, min(LARGEST_TOKEN, self.config.model_config.get_vocab_size()))
        self._served = 0

    @property
    def step_tokens(self) -> int:
        """The most tokens that one prompt has in a step."""
        scheduling = self.config.scheduler_config
        limits = (scheduling.max_num_batched_tokens, scheduling.long_prefill_token_threshold)
        return min(int(limit) for limit in limits if limit)

    def new_tokens(self, count: int) -> list[int]:
        """Tokens that, with any prefix, were not served before."""
        return self._random.choices(self._tokens, k=count)

    def prefill(self, prompt: Sequence[int]) -> Prefill:
        """Serve a prompt; the time is that of the engine's steps, without the time to take the request in."""
        self._served += 1
        recovered = self.scheduler.pensieve_stats.prompt_tokens["recovered"]
        self.engine.add_request(
            f"prefill-{self._served}", {"prompt_token_ids": list(prompt)}, self._parameters
        )
        answer = None
        begun = time.perf_counter()
        while answer is None:
            answer = next(iter(self.engine.step()), None)
        seconds = time.perf_counter() - begun
        while self.engine.has_unfinished_requests():  # steps that were begun meanwhile
            self.engine.step()
        recovered = self.scheduler.pensieve_stats.prompt_tokens["recovered"] - recovered
        return Prefill(seconds, answer.num_cached_tokens or 0, recovered)

    def drop(self, prompt: Sequence[int], first_block: int, end_block: int | None = None) -> None:
        """Evict the blocks [first_block, end_block) of a prompt, every copy of them."""
        from vllm_pensieve.scheduler.inspection import Inspection

        cached = self._pool.cached_block_hash_to_block
        for key in Inspection(self.engine).keys(prompt)[first_block:end_block]:
            while (block := cached.get_one_block(key)) is not None:
                assert block.ref_cnt == 0, "a block in use cannot be dropped"
                self._pool.evict_blocks({block.block_id})

    def close(self) -> None:
        """End the engine and its workers."""
        self.engine.engine_core.shutdown()
