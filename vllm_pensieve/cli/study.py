"""Two demonstrations of the prefix-sharing study: what a ShareGPT client sends, and what prompts share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from vllm_pensieve.cli.client_options import ClientOptions, Conversations, MaxPrompt, Rate
from vllm_pensieve.cli.collect import prepare
from vllm_pensieve.cli.options import takes
from vllm_pensieve.quiet import quiet_start

if TYPE_CHECKING:
    from rich.console import Console

    from vllm_pensieve.collection.collect import Recorded
    from vllm_pensieve.collection.recording import Recording
    from vllm_pensieve.workloads.events import RequestEvent

SHOWN_CHARACTERS = 300
"""Of a prompt's new part and of a reply."""
MaxOutput = Annotated[int, Option(min=1, help="Tokens of a reply at most.")]

GREETING = (
    "Hello world. This letter is long enough to fill several blocks of the cache, so that a second reader of the same "
    "letter need not compute what the first one has computed, up to the place where the two letters begin to differ. "
)


@dataclass(frozen=True, kw_only=True)
class HelloOptions:
    """How the greetings are served and recorded."""

    model: Annotated[
        str, Option(help="Model name or folder; `demo` is a random model made on this machine.")
    ] = "demo"
    max_output_tokens: MaxOutput = 16
    block_tokens: Annotated[int, Option(min=1, help="Tokens of a block.")] = 32
    out: Annotated[Path, Option(help="Folder for the trace.")] = Path("/tmp")
    simulate: Annotated[
        bool, Option("--simulate", help="No model: vLLM's engine with tokens made up.")
    ] = False
    max_prompt_tokens: int = 1024

    def recording(self, workload: str, name: str) -> Recording:
        """Of this workload, in files of this name."""
        from vllm_pensieve.collection.recording import Recording

        return Recording(
            workload=workload,
            model=self.model,
            block_tokens=self.block_tokens,
            out=self.out,
            simulate=self.simulate,
            max_prompt_tokens=self.max_prompt_tokens,
            max_output_tokens=self.max_output_tokens,
            kv_cache_gib=0.25,
            real_time=False,
            simulated_tokens="echo",
            name=name,
        )


@dataclass(frozen=True, kw_only=True)
class ClientDemoOptions(ClientOptions, HelloOptions):
    """How a client's conversations are chosen, served and recorded."""

    conversations: Conversations = 3
    max_prompt_tokens: MaxPrompt = 4096
    max_output_tokens: MaxOutput = 32
    requests_per_s: Rate = 1.0


@takes(ClientDemoOptions)
def demo_client(options: ClientDemoOptions) -> None:
    """Show the events of a ShareGPT client, single-turn and multi-turn, and what vLLM made of them."""
    from rich.console import Console

    from vllm_pensieve.collection.collect import output_limits, record
    from vllm_pensieve.workloads.tokens import token_counter

    console = Console()
    clients = options.clients(console)
    prepare(console, os.environ)
    for mode, workload in (("single", "chat_single"), ("multi", "chat_multi")):
        recording = options.recording(workload, f"prefix_metrics_demo_{mode}")
        events = clients.requests(workload).events
        limits = output_limits(events, recording, token_counter(options.model).count)
        _print(console, events, record(recording, events, limits, starting=quiet_start))
    console.print(
        "whole prompts: python tools/sharegpt_client_simulator.py --mode multi --out events.jsonl",
        highlight=False,
        soft_wrap=True,
    )


@takes(HelloOptions)
def demo_hello(options: HelloOptions) -> None:
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
    recording = options.recording("hello", "prefix_metrics_toy")
    limits = [options.max_output_tokens] * len(events)
    _print(console, events, record(recording, events, limits, starting=quiet_start))
    print_summaries([read_prefix_stats(recording.prefix)])


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
