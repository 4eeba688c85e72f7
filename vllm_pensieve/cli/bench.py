"""`pensieve bench`: measures the plugin on this machine, one part of it or whole servers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vllm_pensieve.cli.kernels import add_kernels
from vllm_pensieve.cli.sharegpt import sharegpt as sharegpt_command
from vllm_pensieve.cli.users import users as users_command
from vllm_pensieve.workloads.errors import UsageError

if TYPE_CHECKING:
    from vllm_pensieve.bench.transfers import TransferOptions

app = typer.Typer(
    name="bench",
    help="Measure the plugin on this machine: one part of it, or whole servers under load.",
    no_args_is_help=True,
)


@app.callback()
def bench() -> None:
    """Measure the plugin on this machine: one part of it, or whole servers under load."""


add_kernels(app)
app.command("users")(users_command)
app.command("sharegpt")(sharegpt_command)


@app.command("transfers")
def transfers(
    model: Annotated[
        str,
        typer.Option(help="Whose KV is copied: `demo`, a config.json, or a folder with one."),
    ] = "demo",
    blocks: Annotated[
        str, typer.Option(help="Comma-separated: blocks of one copy.")
    ] = "1,10,100,1000",
    block_tokens: Annotated[
        str, typer.Option(help="Comma-separated: tokens of a block.")
    ] = "16,32,64",
    pattern: Annotated[
        str,
        typer.Option(help="Which blocks and slots: sequence, scattered, or both (by comma)."),
    ] = "sequence,scattered",
    repeats: Annotated[
        int, typer.Option(min=1, help="Measure everything this many times; medians are reported.")
    ] = 5,
    device: Annotated[str, typer.Option(help="Where the KV cache is: auto, cpu or cuda.")] = "auto",
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write all numbers to this file.")
    ] = None,
) -> None:
    """Measure copies of blocks between the KV cache and host memory, and how far loads hide behind computation.

    Speeds are compared with one plain copy of the same bytes in the same run. The
    memory for it is twice the largest copy on each side.
    """
    if json is not None and not os.access(json.absolute().parent, os.W_OK):
        raise UsageError(f"--json {json}: its folder does not exist or cannot be written")
    from vllm_pensieve.bench.transfers import DEVICES, PATTERNS, TransferOptions

    options = TransferOptions(
        model=model,
        blocks=numbers("--blocks", blocks),
        block_tokens=numbers("--block-tokens", block_tokens),
        repeats=repeats,
        patterns=tuple(
            dict.fromkeys(chosen("--pattern", part, PATTERNS) for part in pattern.split(","))
        ),
        device=chosen("--device", device, DEVICES),
    )
    _run_transfers(options, json)


def _run_transfers(options: TransferOptions, json: Path | None) -> None:
    from rich.console import Console

    from vllm_pensieve.bench.summary import write_summary
    from vllm_pensieve.bench.transfers import measure_transfers
    from vllm_pensieve.cli.transfers_view import tables

    console = Console()
    with console.status("") as status:
        result = measure_transfers(options, lambda what: status.update(f"measuring {what}"))
    for part in tables(result):
        console.print(part, highlight=False)
    if json is not None:
        write_summary(json, result)
        console.print(f"all numbers: {json}", highlight=False, soft_wrap=True)


def numbers(option: str, text: str) -> tuple[int, ...]:
    """Numbers above 0 from text, each once, in order. Raises UsageError if it is not that."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"{option} {text!r}: give numbers above 0, separated by commas")
    return tuple(sorted({int(part) for part in parts}))


def chosen(option: str, text: str, known: tuple[str, ...]) -> str:
    """The known name that this text is. Raises UsageError if it is none."""
    if text.strip() not in known:
        raise UsageError(f"{option} {text!r} is unknown; choose one of: {', '.join(known)}")
    return text.strip()
