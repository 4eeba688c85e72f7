"""Options of the bare command, `python -m vllm_pensieve --mode ...`: each names one of the commands and its options."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option
from typer.core import TyperGroup

from vllm_pensieve.bench.memory_options import CPU_GB, GPU_GB
from vllm_pensieve.cli.options import option_name, takes
from vllm_pensieve.cli.version import show_version
from vllm_pensieve.errors import UsageError

MODES = {
    "pensieve": "pensieve",
    "vllm": "vllm",
    "compare": "pensieve,vllm,vllm-apc",
}
"""What the benchmarks measure in each mode, in the guide's order."""

DATASET_OPTIONS = ("num_conversations", "min_turns", "max_turns")
USERS_OPTIONS = ("turns", "history_tokens", "preset")
MEASURED = ("preset", "out", "sheet")
"""Options that make a benchmark of a mode alone, which without them is a demonstration."""
GUIDE_MODEL = "meta-llama/Meta-Llama-3-8B"
REQUEST_INTERVAL_S, GPU_CACHE_GB, CPU_CACHE_GB = 0.5, 40, 100
SERVER_OPTIONS = "pensieve.server_options"
"""Where the words after `--` are kept in the context."""


@dataclass(frozen=True, kw_only=True)
class GuideOptions:
    """The options of the bare command, named as in those of the commands they stand for; None: not given."""

    mode: Annotated[
        str | None, Option(help="pensieve (the default), vllm, or compare (both, and vllm-apc).")
    ] = None
    model: Annotated[
        str | None,
        Option(
            help=f"Model name or folder (default: {GUIDE_MODEL} where it is available, else `demo`)."
        ),
    ] = None
    interactive: Annotated[bool, Option("--interactive", help="`pensieve chat`.")] = False
    users: Annotated[
        int | None,
        Option(
            "--num-concurrent-users",
            min=1,
            help="Users of `pensieve bench users`, a third each hot, warm, cold (default: 1).",
        ),
    ] = None
    request_interval_s: Annotated[
        float | None,
        Option(
            "--request-interval",
            min=0,
            help="Seconds between a reply and the next request (default: 0.5).",
        ),
    ] = None
    turns: Annotated[int | None, Option(min=1, help="Turns of a conversation (default: 10).")] = (
        None
    )
    history_tokens: Annotated[
        int | None, Option(min=0, help="Text pasted into the first turn (default: 1500 tokens).")
    ] = None
    preset: Annotated[
        str | None, Option(help="Values that are not given: guide (default), fast, stress.")
    ] = None
    dataset: Annotated[
        str | None,
        Option(help="`pensieve bench sharegpt`: sharegpt, a file, or a name on the hub."),
    ] = None
    num_conversations: Annotated[
        int | None, Option(min=1, help="Conversations taken from the data set.")
    ] = None
    min_turns: Annotated[
        int | None, Option(min=1, help="Conversations with fewer turns are left out.")
    ] = None
    max_turns: Annotated[int | None, Option(min=1, help="Longer conversations are cut.")] = None
    gpu_cache_gb: Annotated[
        float | None,
        Option("--gpu-cache", metavar="GB", help="Memory for KV blocks, in 10^9 bytes."),
        *GPU_GB,
    ] = None
    cpu_cache_gb: Annotated[
        float | None,
        Option("--cpu-cache", metavar="GB", help="Host memory for blocks that leave it."),
        *CPU_GB,
    ] = None
    max_new_tokens: Annotated[
        int | None,
        Option(min=1, help="Length of a reply at most (or $MAX_NEW_TOKENS; default: 32)."),
    ] = None
    device: Annotated[str | None, Option(help="auto, cpu, cuda or cuda:N (default: auto).")] = None
    out: Annotated[Path | None, Option(help="Folder for the results of a benchmark.")] = None
    sheet: Annotated[
        Path | None,
        Option(metavar="FILE.md", help="Write the results as a measurement sheet, too."),
    ] = None
    version: Annotated[
        bool,
        Option(
            "--version",
            is_eager=True,
            callback=show_version,
            help="Versions of this package, vLLM and torch.",
        ),
    ] = False


class BareCommand(TyperGroup):
    """Commands, and options that stand without one; what follows a `--` without a command is for vLLM."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep the words after `--` in the context unless they are a command's."""
        if "--" in args:
            own = args[: args.index("--")]
            _, words, _ = self.make_parser(ctx).parse_args(list(own))
            if not words:
                ctx.meta[SERVER_OPTIONS] = args[len(own) + 1 :]
                args = own
        rest: list[str] = super().parse_args(ctx, args)
        return rest


@takes(GuideOptions)
def guide(options: GuideOptions, context: typer.Context) -> int:
    """Serve conversations with vLLM: keep a conversation's KV between its turns, and measure what that gains.

    The options below are for use without a command: they start a chat
    (--interactive), show sessions and what the cache does for them (--mode
    pensieve or vllm), or run a benchmark of users or of a data set. What follows
    -- is for vLLM.
    """
    given = {
        name: value
        for name, value in vars(options).items()
        if value is not None and value is not False
    }
    if context.invoked_subcommand is not None:
        if given:
            raise UsageError(
                f"{_option(next(iter(given)))} comes before the command {context.invoked_subcommand}; "
                "put options after the command, or leave the command out"
            )
        return 0
    if not given:
        _say("`pensieve --help` lists all options and commands")
    server_options = tuple(context.meta.get(SERVER_OPTIONS, ()))
    if "model" not in given:
        given["model"] = _default_model()
    if options.interactive:
        return _chat(given, server_options)
    return _bench(given, server_options)


def _default_model() -> str:
    """The guide's where there is a GPU or its folder, and it is available; else the demo model. Says which."""
    from vllm_pensieve.machine import is_cpu_build
    from vllm_pensieve.models import config_path

    why = "needs a GPU"
    if Path(GUIDE_MODEL).is_dir() or not is_cpu_build():
        try:
            config_path(GUIDE_MODEL)
        except OSError:
            why = "is not available here"
        else:
            return GUIDE_MODEL
    _say(
        f"model: demo, since the guide's default, {GUIDE_MODEL}, {why}; choose another with --model"
    )
    return "demo"


def _chat(given: dict[str, Any], server_options: tuple[str, ...]) -> int:
    from vllm_pensieve.bench.fit import fit_memory, machine_room
    from vllm_pensieve.cli.chat import ChatOptions, run

    del given["interactive"]
    for name in given:
        if name not in ChatOptions.__dataclass_fields__:
            raise UsageError(f"{_option(name)} is for a benchmark; leave it out, or --interactive")
    options = ChatOptions(**given, vllm_options=server_options)
    if options.mode == "compare":
        raise UsageError("--mode compare measures; --interactive takes --mode pensieve or vllm")
    sizes = given.get("gpu_cache_gb"), given.get("cpu_cache_gb")
    if any(size and size > 0 for size in sizes):
        fitted = fit_memory(*sizes, True, machine_room(options.model, server_options))
        for note in fitted.notes:
            _say(note)
        options = replace(
            options,
            gpu_cache_gb=fitted.gpu_cache_gb,
            cpu_cache_gb=fitted.cpu_cache_gb or 0.0,
        )
    run(options)
    return 0


def _bench(given: dict[str, Any], server_options: tuple[str, ...]) -> int:
    # The guide's lines with a data set name no mode and expect what both modes gave.
    mode = given.pop("mode", "compare" if "dataset" in given else "pensieve")
    if mode not in MODES:
        raise UsageError(f"unknown --mode {mode!r}; choose one of: {', '.join(MODES)}")
    if "gpu_cache_gb" not in given and "cpu_cache_gb" not in given:
        _say(
            "memory: a part of what these conversations need, so that something has to leave it; "
            f"the guide's sizes are --gpu-cache {GPU_CACHE_GB} --cpu-cache {CPU_CACHE_GB}"
        )
    given = {"users": 1} | given | {"modes": MODES[mode], "server_options": server_options}
    if "dataset" in given:
        return _dataset(given)
    for name in DATASET_OPTIONS:
        if name in given:
            raise UsageError(f"{_option(name)} is for a data set; name one with --dataset")
    from vllm_pensieve.bench.users import UsersOptions
    from vllm_pensieve.cli import guide_demonstration, users

    alone = mode != "compare" and given["users"] == 1
    options = UsersOptions(**{"preset": "guide"} | given)
    if alone and not any(name in given for name in MEASURED):
        return guide_demonstration.run(options)
    return users.run(options)


def _dataset(given: dict[str, Any]) -> int:
    from vllm_pensieve.bench.sharegpt import ShareGptOptions
    from vllm_pensieve.cli import sharegpt

    for name in USERS_OPTIONS:
        if name in given:
            raise UsageError(
                f"{_option(name)} is for generated conversations; a data set has its own, see --max-turns"
            )
    given = {"request_interval_s": REQUEST_INTERVAL_S, "generated_otherwise": True} | given
    return sharegpt.run(ShareGptOptions(**given))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _option(name: str) -> str:
    return option_name(GuideOptions, name)
