"""`pensieve trace`: its commands, and those of them that look at one trace's prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vllm_pensieve.cli.collect import collect, events
from vllm_pensieve.cli.options import check_file
from vllm_pensieve.cli.simulate import BlockTokens
from vllm_pensieve.cli.trace_caches import analyze_all, mix, policies
from vllm_pensieve.cli.trace_files import Json, Out, Strict, folder_for, tell, write_json

app = typer.Typer(
    help="Recording of traces, their summaries and figures.",
    no_args_is_help=True,
    add_completion=False,
)
app.command("collect")(collect)
app.command("events")(events)
app.command("policies")(policies)
app.command("analyze-all")(analyze_all)
app.command("mix")(mix)

Prefix = Annotated[
    Path, typer.Argument(help="PREFIX of PREFIX_requests.jsonl, or a trace file of any format.")
]


@app.command("summarize")
def summarize_trace(
    prefix: Prefix,
    json_out: Json = None,
    strict: Strict = False,
    block_tokens: BlockTokens = None,
) -> None:
    """Print how much of the prompts was found in the cache, and how often blocks are used again."""
    from vllm_pensieve.analysis.summaries import read_prefix_stats, summarize
    from vllm_pensieve.cli.trace_view import print_summaries

    check_file("--json", json_out)
    stats = read_prefix_stats(prefix, strict=strict, block_tokens=block_tokens)
    print_summaries([stats])
    if json_out:
        write_json(summarize(stats), json_out)


@app.command("analyze")
def analyze(
    prefix: Prefix,
    out: Out = None,
    json_out: Json = None,
    strict: Strict = False,
    block_tokens: BlockTokens = None,
) -> None:
    """The summary, and the distributions as figures."""
    from vllm_pensieve.analysis.summaries import read_prefix_stats, summarize
    from vllm_pensieve.analysis.summary_figures import draw_reuse_cdfs
    from vllm_pensieve.cli.trace_view import print_summaries

    check_file("--json", json_out)
    stats = read_prefix_stats(prefix, strict=strict, block_tokens=block_tokens)
    print_summaries([stats])
    if json_out:
        write_json(summarize(stats), json_out)
    tell(draw_reuse_cdfs([stats], folder_for(out, prefix.parent), stats.label))
