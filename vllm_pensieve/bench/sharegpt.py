"""The benchmark on conversations people had (ShareGPT, or a file in its form): its options and its plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Option

from vllm_pensieve.bench.checks import (
    MOST_SECONDS,
    MOST_TOKENS,
    MOST_TURNS,
    MOST_USERS,
    check_amount,
    check_count,
    check_memory_and_runs,
    reply_tokens,
)
from vllm_pensieve.bench.fit import longest_sequence
from vllm_pensieve.bench.memory import MemoryAsked, MemoryShares, carried, choose_memory
from vllm_pensieve.bench.options import (
    Workload,
    check_run,
    dataset_context,
    describe_sample,
    plan_run,
)
from vllm_pensieve.bench.plan import ComparePlan
from vllm_pensieve.bench.run_options import BenchmarkOptions, Out, Strict
from vllm_pensieve.errors import UsageError
from vllm_pensieve.workloads.clients import GENERATED
from vllm_pensieve.workloads.dataset import Dataset, DatasetLimits, sample_dataset
from vllm_pensieve.workloads.generated import generated_chats
from vllm_pensieve.workloads.sharegpt import HINT, SHORT_NAMES, load_chats
from vllm_pensieve.workloads.tokens import TokenCounter, token_counter

MEMORY = MemoryShares(gpu=0.6, cpu=1.0)
MOST_CONVERSATIONS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class ShareGptOptions(BenchmarkOptions):
    """The options of `pensieve bench sharegpt`."""

    out: Out = Path("out/sharegpt")
    dataset: Annotated[
        str,
        Option(
            help="sharegpt (or sharegt), from the Hugging Face hub; another data set there (OWNER/NAME); a file of "
            "conversations (JSON, JSON lines, Parquet; also .gz and .zst); or `generated`: texts made up, as many "
            "turns and tokens as ShareGPT's on average."
        ),
    ] = "sharegpt"
    strict: Strict = False
    num_conversations: Annotated[
        int, Option(help="Conversations to replay, at most as many as there are.")
    ] = 24
    min_turns: Annotated[int, Option(help="Conversations with fewer turns are left out.")] = 2
    max_turns: Annotated[
        int | None, Option(help="Longer conversations are cut to this many turns.")
    ] = 10
    users: Annotated[
        int, Option("--users", "--num-concurrent-users", help="Conversations at a time.")
    ] = 8
    request_interval_s: Annotated[
        float,
        Option(
            "--request-interval",
            metavar="SECONDS",
            help="Mean pause before each request (exponential, the same in all modes).",
        ),
    ] = 5.0
    max_new_tokens: Annotated[
        int | None,
        Option(
            help="Longest reply; without it MAX_NEW_TOKENS of the environment. Shorter ones are as long as "
            "the recorded ones."
        ),
    ] = None
    generated_otherwise: bool = False
    """Take generated texts, and say so, where ShareGPT itself is not available."""


def plan_sharegpt(options: ShareGptOptions) -> ComparePlan:
    """Return the plan. Raises UsageError for everything that cannot be done as asked."""
    _check(options)
    check_run(options)
    asked = MemoryAsked(options.gpu_cache_gb, options.cpu_cache_gb, MEMORY)
    asked, memory_notes = carried(asked, options)
    longest, _ = longest_sequence(options.model, asked.gpu_cache_gb, options.server_options)
    counter = token_counter(options.model)
    limits = _limits(options, longest, counter.message_overhead_tokens)
    dataset, dataset_notes = _dataset(options, counter)
    sample = sample_dataset(dataset, limits, options.seed, counter.count)
    workload = Workload(
        sample.conversations,
        concurrency=options.users,
        description={
            "name": "sharegpt",
            **describe_sample(dataset.source, sample),
            "conversations_asked_for": options.num_conversations,
            "min_turns": options.min_turns,
            "max_turns": options.max_turns,
            "max_output_tokens": limits.max_output_tokens,
            "think_time_s": options.request_interval_s,
        },
        shorten="use a smaller --max-turns or --max-new-tokens",
        message_overhead_tokens=limits.message_overhead_tokens,
        longest_sequence=longest,
        notes=(*memory_notes, *dataset_notes),
    )
    return plan_run(options, choose_memory(asked, options, workload), workload)


def _check(options: ShareGptOptions) -> None:
    """Refuse numbers out of range, and bounds that contradict each other."""
    check_count("--num-conversations", options.num_conversations, 1, MOST_CONVERSATIONS)
    check_count("--min-turns", options.min_turns, 1, MOST_TURNS)
    check_count("--max-turns", options.max_turns, 1, MOST_TURNS)
    check_count("--users", options.users, 1, MOST_USERS)
    check_count("--max-new-tokens", options.max_new_tokens, 1, MOST_TOKENS)
    check_amount("--request-interval", options.request_interval_s, MOST_SECONDS)
    check_memory_and_runs(options, options.gpu_cache_gb, options.cpu_cache_gb)
    if options.max_turns is not None and options.min_turns > options.max_turns:
        raise UsageError(
            f"--min-turns {options.min_turns} is above --max-turns {options.max_turns}: "
            "no conversation can have both"
        )


def _limits(
    options: ShareGptOptions, longest: int | None, message_overhead_tokens: int
) -> DatasetLimits:
    context = dataset_context(options)
    return DatasetLimits(
        sessions=options.num_conversations,
        turns=options.max_turns,
        output_tokens=None,
        think_time_s=options.request_interval_s,
        max_context_tokens=min(context, longest or context),
        message_overhead_tokens=message_overhead_tokens,
        min_turns=options.min_turns,
        max_output_tokens=reply_tokens(options.max_new_tokens, 0) or None,
    )


def _dataset(options: ShareGptOptions, counter: TokenCounter) -> tuple[Dataset, tuple[str, ...]]:
    """The data set, or generated texts in place of ShareGPT where there is no hub, with a line that says so."""
    notes: tuple[str, ...] = ()
    if options.dataset != GENERATED:
        try:
            return load_chats(options.dataset, options.strict), ()
        except UsageError as error:
            if not (options.generated_otherwise and options.dataset in SHORT_NAMES):
                raise
            why = str(error).removesuffix(f" {HINT}.").removesuffix(".")
            notes = (
                f"ShareGPT is not available here ({why}); the texts are generated, with its means of turns and tokens",
            )
    made = generated_chats(
        options.num_conversations, options.seed, counter, min_turns=options.min_turns
    )
    return Dataset(GENERATED, made), notes
