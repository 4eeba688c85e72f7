"""`pensieve bench kernels`: attention over scattered blocks, compared with dense attention."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vllm_pensieve.errors import UsageError

if TYPE_CHECKING:
    from vllm_pensieve.bench.kernels.cases import KernelOptions

WRONG_STATUS = 1


def kernels(
    query_len: Annotated[
        str, typer.Option(help="Comma-separated: new tokens of a request, each a query.")
    ] = "8",
    key_len: Annotated[
        str, typer.Option(help="Comma-separated: tokens before them whose KV is in the cache.")
    ] = "2048",
    batch: Annotated[int, typer.Option(min=1, help="Requests computed together.")] = 32,
    chunks: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Pieces that the KV of each request is scattered in.",
            show_default="every block by itself",
        ),
    ] = None,
    dropped_runs: Annotated[
        int,
        typer.Option(
            min=0, help="Also measure with this many dropped runs computed again; 0: none."
        ),
    ] = 2,
    dropped_len: Annotated[int, typer.Option(min=1, help="Tokens of each dropped run.")] = 32,
    block_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a block.")] = 32,
    heads: Annotated[int, typer.Option(min=1, help="Query heads.")] = 32,
    kv_heads: Annotated[int, typer.Option(min=1, help="Heads of keys and values.")] = 8,
    head_dim: Annotated[int, typer.Option(min=1, help="Head size.")] = 128,
    dtype: Annotated[
        str, typer.Option(help="Number format: bfloat16, float16 or float32.")
    ] = "bfloat16",
    iters: Annotated[
        int,
        typer.Option(min=1, help="Run everything this many times in turn; medians are reported."),
    ] = 5,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Seed of keys, values, queries and places.")] = 0,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Compare every result with dense attention in float32; exit status 1 if one is wrong.",
        ),
    ] = False,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write all numbers to this file.")
    ] = None,
) -> None:
    """Measure attention of several queries a request over KV blocks that lie anywhere in memory.

    The reference, vLLM's own kernel, FlexAttention and xformers where they are available, copying the blocks out first,
    and one query at a time, compared with dense attention over contiguous KV, the ideal.
    """
    if json is not None and not os.access(json.absolute().parent, os.W_OK):
        raise UsageError(f"--json {json}: its folder does not exist or cannot be written")
    from vllm_pensieve.bench.kernels.cases import KernelOptions
    from vllm_pensieve.cli.bench import chosen, numbers
    from vllm_pensieve.kv_shape import BYTES_BY_DTYPE

    options = KernelOptions(
        query_len=numbers("--query-len", query_len),
        key_len=numbers("--key-len", key_len),
        batch=batch,
        chunks=chunks,
        dropped_runs=dropped_runs,
        dropped_len=dropped_len,
        block_tokens=block_tokens,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        dtype=chosen("--dtype", dtype, tuple(BYTES_BY_DTYPE)),
        iters=iters,
        device=device.strip(),
        seed=seed,
        verify=verify,
    )
    _run(options, json)


def _run(options: KernelOptions, json: Path | None) -> None:
    logging.getLogger("vllm").setLevel(logging.ERROR)  # it warns of what is not used here
    from rich.console import Console

    from vllm_pensieve.bench.kernels.measure import measure_kernels, plan
    from vllm_pensieve.bench.summary import write_summary
    from vllm_pensieve.cli.kernels_view import tables, wrong_ways

    console = Console()
    console.print(plan(options)[2], highlight=False, soft_wrap=True)
    with console.status("") as status:
        result = measure_kernels(options, lambda what: status.update(what))
    for part in tables(result):
        console.print(part, highlight=False)
    if json is not None:
        write_summary(json, result)
        console.print(f"all numbers: {json}", highlight=False, soft_wrap=True)
    wrong = wrong_ways(result)
    for line in wrong:
        console.print(line, style="red", highlight=False, soft_wrap=True)
    if wrong:
        raise typer.Exit(WRONG_STATUS)
    if options.verify:
        results = sum(len(case["ways"]) for case in result["results"])
        console.print(
            f"Attention correctness check PASSED: {results} results equal dense attention",
            highlight=False,
            soft_wrap=True,
        )
