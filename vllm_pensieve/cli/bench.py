"""`pensieve bench`: measures the plugin on this machine, one part of it or whole servers."""

from __future__ import annotations

import typer

from vllm_pensieve.bench.transfer_options import TransferOptions
from vllm_pensieve.cli.kernels import add_kernels
from vllm_pensieve.cli.options import check_file, takes
from vllm_pensieve.cli.sharegpt import sharegpt as sharegpt_command
from vllm_pensieve.cli.users import users as users_command
from vllm_pensieve.tables import show

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
@takes(TransferOptions)
def transfers(options: TransferOptions) -> None:
    """Measure copies of blocks between the KV cache and host memory, and how far loads hide behind computation.

    Speeds are compared with one plain copy of the same bytes in the same run. The
    memory for it is twice the largest copy on each side.
    """
    check_file("--json", options.json)
    from rich.console import Console

    from vllm_pensieve.bench.summary import write_summary
    from vllm_pensieve.bench.transfers import measure_transfers
    from vllm_pensieve.cli.transfers_view import tables

    console = Console()
    with console.status("") as status:
        result = measure_transfers(options, lambda what: status.update(f"measuring {what}"))
    for part in tables(result):
        show(part)
    if options.json is not None:
        write_summary(options.json, result)
        console.print(f"all numbers: {options.json}", highlight=False, soft_wrap=True)
