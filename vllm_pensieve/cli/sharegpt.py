"""`pensieve bench sharegpt`: conversations people had, in each way of serving."""

from __future__ import annotations

import signal
from typing import Annotated

import typer

from vllm_pensieve.bench.sharegpt import ShareGptOptions, plan_sharegpt
from vllm_pensieve.cli.benchmark_options import (
    CpuCache,
    Device,
    GpuCache,
    Model,
    Modes,
    Out,
    Repeat,
    Seed,
    ServerOptions,
    Sheet,
    Strict,
)
from vllm_pensieve.cli.compare import carry_out


def sharegpt(
    model: Model = ShareGptOptions.model,
    modes: Modes = ShareGptOptions.modes,
    dataset: Annotated[
        str,
        typer.Option(
            help="sharegpt (or sharegt), from the Hugging Face hub; another data set there (OWNER/NAME); a file of "
            "conversations (JSON, JSON lines, Parquet; also .gz and .zst); or `generated`: texts made up, as many "
            "turns and tokens as ShareGPT's on average."
        ),
    ] = ShareGptOptions.dataset,
    strict: Strict = ShareGptOptions.strict,
    num_conversations: Annotated[
        int, typer.Option(help="Conversations to replay, at most as many as there are.")
    ] = ShareGptOptions.num_conversations,
    min_turns: Annotated[
        int, typer.Option(help="Conversations with fewer turns are left out.")
    ] = ShareGptOptions.min_turns,
    max_turns: Annotated[
        int | None, typer.Option(help="Longer conversations are cut to this many turns.")
    ] = ShareGptOptions.max_turns,
    users: Annotated[
        int,
        typer.Option("--users", "--num-concurrent-users", help="Conversations at a time."),
    ] = ShareGptOptions.users,
    request_interval: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="Mean pause before each request (exponential, the same in all modes).",
        ),
    ] = ShareGptOptions.request_interval_s,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            help="Longest reply; without it MAX_NEW_TOKENS of the environment. Shorter ones are as long as "
            "the recorded ones."
        ),
    ] = None,
    gpu_cache: GpuCache = None,
    cpu_cache: CpuCache = None,
    device: Device = ShareGptOptions.device,
    repeat: Repeat = ShareGptOptions.repeat,
    seed: Seed = ShareGptOptions.seed,
    out: Out = ShareGptOptions.out,
    sheet: Sheet = None,
    server_options: ServerOptions = None,
) -> None:
    """Replay conversations that people had with a chat model, in each way of serving.

    The users' messages are the recorded ones; of the replies only the lengths
    are, since the served model answers itself.
    """
    options = ShareGptOptions(
        model=model,
        modes=modes,
        dataset=dataset,
        strict=strict,
        num_conversations=num_conversations,
        min_turns=min_turns,
        max_turns=max_turns,
        users=users,
        request_interval_s=request_interval,
        max_new_tokens=max_new_tokens,
        gpu_cache_gb=gpu_cache,
        cpu_cache_gb=cpu_cache,
        device=device,
        repeat=repeat,
        seed=seed,
        out=out,
        sheet=sheet,
        server_options=tuple(server_options or ()),
    )
    raise typer.Exit(run(options))


def run(options: ShareGptOptions) -> int:
    """Carry the benchmark out; return the exit status (1: something failed, 130: interrupted).

    Raises UsageError before anything is started for everything that cannot be done as asked.
    """
    from rich.console import Console

    from vllm_pensieve.cli.benchmark_view import dataset_line, details

    plan = plan_sharegpt(options)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    Console().print(dataset_line(plan.workload), highlight=False, soft_wrap=True)
    return carry_out(plan, details)
