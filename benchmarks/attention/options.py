"""What is measured, as it is asked for on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Option


@dataclass(frozen=True, kw_only=True)
class KernelOptions:
    """What to measure; lengths in tokens."""

    query_len: Annotated[
        tuple[int, ...], Option(help="Comma-separated: new tokens of a request, each a query.")
    ] = (8,)
    key_len: Annotated[
        tuple[int, ...],
        Option(help="Comma-separated: tokens before them whose KV is in the cache."),
    ] = (2048,)
    batch: Annotated[int, Option(min=1, help="Requests computed together.")] = 32
    chunks: Annotated[
        int | None,
        Option(
            min=1,
            help="Pieces that the KV of each request is scattered in.",
            show_default="every block by itself",
        ),
    ] = None
    dropped_runs: Annotated[
        int,
        Option(min=0, help="Also measure with this many dropped runs computed again; 0: none."),
    ] = 2
    dropped_len: Annotated[int, Option(min=1, help="Tokens of each dropped run.")] = 32
    block_tokens: Annotated[int, Option(min=1, help="Tokens of a block.")] = 32
    heads: Annotated[int, Option(min=1, help="Query heads.")] = 32
    kv_heads: Annotated[int, Option(min=1, help="Heads of keys and values.")] = 8
    head_dim: Annotated[int, Option(min=1, help="Head size.")] = 128
    dtype: Annotated[str, Option(help="Number format: bfloat16, float16 or float32.")] = "bfloat16"
    iters: Annotated[
        int, Option(min=1, help="Run everything this many times in turn; medians are reported.")
    ] = 5
    device: Annotated[str, Option(help="auto, cpu, cuda or cuda:N.")] = "auto"
    seed: Annotated[int, Option(min=0, help="Seed of keys, values, queries and places.")] = 0
    verify: Annotated[
        bool,
        Option(
            "--verify",
            help="Compare every result with dense attention in float32; exit status 1 if one is wrong.",
        ),
    ] = False
    json: Annotated[Path | None, Option(metavar="FILE", help="Write all numbers to this file.")] = (
        None
    )
