"""`pensieve trace collect` and `pensieve trace events`: workloads played into vLLM, or only written down."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vllm_pensieve.cli.benchmark_options import Strict
from vllm_pensieve.workloads.errors import UsageError

DRAWN, RECORDED = "drawn", "recorded"

if TYPE_CHECKING:
    from rich.console import Console

    from vllm_pensieve.collection.collect import Recorded, Tell
    from vllm_pensieve.collection.recording import Recording
    from vllm_pensieve.workloads.clients import Clients

Dataset = Annotated[
    str | None,
    typer.Option(
        help="Conversations: a file, OWNER/NAME of a data set on the Hugging Face hub, or `generated`. By default the "
        "hub's anon8231489123/ShareGPT_Vicuna_unfiltered, and where it cannot be had, generated ones."
    ),
]
Model = Annotated[
    str,
    typer.Option(help="Model name or folder; `demo` is a random model made on this machine."),
]
Conversations = Annotated[
    int, typer.Option(min=1, help="Conversations at most; of qa and summarization, requests.")
]
MaxPrompt = Annotated[
    int,
    typer.Option(min=64, help="Turns with longer prompts are left out (the demo model: bytes)."),
]
Rate = Annotated[
    float, typer.Option(min=0.001, help="New conversations a second (Poisson arrivals).")
]
ThinkTime = Annotated[
    float, typer.Option(min=0, help="Mean pause between turns of a conversation (exponential).")
]
Pauses = Annotated[
    str,
    typer.Option(
        "--think-time",
        help="`drawn`: with the mean of --think-time-s; `recorded`: as long as people took by the data set's times "
        "(WildChat has them), drawn where it has none.",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of choice, texts, lengths and times.")]
Workload = Annotated[
    str,
    typer.Argument(
        help="chat_multi, chat_single, qa, summarization, several with commas, `all`, or `sharegpt`: the chat that "
        "--mode says."
    ),
]
Mode = Annotated[
    str,
    typer.Option(
        envvar="PREFIX_MODE",
        help="`single`: first messages alone; `multi`: every turn with the transcript before it.",
    ),
]


def collect(
    workload: Workload = "all",
    mode: Mode = "multi",
    dataset: Dataset = None,
    model: Model = "demo",
    conversations: Conversations = 20,
    max_output_tokens: Annotated[
        int,
        typer.Option(min=1, help="Tokens of a reply at most; fewer where the recorded one had."),
    ] = 32,
    max_prompt_tokens: MaxPrompt = 8192,
    block_tokens: Annotated[
        str, typer.Option(help="Tokens of a block, several with commas: one trace for each.")
    ] = "32",
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for prefix_<workload>_b<block>_requests.jsonl and _blocks.jsonl."
        ),
    ] = Path("/tmp"),
    simulate: Annotated[
        bool,
        typer.Option("--simulate", help="No model: vLLM's engine with tokens made up, in seconds."),
    ] = False,
    real_time: Annotated[
        bool,
        typer.Option("--real-time", help="Wait for arrivals, instead of moving the clocks on."),
    ] = False,
    kv_cache_gib: Annotated[float, typer.Option(min=0.001, help="KV memory of vLLM.")] = 1.0,
    requests_per_s: Rate = 4.0,
    think_time_s: ThinkTime = 5.0,
    think_time: Pauses = DRAWN,
    strict: Strict = False,
    seed: Seed = 0,
) -> None:
    """Play workloads into vLLM in this process and record what their prompts share.

    Where vLLM cannot run the model with blocks of some size (on a CPU: other than multiples of 32 tokens), that trace
    is recorded without it, and the output says so.
    """
    from rich.console import Console

    from vllm_pensieve.collection.recording import Recording

    console = Console()
    sizes = _block_sizes(block_tokens)
    names = _workloads(workload, mode)
    clients = make_clients(
        console,
        dataset,
        model,
        conversations,
        max_prompt_tokens,
        requests_per_s,
        think_time_s,
        seed,
        _recorded(think_time),
        strict,
    )
    recordings = [
        Recording(
            workload=name,
            model=model,
            block_tokens=sizes[0],
            out=out,
            simulate=simulate,
            max_prompt_tokens=max_prompt_tokens,
            max_output_tokens=max_output_tokens,
            kv_cache_gib=kv_cache_gib,
            real_time=real_time,
        )
        for name in names
    ]
    prepare(console, os.environ)
    _print_recorded(console, _record_all(console, recordings, sizes, clients))


def events(
    workload: Workload = "sharegpt",
    mode: Mode = "multi",
    dataset: Dataset = None,
    model: Annotated[
        str, typer.Option(help="Whose tokens count; `demo` is the built-in model's bytes.")
    ] = "demo",
    conversations: Conversations = 20,
    max_prompt_tokens: MaxPrompt = 8192,
    requests_per_s: Rate = 4.0,
    think_time_s: ThinkTime = 5.0,
    think_time: Pauses = DRAWN,
    strict: Strict = False,
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="File for the events; the standard output without it.")
    ] = None,
) -> None:
    """Write down what a client would send and when: one event a line, without a server."""
    from rich.console import Console

    from vllm_pensieve.workloads.events import in_order, write_events

    clients = make_clients(
        Console(stderr=True),
        dataset,
        model,
        conversations,
        max_prompt_tokens,
        requests_per_s,
        think_time_s,
        seed,
        _recorded(think_time),
        strict,
    )
    made = in_order(
        [event for name in _workloads(workload, mode) for event in clients.requests(name).events]
    )
    if out is None:
        write_events(made, sys.stdout.buffer)
        return
    try:
        with out.open("wb") as file:
            write_events(made, file)
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written: {error.strerror}") from error
    print(f"{out}: {len(made)} events")


def make_clients(
    console: Console,
    dataset: str | None,
    model: str,
    conversations: int,
    max_prompt_tokens: int,
    requests_per_s: float,
    think_time_s: float,
    seed: int,
    recorded_pauses: bool = False,
    strict: bool = False,
) -> Clients:
    """The clients that these options describe."""
    from vllm_pensieve.workloads.clients import Clients
    from vllm_pensieve.workloads.events import ClientSpec
    from vllm_pensieve.workloads.tokens import token_counter

    spec = ClientSpec(
        conversations, requests_per_s, think_time_s, max_prompt_tokens, seed, recorded_pauses
    )
    counter = token_counter(model)
    return Clients(dataset, spec, counter, lambda text: _note(console, text), strict)


def _recorded(think_time: str) -> bool:
    if think_time not in (DRAWN, RECORDED):
        raise UsageError(f"--think-time {think_time!r}: choose one of {DRAWN}, {RECORDED}")
    return think_time == RECORDED


def prepare(console: Console, environment: MutableMapping[str, str]) -> None:
    """Set up the environment for vLLM, and tell what of it does nothing."""
    from vllm_pensieve.collection.engine import prepare_recording_environment

    for note in prepare_recording_environment(environment):
        _note(console, note)


def _note(console: Console, text: str) -> None:
    console.print(f"note: {text}", highlight=False, markup=False, soft_wrap=True)


def _record_all(
    console: Console, recordings: Sequence[Recording], sizes: Sequence[int], clients: Clients
) -> list[Recorded]:
    """Record each workload at each size; what is done shows as it goes."""
    from vllm_pensieve.collection.collect import record_block_sizes
    from vllm_pensieve.workloads.tokens import token_counter

    count = token_counter(recordings[0].model).count
    done: list[Recorded] = []
    with console.status("") as status:
        for recording in recordings:
            requests = clients.requests(recording.workload).events

            def begin(own: Recording, total: int = len(requests)) -> Tell:
                if own.simulate and not recordings[0].simulate:
                    _note(
                        console,
                        f"{own.prefix.name}: vLLM's attention on this CPU takes blocks of 32 tokens or multiples; "
                        "recorded without the model, with the lengths of its replies",
                    )
                return lambda served: status.update(f"{own.prefix.name}: {served} of {total}")

            done += record_block_sizes(recording, sizes, requests, count, begin)
    return done


def _print_recorded(console: Console, recorded: Sequence[Recorded]) -> None:
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("prefix_…", no_wrap=True)
    for heading in ("requests", "prompt tokens", "cached", "output tokens", "lasts s", "took s"):
        table.add_column(heading, justify="right")
    table.add_column("model", overflow="fold")
    for one in recorded:
        table.add_row(
            one.recording.prefix.name.removeprefix("prefix_"),
            f"{len(one.replies):,}",
            f"{one.prompt_tokens:,}",
            f"{one.cached_tokens / one.prompt_tokens:.1%}",
            f"{one.output_tokens:,}",
            f"{one.lasted_s:.1f}",
            f"{one.took_s:.1f}",
            "none" if one.recording.simulate else one.recording.model,
        )
    console.print(table, highlight=False)
    out = recorded[0].recording.out
    console.print(
        f"next: pensieve trace analyze-all {out}", highlight=False, markup=False, soft_wrap=True
    )


def _block_sizes(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"--block-tokens {text!r}: give numbers above 0, separated by commas")
    return sorted({int(part) for part in parts})


def _workloads(text: str, mode: str) -> list[str]:
    from vllm_pensieve.workloads.clients import CHAT_MULTI, CHAT_SINGLE, WORKLOADS

    chats = {"single": CHAT_SINGLE, "multi": CHAT_MULTI}
    if mode not in chats:
        raise UsageError(f"--mode {mode!r} (PREFIX_MODE) is unknown; there are: {', '.join(chats)}")
    names = text.split(",")
    names = list(WORKLOADS) if names == ["all"] else names
    names = [chats[mode] if name == "sharegpt" else name for name in names]
    for name in names:
        if name not in WORKLOADS:
            raise UsageError(f"unknown workload {name!r}; there are: {', '.join(WORKLOADS)}")
    return list(dict.fromkeys(names))
