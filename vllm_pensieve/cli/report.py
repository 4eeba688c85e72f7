"""`pensieve report`: one page about a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vllm_pensieve.cli.options import check_file
from vllm_pensieve.cli.simulate import (
    BlockTokens,
    BytesPerToken,
    Model,
    bytes_per_block,
)


def report(
    prefix: Annotated[
        Path, typer.Argument(help="PREFIX of PREFIX_requests.jsonl, or a trace of any format.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The page to write.")] = Path(
        "report.html"
    ),
    model: Model = None,
    bytes_per_token: BytesPerToken = None,
    block_tokens: BlockTokens = None,
    strict: Annotated[bool, typer.Option(help="Stop at the first bad line.")] = False,
) -> None:
    """Write a self-contained page: what was served, reuse, and what other caches would have hit."""
    from vllm_pensieve.analysis.report import build_report
    from vllm_pensieve.analysis.summaries import read_prefix_stats

    check_file("--out", out)
    stats = read_prefix_stats(prefix, strict=strict, block_tokens=block_tokens)
    page = build_report(stats, bytes_per_block(stats.trace, model, bytes_per_token))
    out.write_text(page, encoding="utf-8")
    print(f"{out}: written")
