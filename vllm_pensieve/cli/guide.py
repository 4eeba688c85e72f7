"""Options of the bare command, `python -m vllm_pensieve --mode ...`: each names one of the commands and its options."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vllm_pensieve.workloads.errors import UsageError

MODES = {
    "pensieve": "pensieve",
    "vllm": "vllm",
    "compare": "vllm,vllm-apc,pensieve",
}
"""What the benchmarks measure in each mode."""

DATASET_OPTIONS = ("num_conversations", "min_turns", "max_turns")


def guide(
    context: typer.Context,
    mode: Annotated[
        str | None, typer.Option(help="pensieve, vllm, or compare (both, and vllm-apc).")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model name or folder (default: the built-in `demo`).")
    ] = None,
    interactive: Annotated[bool, typer.Option("--interactive", help="`pensieve chat`.")] = False,
    num_concurrent_users: Annotated[
        int | None,
        typer.Option(min=1, help="`pensieve bench users`: so many, a third each hot, warm, cold."),
    ] = None,
    request_interval: Annotated[
        float | None, typer.Option(min=0, help="Seconds between a reply and the next request.")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="`pensieve bench sharegpt`: sharegpt, a file, or a name on the hub."),
    ] = None,
    num_conversations: Annotated[
        int | None, typer.Option(min=1, help="Conversations taken from the data set.")
    ] = None,
    min_turns: Annotated[
        int | None, typer.Option(min=1, help="Conversations with fewer turns are left out.")
    ] = None,
    max_turns: Annotated[
        int | None, typer.Option(min=1, help="Longer conversations are cut.")
    ] = None,
    gpu_cache: Annotated[
        float | None, typer.Option(metavar="GB", help="Memory for KV blocks, in 10^9 bytes.")
    ] = None,
    cpu_cache: Annotated[
        float | None, typer.Option(metavar="GB", help="Host memory for blocks that leave it.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Length of a reply at most (or $MAX_NEW_TOKENS).")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda or cuda:N (default: auto).")
    ] = None,
) -> None:
    """Serve conversations with vLLM: keep a conversation's KV between its turns, and measure what that gains.

    The options below stand without a command: they chat (--interactive) or run a benchmark, of users or of a data set.
    """
    given = {
        name: value
        for name, value in context.params.items()
        if value is not None and value is not False
    }
    if context.invoked_subcommand is not None:
        if given:
            raise UsageError(
                f"{_option(next(iter(given)))} stands before the command {context.invoked_subcommand}; "
                "put options behind the command, or leave the command out"
            )
        return
    if not given:
        print(context.get_help())
        raise typer.Exit
    if interactive:
        _chat(given)
    else:
        _bench(given)


def _chat(given: dict[str, Any]) -> None:
    from vllm_pensieve.cli.chat import run

    asked = {
        "mode": given.pop("mode", "pensieve"),
        "model": given.pop("model", "demo"),
        "device": given.pop("device", "auto"),
    }
    del given["interactive"]
    names = {
        "gpu_cache": "gpu_cache_gb",
        "cpu_cache": "cpu_cache_gb",
        "max_new_tokens": "max_new_tokens",
    }
    asked |= {name: given.pop(key) for key, name in names.items() if key in given}
    if given:
        raise UsageError(
            f"{_option(next(iter(given)))} is for a benchmark; leave it out, or --interactive"
        )
    if asked["mode"] == "compare":
        raise UsageError("--mode compare measures; --interactive takes --mode pensieve or vllm")
    run(**asked)


def _bench(given: dict[str, Any]) -> None:
    mode = given.pop("mode", "compare")
    if mode not in MODES:
        raise UsageError(f"unknown --mode {mode!r}; there are: {', '.join(MODES)}")
    given["modes"] = MODES[mode]
    if "num_concurrent_users" in given:
        given["users"] = given.pop("num_concurrent_users")
    if "dataset" in given:
        from vllm_pensieve.cli.sharegpt import sharegpt

        sharegpt(**given)
    for name in DATASET_OPTIONS:
        if name in given:
            raise UsageError(f"{_option(name)} is for a data set; name one with --dataset")
    from vllm_pensieve.cli.users import users as bench_users

    bench_users(**{"users": 1} | given)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
