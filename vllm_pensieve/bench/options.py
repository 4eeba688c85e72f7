"""From the user's options to a plan: everything that can be refused is refused here, before
anything is started or moved.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vllm_pensieve.bench.plan import ComparePlan, needed_context_tokens
from vllm_pensieve.bench.run_options import CompareOptions, RunOptions
from vllm_pensieve.bench.server import check_port, free_port
from vllm_pensieve.demo_model import resolve_model
from vllm_pensieve.device import device_environment
from vllm_pensieve.errors import UsageError
from vllm_pensieve.machine import is_cpu_build, require_vllm
from vllm_pensieve.models import chat_options, context_limit, window_options
from vllm_pensieve.modes import CPU_KV_CACHE_GIB, parse_modes
from vllm_pensieve.workloads.conversations import (
    PRESETS,
    Conversation,
    WorkloadSpec,
    generate_conversations,
)
from vllm_pensieve.workloads.dataset import DatasetLimits, DatasetSample, sample_dataset
from vllm_pensieve.workloads.sharegpt import load_chats
from vllm_pensieve.workloads.tokens import TokenCounter, token_counter

CONTEXT_STEP_TOKENS = 1024
DATASET_CONTEXT_TOKENS = 16384
"""Longest conversation taken from a dataset when `--max-model-len` is not given."""


@dataclass(frozen=True)
class Memory:
    """Memory of each server in GiB: for KV (None: vLLM decides) and, in modes that use it, on the host."""

    kv_cache_gib: float | None
    host_cache_gib: float | None
    notes: tuple[str, ...] = ()
    """What was given otherwise than asked for, a line each."""


@dataclass(frozen=True)
class Workload:
    """What is sent to each server, and how the summary describes it."""

    conversations: Sequence[Conversation]
    concurrency: int
    description: dict[str, object]
    shorten: str
    """What to do about conversations that outgrow the context."""
    message_overhead_tokens: int
    """Room for what the model's chat template adds to a message."""
    classes: Mapping[str, str] = field(default_factory=dict)
    """Class of the user by session, where users have classes."""
    longest_sequence: int | None = None
    """Tokens that a sequence may have at most; None: the model's context."""
    notes: tuple[str, ...] = ()
    """What is otherwise than asked for, a line each."""


def make_plan(options: CompareOptions) -> ComparePlan:
    """Return the plan. Raises UsageError for everything that cannot be done as asked."""
    memory = Memory(options.kv_cache_gib or default_kv_cache_gib(), options.host_cache_gib)
    parse_modes(options.modes, memory.host_cache_gib)
    check_run(options)
    spec = _spec(options)
    counter = token_counter(options.model)
    if options.dataset is None:
        conversations, description = _generated(spec, options, counter)
    else:
        conversations, description = _from_dataset(options.dataset, spec, options, counter)
    workload = Workload(
        conversations,
        spec.concurrency,
        description | {"think_time_s": spec.think_time_s},
        "use fewer --turns, a smaller --history-tokens or --output-tokens"
        + (", or a larger --max-model-len" if options.max_model_len else ""),
        message_overhead_tokens=counter.message_overhead_tokens,
    )
    return plan_run(options, memory, workload)


def check_run(options: RunOptions) -> None:
    """Refuse what needs no look at the workload. Raises UsageError."""
    if options.out.exists() and not options.out.is_dir():
        raise UsageError(f"--out {options.out} is a file; name a folder")
    if options.sheet is not None:
        _check_sheet(options.sheet, options.out)
    if options.port is not None:
        check_port(options.port)
    require_vllm()
    device_environment(options.device, os.environ)


def plan_run(options: RunOptions, memory: Memory, workload: Workload) -> ComparePlan:
    """Return the plan of serving this workload in each mode.

    Raises UsageError for an unknown mode, and for a conversation that outgrows the context.
    """
    modes = parse_modes(options.modes, memory.host_cache_gib)
    max_model_len = _max_model_len(options, workload)
    window = window_options(options.model, options.server_options)
    notes = (*workload.notes, *memory.notes)
    if window and any(mode.pensieve is not None for mode in modes):
        notes += (
            f"{options.model}: some of its layers attend to a window only; all servers get {' '.join(window)}, "
            "so that the plugin can keep, swap and recover its blocks",
        )
    description = workload.description | {
        "model": options.model,
        "device": options.device,
        "sessions": len(workload.conversations),
        "requests": sum(len(conversation.turns) for conversation in workload.conversations),
        "concurrency": workload.concurrency,
        "seed": options.seed,
        "repeat": options.repeat,
        "kv_cache_gib": memory.kv_cache_gib,
        "host_cache_gib": memory.host_cache_gib,
        "max_model_len": max_model_len,
        "notes": list(notes),
    }
    return ComparePlan(
        model=options.model,
        model_path=resolve_model(options.model),
        modes=tuple(modes),
        conversations=tuple(workload.conversations),
        workload=description,
        classes=workload.classes,
        concurrency=workload.concurrency,
        seed=options.seed,
        repeat=options.repeat,
        port=options.port or free_port(),
        max_model_len=max_model_len,
        kv_cache_gib=memory.kv_cache_gib,
        eager=is_cpu_build(),
        environment=device_environment(options.device, os.environ),
        server_options=(*chat_options(options.model), *window, *options.server_options),
        out=options.out,
        sheet=options.sheet,
        notes=notes,
    )


def default_kv_cache_gib() -> float | None:
    """KV memory that nobody asked otherwise for; None: vLLM decides."""
    return CPU_KV_CACHE_GIB if is_cpu_build() else None


def rounded_context(workload: Workload) -> int:
    """Return the context in tokens that a server needs for these conversations, rounded up."""
    needed = needed_context_tokens(workload.conversations, workload.message_overhead_tokens)
    return -(-needed // CONTEXT_STEP_TOKENS) * CONTEXT_STEP_TOKENS


def dataset_context(options: RunOptions) -> int:
    """Return the length in tokens to which conversations of a dataset are cut."""
    limit = context_limit(options.model) or DATASET_CONTEXT_TOKENS
    return options.max_model_len or min(limit, DATASET_CONTEXT_TOKENS)


def describe_sample(dataset: str, sample: DatasetSample) -> dict[str, object]:
    """Return the part of a workload's description that says what was taken from a dataset."""
    return {
        "dataset": dataset,
        "records": sample.records,
        "records_skipped": len(sample.skipped),
        "first_skipped": next(iter(sample.skipped), None),
        "records_without_turns": sample.without_turns,
        "records_with_too_few_turns": sample.too_few_turns,
        "turns_cut_to_fit": sample.cut_turns,
    }


def _check_sheet(sheet: Path, out: Path) -> None:
    """Raise UsageError if the sheet could not be written after the run."""
    if sheet.is_dir():
        raise UsageError(f"--sheet {sheet} is a folder; name a file, such as {sheet / 'sheet.md'}")
    folder = sheet.absolute().parent
    if folder == out.absolute() and not out.exists():
        return
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError(f"--sheet {sheet}: its folder does not exist or cannot be written")


def _spec(options: CompareOptions) -> WorkloadSpec:
    """The workload's preset with the given options in place of its own."""
    if options.workload not in PRESETS:
        raise UsageError(
            f"unknown workload {options.workload!r}; choose one of: {', '.join(PRESETS)}"
        )
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
        max_context_tokens=dataset_context(options),
        message_overhead_tokens=counter.message_overhead_tokens,
    )
    dataset = load_chats(str(path), options.strict)
    sample = sample_dataset(dataset, limits, options.seed, counter.count)
    description = {
        "name": "dataset",
        **describe_sample(str(path), sample),
        "turns": options.turns,
        "output_tokens": options.output_tokens,
    }
    return sample.conversations, description


def _max_model_len(options: RunOptions, workload: Workload) -> int:
    needed = needed_context_tokens(workload.conversations, workload.message_overhead_tokens)
    rounded = rounded_context(workload)
    limit = options.max_model_len or context_limit(options.model) or rounded
    limit = min(limit, workload.longest_sequence or limit)
    if needed > limit:
        raise UsageError(
            f"a conversation grows to about {needed} tokens, the context is {limit}; {workload.shorten}"
        )
    return options.max_model_len or min(rounded, limit)
