"""`pensieve trace collect` and `pensieve trace events`: workloads played into vLLM, or only written down."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from vllm_pensieve.bench.memory_options import KV_GIB
from vllm_pensieve.cli.client_options import SHAREGPT, Workload, WorkloadOptions, note
from vllm_pensieve.cli.options import takes
from vllm_pensieve.errors import UsageError
from vllm_pensieve.quiet import quiet_start

if TYPE_CHECKING:
    from rich.console import Console

    from vllm_pensieve.collection.collect import Recorded, Tell
    from vllm_pensieve.collection.recording import Recording
    from vllm_pensieve.workloads.clients import Clients


@dataclass(frozen=True, kw_only=True)
class CollectOptions(WorkloadOptions):
    """The options of `pensieve trace collect`."""

    max_output_tokens: Annotated[
        int, Option(min=1, help="Tokens of a reply at most; fewer where the recorded one had.")
    ] = 32
    block_tokens: Annotated[
        tuple[int, ...],
        Option(help="Tokens of a block, several with commas: one trace for each."),
    ] = (32,)
    out: Annotated[
        Path,
        Option(
            help="Folder for prefix_<workload>_b<block>_requests.jsonl and _blocks.jsonl; of `sharegpt`: "
            "prefix_metrics_sharegpt_<mode>_requests.jsonl and _blocks.jsonl."
        ),
    ] = Path("/tmp")
    simulate: Annotated[
        bool,
        Option("--simulate", help="No model: vLLM's engine with tokens made up, in seconds."),
    ] = False
    real_time: Annotated[
        bool, Option("--real-time", help="Wait for arrivals, instead of moving the clocks on.")
    ] = False
    kv_cache_gib: Annotated[float, Option(min=0.001, help="KV memory of vLLM."), *KV_GIB] = 1.0


@dataclass(frozen=True, kw_only=True)
class EventsOptions(WorkloadOptions):
    """The options of `pensieve trace events`."""

    workload: Workload = SHAREGPT
    model: Annotated[
        str, Option(help="Whose tokens count; `demo` is the built-in model's bytes.")
    ] = "demo"
    out: Annotated[
        Path | None, Option(help="File for the events; the standard output without it.")
    ] = None


@takes(CollectOptions)
def collect(options: CollectOptions) -> None:
    """Play workloads into vLLM in this process and record what their prompts share.

    Where vLLM cannot run the model with blocks of some size (on a CPU: other than
    multiples of 32 tokens), that trace is recorded without it, and the output
    says so.
    """
    from rich.console import Console

    from vllm_pensieve.collection.recording import Recording

    console = Console()
    sizes = options.block_tokens
    names = _workloads(options.workload, options.mode)
    file_names = _file_names(options.workload, options.mode, sizes)
    clients = options.clients(console)
    recordings = [
        Recording(
            workload=name,
            model=options.model,
            block_tokens=sizes[0],
            out=options.out,
            simulate=options.simulate,
            max_prompt_tokens=options.max_prompt_tokens,
            max_output_tokens=options.max_output_tokens,
            kv_cache_gib=options.kv_cache_gib,
            real_time=options.real_time,
            name=file_names.get(name, Recording.name),
        )
        for name in names
    ]
    prepare(console, os.environ)
    _print_recorded(console, _record_all(console, recordings, sizes, clients))


@takes(EventsOptions)
def events(options: EventsOptions) -> None:
    """Write down what a client would send and when: one event a line, without a server."""
    from rich.console import Console

    from vllm_pensieve.workloads.events import in_order, write_events

    clients = options.clients(Console(stderr=True))
    names = _workloads(options.workload, options.mode)
    made = in_order([event for name in names for event in clients.requests(name).events])
    if options.out is None:
        write_events(made, sys.stdout.buffer)
        return
    try:
        with options.out.open("wb") as file:
            write_events(made, file)
    except OSError as error:
        raise UsageError(f"--out {options.out}: cannot be written: {error.strerror}") from error
    print(f"{options.out}: {len(made)} events")


def prepare(console: Console, environment: MutableMapping[str, str]) -> None:
    """Set up the environment for vLLM, and report what of it does nothing."""
    from vllm_pensieve.collection.engine import prepare_recording_environment

    notes = prepare_recording_environment(environment)
    if notes:
        note(console, "; ".join(notes))


def _record_all(
    console: Console, recordings: Sequence[Recording], sizes: Sequence[int], clients: Clients
) -> list[Recorded]:
    """Record each workload at each size; what is done shows as it goes."""
    from vllm_pensieve.collection.collect import record_block_sizes
    from vllm_pensieve.collection.engine import CPU_BLOCK_MULTIPLE
    from vllm_pensieve.workloads.tokens import token_counter

    count = token_counter(recordings[0].model).count
    done: list[Recorded] = []
    with console.status("") as status:
        for recording in recordings:
            requests = clients.requests(recording.workload).events

            def begin(own: Recording, total: int = len(requests)) -> Tell:
                if own.simulate and not recordings[0].simulate:
                    note(
                        console,
                        f"{own.prefix.name}: vLLM's attention on this CPU takes blocks of {CPU_BLOCK_MULTIPLE} tokens "
                        "or multiples; recorded without the model, by vLLM's engine with tokens made up",
                    )
                return lambda served: status.update(f"{own.prefix.name}: {served} of {total}")

            done += record_block_sizes(recording, sizes, requests, count, begin, quiet_start)
    return done


def _print_recorded(console: Console, recorded: Sequence[Recorded]) -> None:
    from vllm_pensieve.tables import Table, show

    rows = [
        [
            one.recording.prefix.name.removeprefix("prefix_").removeprefix("metrics_"),
            f"{len(one.replies):,}",
            f"{one.prompt_tokens:,}",
            f"{one.cached_tokens / one.prompt_tokens:.1%}",
            f"{one.output_tokens:,}",
            f"{one.lasted_s:.1f}",
            f"{one.took_s:.1f}",
            "none" if one.recording.simulate else Path(one.recording.model).name,
        ]
        for one in sorted(recorded, key=lambda one: one.recording.prefix.name)
    ]
    headings = ("requests", "prompts", "cached", "outputs", "lasts s", "took s", "model")
    show(Table(("trace", *headings), rows, text=("model",)))
    prefixes = [one.recording.prefix for one in recorded]
    files = [path for one in recorded for path in one.recording.files()]
    few = len(prefixes) == 1
    follow = f"analyze {prefixes[0]}" if few else f"analyze-all {prefixes[0].parent}"
    written = ", ".join(map(str, files)) if few else f"{len(files)} files in {prefixes[0].parent}"
    for line in (
        "prompts, outputs: tokens; cached: share of the prompts found in the cache; lasts s: by the clients' times",
        f"written: {written}",
        f"next: pensieve trace {follow}",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _file_names(text: str, mode: str, sizes: Sequence[int]) -> dict[str, str]:
    """By workload, names of the files that are not named after it: those of `sharegpt`."""
    if SHAREGPT not in text.split(","):
        return {}
    name = f"prefix_metrics_sharegpt_{mode}"
    return {_chat(mode): name if len(sizes) == 1 else f"{name}_b{{block_tokens}}"}


def _chat(mode: str) -> str:
    from vllm_pensieve.workloads.clients import CHAT_MULTI, CHAT_SINGLE

    chats = {"single": CHAT_SINGLE, "multi": CHAT_MULTI}
    if mode not in chats:
        raise UsageError(
            f"--mode {mode!r} (PREFIX_MODE) is unknown; choose one of: {', '.join(chats)}"
        )
    return chats[mode]


def _workloads(text: str, mode: str) -> list[str]:
    from vllm_pensieve.workloads.clients import WORKLOADS

    chat = _chat(mode)
    names = text.split(",")
    names = list(WORKLOADS) if names == ["all"] else names
    names = [chat if name == SHAREGPT else name for name in names]
    for name in names:
        if name not in WORKLOADS:
            raise UsageError(
                f"unknown workload {name!r}; choose one of: {', '.join((*WORKLOADS, SHAREGPT, 'all'))}"
            )
    return list(dict.fromkeys(names))
