"""From the user's options to a plan: everything that can be refused is refused here, before
anything is started or moved.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from vllm_pensieve.bench.machine import is_cpu_build
from vllm_pensieve.bench.model_files import chat_options, context_limit
from vllm_pensieve.bench.modes import parse_modes
from vllm_pensieve.bench.plan import ComparePlan, needed_context_tokens
from vllm_pensieve.bench.server import check_port, free_port
from vllm_pensieve.demo_model import resolve_model
from vllm_pensieve.workloads.conversations import (
    PRESETS,
    Conversation,
    WorkloadSpec,
    generate_conversations,
)
from vllm_pensieve.workloads.dataset import DatasetLimits, sample_dataset
from vllm_pensieve.workloads.errors import UsageError
from vllm_pensieve.workloads.tokens import TokenCounter, token_counter

MESSAGE_OVERHEAD_TOKENS = 16
"""Room left for what a chat template adds to a message."""
CONTEXT_STEP_TOKENS = 1024
DATASET_CONTEXT_TOKENS = 16384
"""Longest conversation taken from a dataset when `--max-model-len` is not given."""
CPU_KV_CACHE_GIB = 0.5
"""KV memory on the CPU build when `--kv-cache-gib` is not given: 65,536 tokens of the demo model.

On a GPU vLLM decides.
"""


@dataclass(frozen=True)
class CompareOptions:
    """The options of `pensieve compare` as given; None means: take the workload's or the machine's
    default.
    """

    model: str
    modes: str
    workload: str
    dataset: Path | None
    sessions: int | None
    turns: int | None
    history_tokens: int | None
    output_tokens: int | None
    think_time_s: float | None
    concurrency: int | None
    kv_cache_gib: float | None
    host_cache_gib: float | None
    max_model_len: int | None
    port: int | None
    repeat: int
    seed: int
    out: Path
    server_options: tuple[str, ...]


def make_plan(options: CompareOptions) -> ComparePlan:
    """Return the plan. Raises UsageError for everything that cannot be done as asked."""
    modes = parse_modes(options.modes, options.host_cache_gib)
    if options.out.exists() and not options.out.is_dir():
        raise UsageError(f"--out {options.out} is a file; name a folder")
    if options.port is not None:
        check_port(options.port)
    spec = _spec(options)
    counter = token_counter(options.model)
    if options.dataset is None:
        conversations, description = _generated(spec, options, counter)
    else:
        conversations, description = _from_dataset(options.dataset, spec, options, counter)
    requests = sum(len(conversation.turns) for conversation in conversations)
    max_model_len = _max_model_len(options, conversations)
    description |= {
        "model": options.model,
        "sessions": len(conversations),
        "requests": requests,
        "think_time_s": spec.think_time_s,
        "concurrency": spec.concurrency,
        "seed": options.seed,
        "repeat": options.repeat,
        "kv_cache_gib": _kv_cache_gib(options),
        "host_cache_gib": options.host_cache_gib,
        "max_model_len": max_model_len,
    }
    return ComparePlan(
        model=options.model,
        model_path=resolve_model(options.model),
        modes=tuple(modes),
        conversations=tuple(conversations),
        workload=description,
        concurrency=spec.concurrency,
        seed=options.seed,
        repeat=options.repeat,
        port=options.port or free_port(),
        max_model_len=max_model_len,
        kv_cache_gib=_kv_cache_gib(options),
        eager=is_cpu_build(),
        server_options=(*chat_options(options.model), *options.server_options),
        out=options.out,
    )


def _spec(options: CompareOptions) -> WorkloadSpec:
    """The workload's preset with the given options in place of its own."""
    if options.workload not in PRESETS:
        raise UsageError(f"unknown workload {options.workload!r}; there are: {', '.join(PRESETS)}")
    if options.dataset is not None and options.history_tokens is not None:
        raise UsageError(
            "--history-tokens is for generated conversations; with --dataset the file gives the texts"
        )
    names = ("sessions", "turns", "history_tokens", "output_tokens", "think_time_s", "concurrency")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return dataclasses.replace(PRESETS[options.workload], **given)


def _generated(
    spec: WorkloadSpec, options: CompareOptions, counter: TokenCounter
) -> tuple[list[Conversation], dict[str, object]]:
    description = dataclasses.asdict(spec)
    if spec.turns is None:
        description["turns"] = "drawn, ShareGPT mean"
    return generate_conversations(spec, options.seed, counter.characters), description


def _from_dataset(
    path: Path, spec: WorkloadSpec, options: CompareOptions, counter: TokenCounter
) -> tuple[list[Conversation], dict[str, object]]:
    limits = DatasetLimits(
        sessions=spec.sessions,
        turns=options.turns,
        output_tokens=options.output_tokens,
        think_time_s=spec.think_time_s,
        max_context_tokens=options.max_model_len
        or min(DATASET_CONTEXT_TOKENS, context_limit(options.model) or DATASET_CONTEXT_TOKENS),
        message_overhead_tokens=MESSAGE_OVERHEAD_TOKENS,
    )
    sample = sample_dataset(path, limits, options.seed, counter.count)
    description = {
        "name": "dataset",
        "dataset": str(path),
        "records": sample.records,
        "records_without_turns": sample.without_turns,
        "turns_cut_to_fit": sample.cut_turns,
        "turns": options.turns,
        "output_tokens": options.output_tokens,
    }
    return sample.conversations, description


def _max_model_len(options: CompareOptions, conversations: list[Conversation]) -> int:
    needed = needed_context_tokens(conversations, MESSAGE_OVERHEAD_TOKENS)
    limit = options.max_model_len or context_limit(options.model) or needed + CONTEXT_STEP_TOKENS
    if needed > limit:
        raise UsageError(
            f"a conversation grows to about {needed} tokens, the context is {limit}; "
            "use fewer --turns, a smaller --history-tokens or --output-tokens"
            + (", or a larger --max-model-len" if options.max_model_len else "")
        )
    rounded = -(-needed // CONTEXT_STEP_TOKENS) * CONTEXT_STEP_TOKENS
    return options.max_model_len or min(rounded, limit)


def _kv_cache_gib(options: CompareOptions) -> float | None:
    if options.kv_cache_gib is not None:
        return options.kv_cache_gib
    return CPU_KV_CACHE_GIB if is_cpu_build() else None
