"""Two demonstrations on a handful of requests: what a ShareGPT client sends, and what is counted of shared prefixes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vllm_pensieve.cli.collect import (
    Conversations,
    Dataset,
    MaxPrompt,
    Model,
    Rate,
    Seed,
    ThinkTime,
    make_clients,
    prepare,
)
from vllm_pensieve.cli.quiet import quiet_start

if TYPE_CHECKING:
    from rich.console import Console

    from vllm_pensieve.collection.collect import Recorded
    from vllm_pensieve.collection.recording import Recording
    from vllm_pensieve.workloads.events import RequestEvent

SHOWN_CHARACTERS = 300
"""Of a prompt's new part and of a reply."""

Simulate = Annotated[
    bool, typer.Option("--simulate", help="No model: vLLM's engine with tokens made up.")
]
BlockTokens = Annotated[int, typer.Option(min=1, help="Tokens of a block.")]
MaxOutput = Annotated[int, typer.Option(min=1, help="Tokens of a reply at most.")]
Out = Annotated[Path, typer.Option(help="Folder for the trace.")]

GREETING = (
    "Hello world. This letter is long enough to fill several blocks of the cache, so that a second reader of the same "
    "letter need not compute what the first one has computed, up to the place where the two letters begin to differ. "
)


def demo_client(
    dataset: Dataset = None,
    model: Model = "demo",
    conversations: Conversations = 3,
    max_output_tokens: MaxOutput = 32,
    max_prompt_tokens: MaxPrompt = 4096,
    block_tokens: BlockTokens = 32,
    out: Out = Path("/tmp"),
    simulate: Simulate = False,
    requests_per_s: Rate = 1.0,
    think_time_s: ThinkTime = 5.0,
    seed: Seed = 0,
) -> None:
    """Show the events of a ShareGPT client, single-turn and multi-turn, and what vLLM made of them."""
    from rich.console import Console

    from vllm_pensieve.collection.collect import output_limits, record
    from vllm_pensieve.workloads.tokens import token_counter

    console = Console()
    clients = make_clients(
        console,
        dataset,
        model,
        conversations,
        max_prompt_tokens,
        requests_per_s,
        think_time_s,
        seed,
    )
    prepare(console, os.environ)
    for mode, workload in (("single", "chat_single"), ("multi", "chat_multi")):
        name = f"prefix_metrics_demo_{mode}"
        recording = _recording(
            workload, name, model, block_tokens, out, simulate, max_prompt_tokens, max_output_tokens
        )
        events = clients.requests(workload).events
        limits = output_limits(events, recording, token_counter(model).count)
        _print(console, events, record(recording, events, limits, starting=quiet_start))
    console.print(
        "whole prompts: python tools/sharegpt_client_simulator.py --mode multi --out events.jsonl",
        highlight=False,
        soft_wrap=True,
    )


def demo_hello(
    model: Model = "demo",
    max_output_tokens: MaxOutput = 16,
    block_tokens: BlockTokens = 32,
    out: Out = Path("/tmp"),
    simulate: Simulate = False,
) -> None:
    """Greet vLLM a few times, and show how much of each prompt was in the cache."""
    from rich.console import Console

    from vllm_pensieve.analysis.summaries import read_prefix_stats
    from vllm_pensieve.cli.trace_view import print_summaries
    from vllm_pensieve.collection.collect import record
    from vllm_pensieve.workloads.events import SINGLE, RequestEvent

    letter = GREETING * 2
    prompts = ("Hello world", letter, letter, f"{letter}Hello again.", f"Dear world. {letter}")
    events = [
        RequestEvent(float(number), f"hello-{number}", 0, SINGLE, prompt)
        for number, prompt in enumerate(prompts)
    ]
    console = Console()
    prepare(console, os.environ)
    recording = _recording(
        "hello", "prefix_metrics_toy", model, block_tokens, out, simulate, 1024, max_output_tokens
    )
    recorded = record(recording, events, [max_output_tokens] * len(events), starting=quiet_start)
    _print(console, events, recorded)
    print_summaries([read_prefix_stats(recording.prefix)])


def _recording(
    workload: str,
    name: str,
    model: str,
    block_tokens: int,
    out: Path,
    simulate: bool,
    max_prompt_tokens: int,
    max_output_tokens: int,
) -> Recording:
    from vllm_pensieve.collection.recording import Recording

    return Recording(
        workload=workload,
        model=model,
        block_tokens=block_tokens,
        out=out,
        simulate=simulate,
        max_prompt_tokens=max_prompt_tokens,
        max_output_tokens=max_output_tokens,
        kv_cache_gib=0.25,
        real_time=False,
        simulated_tokens="echo",
        name=name,
    )


def _print(console: Console, events: Sequence[RequestEvent], recorded: Recorded) -> None:
    """Each event: when it was sent and by whom, what its prompt says that the one before it did not, and the reply."""
    said: dict[str, str] = {}
    for event, reply in zip(events, recorded.replies, strict=True):
        before = said.get(event.conversation_id, "")
        cached = reply.cached_tokens / reply.prompt_tokens
        lines = [
            f"time {event.time:.1f} s, conversation_id {event.conversation_id}, turn_index {event.turn_index}, "
            f"mode {event.mode}; {reply.prompt_tokens:,} tokens, {cached:.1%} of them cached",
            *_prompt_lines(event.prompt, len(before) if event.prompt.startswith(before) else 0),
            f"  => {_shorten(reply.text)!r}",
        ]
        said[event.conversation_id] = event.prompt
        for line in lines:
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    files = ", ".join(map(str, recorded.recording.files()))
    console.print(f"written: {files}\n", highlight=False, soft_wrap=True)


def _prompt_lines(prompt: str, known: int) -> list[str]:
    """The prompt from character `known` on, each line marked; what stands before it only as a number."""
    before = [f"  | ... {known:,} characters as before"] if known else []
    return before + [f"  | {line}" for line in _shorten(prompt[known:].strip("\n")).split("\n")]


def _shorten(text: str) -> str:
    """The text, or its beginning and end and how much stands between them."""
    half = SHOWN_CHARACTERS // 2
    if len(text) <= SHOWN_CHARACTERS:
        return text
    return f"{text[:half]} ... {len(text) - 2 * half:,} characters ... {text[-half:]}"
